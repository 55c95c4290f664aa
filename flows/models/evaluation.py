"""Every way of filling against a known truth, by kind of pixel: what a model beats, and what beats it.

The cases come first, then fillers and measures, then the calibration of intervals on the same cases.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.calibration import CalibrationTable, Origin, calibration_of, conformal_factor
from de_model.card import ModelCard
from de_model.data.variation import transplant
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore
from de_model.inference.tiles import Part
from de_model.metrics.baselines import (
    Interpolated,
    blurred,
    interpolated,
    linear_match,
    mean_of_dates,
    nearest_date,
)
from de_model.validation import (
    Filler,
    KindCode,
    kinds_of_gaps,
)
from flows.errors import InvalidSettings
from flows.models.evaluation_figures import CaseResult, Coverage, ErrorSums, Evaluation, error_sums
from flows.planning.search import cloudy_and_clear, fullest_window
from flows.processing.model import in_products
from flows.processing.restore import Prepared, composite_of, intervals_of, inverse_distance, prepare
from flows.progress import report_progress
from flows.settings.restoring import RestorationOptions
from stac.composite.methods import CompositeMethod
from stac.composite.normalisation import repeatability
from stac.composite.temporal import TemporalComposite, source_dates
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.product.layers import ModelResult, ProductLayers, assemble, best_known, unseen
from stac.product.preview import visual
from stac.reflectance import to_product_dn, to_reflectance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
#: How the model of a card restores a case.
Usage = Callable[[ModelCard], RestorationOptions]

#: Real and transplanted clouds, each alone and with the other dates.
_CASES_OF_A_PAIR = 4
#: What a window adds to the id of its cell.
_WINDOW_OF = re.compile(r"(-r\d+c\d+h\d+w\d+)+$")
#: Side of the pictures, pixels.
_PICTURE_PX = 128
#: Weight of what lies outside of a 90 % interval in its score: 2 / (1 - 0.9).
_MISS = 20.0
#: What other dates can fill.
OF_DATES = (Filler.NEAREST_DATE, Filler.LINEAR_MATCH, Filler.MEAN_LINEAR_MATCHES, Filler.COMPOSITE)
#: Scores kept of a case: every case counts alike, however many pixels it hides.
_MOST_SCORES = 4000


@unique
class Protocol(StrEnum):
    """How the truth is known."""

    TRANSPLANTED = "transplanted clouds"
    REAL_PAIRS = "real pairs"


@dataclass(frozen=True, slots=True)
class Case:
    """One date to restore; its truth is in none of the dates of the stack."""

    protocol: Protocol
    #: Day (`2023-08-18`) of the clouds and of the truth.
    clouds: str
    truth_day: str
    stack: Stack
    target: int
    #: Reflectance `(band, y, x)`.
    truth: FloatArray
    #: `(y, x)`, pixels that are scored: hidden on the target, seen on the truth date.
    where: BoolArray

    @property
    def place(self) -> str:
        """Grid cell that the case is part of."""
        return _WINDOW_OF.sub("", self.stack.cell.id)

    def alone(self, side: int) -> Case:
        """Return the case without other dates, in a window of `side` pixels with hidden ground beside clear one."""
        at = fullest_window(self.where, side, is_observed(self.stack.classes[self.target]))
        kept = self.stack.item_ids[self.target]
        stack = self.stack.without([item for item in self.stack.item_ids if item != kept]).window(*at)
        return replace(self, stack=stack, target=0, truth=self.truth[:, *at], where=self.where[at])

    @property
    def name(self) -> str:
        """The case in one line."""
        sources = "" if len(self.stack.days) > 1 else ", no other date"
        if self.protocol is Protocol.TRANSPLANTED:
            return f"clouds of {self.clouds} on {self.truth_day}{sources}"
        return f"{self.clouds} against {self.truth_day}{sources}"


def day_of(stack: Stack, index: int) -> str:
    """Return the day of a date, `2023-08-18`."""
    return str(np.datetime64(int(stack.days[index]), "D"))


def transplanted_cases(stack: Stack, cloudy: Sequence[int], clear: Sequence[int]) -> Iterator[Case]:
    """Yield every cloudy date's clouds on every clear date, restored from all other dates.

    Outside the clouds the target is what the clear date saw, bit for bit; under them its own pixels are replaced
    by what the transplanted clouds show.
    """
    for truth in clear:
        for clouds in cloudy:
            covered = _clouded(stack, clouds, truth)
            where = is_hidden(stack.classes[clouds]) & is_observed(stack.classes[truth])
            days = day_of(stack, clouds), day_of(stack, truth)
            yield Case(Protocol.TRANSPLANTED, *days, covered, truth, stack.reflectance(truth), where)


def real_cases(stack: Stack, cloudy: Sequence[int], clear: Sequence[int]) -> Iterator[Case]:
    """Yield every cloudy date against every clear date, which is taken out of the stack first."""
    for target in cloudy:
        for truth in clear:
            rest = stack.without([stack.item_ids[truth]])
            where = is_hidden(stack.classes[target]) & is_observed(stack.classes[truth])
            days = day_of(stack, target), day_of(stack, truth)
            index = rest.index_of(stack.item_ids[target])
            yield Case(Protocol.REAL_PAIRS, *days, rest, index, stack.reflectance(truth), where)


def cases_of(stacks: Iterable[Stack], side: int) -> Iterator[Case]:
    """Yield the cases that a model is evaluated on: real pairs and transplanted clouds, each alone and with all dates.

    Args:
        stacks: cells with all their dates.
        side: of the window that is restored where no other date helps, pixels.
    """
    for stack in stacks:
        dates = cloudy_and_clear(stack)
        for pair in zip_longest(real_cases(stack, *dates), transplanted_cases(stack, *dates)):
            for case in pair:
                if case is not None and case.where.any():
                    yield case.alone(side)
                    yield case


def every_second_pair(cases: Iterable[Case], *, later: bool) -> Iterator[Case]:
    """Yield the cases of `cases_of` of every second pair of dates: the first, third and so on, or the `later` ones.

    What is fitted on the ones is judged by the others.
    """
    for number, case in enumerate(cases):
        if number // _CASES_OF_A_PAIR % 2 == later:
            yield case


def _clouded(stack: Stack, clouds: int, truth: int) -> Stack:
    """Return the stack with the clouds of one date over another."""
    mask = stack.classes[clouds]
    cloud, shadow = np.isin(mask, (PixelClass.CLOUD, PixelClass.THIN_CLOUD)), mask == PixelClass.SHADOW
    light = transplant(stack.reflectance(clouds), cloud, stack.reflectance(truth), shadow)
    moved = is_hidden(mask) & np.isfinite(light).all(axis=0)
    dn, classes = stack.dn.copy(), stack.classes.copy()
    dn[truth][:, moved] = np.maximum(to_product_dn(light[:, moved]), 1)
    classes[truth][moved] = mask[moved]
    return replace(stack, dn=dn, classes=classes)


@dataclass(frozen=True, slots=True)
class Filled:
    """What every filler makes of one case."""

    case: Case
    composite: TemporalComposite | None
    #: `KindCode` of every hidden pixel `(y, x)`, 0 elsewhere.
    kinds: NDArray[np.uint8]
    #: Reflectance `(band, y, x)`, of value on the kinds a filler applies to.
    images: Mapping[Filler, FloatArray]
    #: What the model answered, and the ground around; None where no pixel needed them.
    answer: Restoration | None
    around: Interpolated | None
    #: In the model.
    seconds: float


def evaluate(weights: Path, cases: Iterable[Case], usage: Usage) -> Evaluation:
    """Return how a model, with the calibration beside its weights, and every trivial filler do.

    Raises:
        InvalidSettings: there is no case, or its bands are not the model's.
        InvalidCheckpoint: the file is not a model, or the calibration belongs to other weights.
    """
    enhancer = checkpoint.load(weights)
    options = replace(usage(enhancer.card), intervals=intervals_of(calibration_of(weights)))
    digest, results = hashlib.sha256(), []
    for number, case in enumerate(cases):
        report_progress(f"{weights.name}: case {number + 1}, {case.name}")
        digest.update(case.stack.dn.tobytes() + case.truth.tobytes())
        results.append(measure(fill_case(case, enhancer, options), options))
    if not results:
        raise InvalidSettings(
            "There is no case to evaluate on: no date is cloudy in part with a clear one beside it; widen the interval."
        )
    size = weights.stat().st_size
    return Evaluation(checkpoint.sha256_of(weights), enhancer.card.bands, size, tuple(results), digest.hexdigest())


def fill_case(case: Case, enhancer: Enhancer, options: RestorationOptions) -> Filled:
    """Return what every filler makes of a case.

    Raises:
        InvalidSettings: the case has other bands than the model.
    """
    stack, target = case.stack, case.target
    if stack.bands != enhancer.card.bands:
        raise InvalidSettings(f"The model restores {enhancer.card.bands}, the case {case.name} has {stack.bands}.")
    sampling, alone = options.sampling, len(stack.days) == 1
    wanted = replace(options, composite=CompositeMethod.NONE if alone else options.composite)
    prepared = prepare(stack, target, stack.cell, wanted)
    composite = composite_of(stack, prepared)
    needed, scene = unseen(stack, target, composite), best_known(stack, target, composite)
    known = np.isfinite(scene).all(axis=0) & ~needed
    thin = np.isin(stack.classes[target], (PixelClass.THIN_CLOUD, PixelClass.SHADOW))
    kinds = kinds_of_gaps(needed, thin, known, clear_ground=prepared.clear_ground)
    images: dict[Filler, FloatArray] = {}
    if composite is not None:
        kinds[(composite.source >= 0) & ~is_observed(stack.classes[target])] = KindCode.OTHER_DATES
        images = {**_from_dates(stack, target, wanted), Filler.COMPOSITE: composite.reflectance}
    answer, around, seconds = None, None, 0.0
    if (needed & case.where).any():
        if prepared.clear_ground:
            around = interpolated(scene, known, prepared.fill)
            images |= _from_ground(scene, known, around, prepared)
        part, began = Part(needed.shape, (0, 0), prepared.fill), time.monotonic()
        answer = restore(enhancer, scene, needed, sampling, origin=stack.cell.origin, part=part, gsd_m=stack.cell.gsd_m)
        seconds = time.monotonic() - began
        # Beside the gap the blur sees the scene, as a product would show it.
        joined = np.where(needed, answer.reference, np.where(known, scene, answer.reference))
        images |= {
            Filler.BLURRED_REFERENCE: blurred(np.nan_to_num(joined)),
            Filler.REFERENCE: answer.reference,
            Filler.DE: answer.image,
        }
    return Filled(case, composite, kinds, images, answer, around, seconds)


def _from_ground(
    scene: FloatArray, known: BoolArray, around: Interpolated, prepared: Prepared
) -> dict[Filler, FloatArray]:
    colour = np.array(prepared.fill, np.float32)[:, None, None]
    return {
        Filler.FLAT: np.broadcast_to(colour, scene.shape),
        Filler.NORMALISED_CONVOLUTION: around.image,
        Filler.FILLNODATA: inverse_distance(scene, known, prepared.fill),
    }


def _from_dates(stack: Stack, target: int, options: RestorationOptions) -> dict[Filler, FloatArray]:
    """Return what simple use of the other dates makes of the target."""
    others = source_dates(stack, target, max_days=options.composite_days)
    if not others:
        return {}
    clear, image = is_observed(stack.classes[target]), stack.reflectance(target)
    images = [stack.reflectance(i) for i in others]
    seen = [is_observed(stack.classes[i]) for i in others]
    matched = [linear_match(each, image, clear & there) for each, there in zip(images, seen, strict=True)]
    return {
        Filler.NEAREST_DATE: nearest_date(images, seen),
        Filler.LINEAR_MATCH: nearest_date(matched, seen),
        Filler.MEAN_LINEAR_MATCHES: mean_of_dates(matched, seen),
    }


def measure(filled: Filled, options: RestorationOptions) -> CaseResult:
    """Return the errors of every filler, and how the intervals of every origin hold the truth."""
    case, bands = filled.case, filled.case.stack.bands
    gaps = {f: image for f, image in filled.images.items() if f not in OF_DATES}
    of_kind = {
        code: {f: filled.images[f] for f in OF_DATES if f in filled.images} if code is KindCode.OTHER_DATES else gaps
        for code in KindCode
    }
    errors = {code.kind: _errors(case, images, filled.kinds == code, bands) for code, images in of_kind.items()}
    hidden = (filled.kinds != 0) & (filled.kinds != KindCode.OTHER_DATES)
    coverage, changed = _covered(filled, options)
    return CaseResult(
        name=case.name,
        place=case.place,
        errors={kind: found for kind, found in errors.items() if found},
        gaps=_errors(case, gaps, hidden, bands),
        coverage=coverage,
        changed_pixels=changed,
        seconds=filled.seconds,
        picture=_picture(filled),
    )


def _picture(filled: Filled) -> NDArray[np.uint8] | None:
    case = filled.case
    if filled.answer is None:
        return None
    at = fullest_window(case.where & (filled.kinds != 0), _PICTURE_PX)
    parts = (image[:, *at] for image in (case.stack.reflectance(case.target), filled.answer.image, case.truth))
    return np.concatenate([visual(to_product_dn(part), case.stack.bands) for part in parts], axis=2)


def _errors(
    case: Case, images: Mapping[Filler, FloatArray], where: BoolArray, bands: tuple[str, ...]
) -> dict[Filler, ErrorSums]:
    scored = case.where & where & np.isfinite(case.truth).all(axis=0)
    for image in images.values():
        scored &= np.isfinite(image).all(axis=0)
    if not images or not scored.any():
        return {}
    return {filler: error_sums(image, case.truth, scored, bands) for filler, image in images.items()}


def _covered(filled: Filled, options: RestorationOptions) -> tuple[dict[Origin, Coverage], int]:
    """Return the coverage by origin, and the observed pixels that a product would change."""
    case, found = filled.case, dict[Origin, Coverage]()
    observed = is_observed(case.stack.classes[case.target])
    shape = observed.shape
    gap = (filled.kinds != 0) & (filled.kinds != KindCode.OTHER_DATES)
    empty = ModelResult(
        np.full(case.truth.shape, np.nan, np.float32), np.ones(shape, np.float32), np.zeros_like(case.truth)
    )
    fills = {Origin.OTHER_DATES: (empty, filled.kinds == KindCode.OTHER_DATES)}
    if filled.answer is not None:
        made = filled.answer
        fills[Origin.MODEL] = (ModelResult(made.image, made.reference_weight, made.spread), gap)
    if filled.around is not None:
        smooth = filled.around
        fills[Origin.SURROUNDINGS] = (
            ModelResult(smooth.image, empty.reference_weight, smooth.spread, np.ones(shape, bool)), gap
        )  # fmt: skip
    changed = 0
    for origin, (result, where) in fills.items():
        layers = assemble(case.stack, case.target, filled.composite, result, intervals=options.intervals)
        changed = max(changed, int((layers.data != case.stack.dn[case.target]).any(axis=0)[observed].sum()))
        covered = _coverage(layers, case, where)
        if covered.values:
            found[origin] = covered
    return found, changed


def _coverage(layers: ProductLayers, case: Case, where: BoolArray) -> Coverage:
    scored = case.where & where & (layers.data > 0).all(axis=0)
    error = np.abs(to_reflectance(layers.data) - case.truth)[:, scored].astype(np.float64)
    half = layers.uncertainty[:, scored].astype(np.float64)
    known = np.isfinite(error) & np.isfinite(half)
    error, half = error[known], half[known]
    score = 2 * half + _MISS * np.maximum(error - half, 0)
    return Coverage(int((error <= half).sum()), error.size, float(score.sum()))


def fit_calibration(
    weights: Path, cases: Sequence[Case], fitted_on: str, known: CalibrationTable | None = None
) -> CalibrationTable:
    """Return the factors per band that make intervals of products hold the truth in 90 % of the values of the cases.

    Args:
        weights: the model.
        cases: of `cases_of`: with other dates and alone, on ground that nothing is trained on or judged by.
        fitted_on: the cases, for people.
        known: a table whose factors are taken over for origins that no case has.

    Raises:
        InvalidSettings: the cases hide no pixel.
    """
    enhancer = checkpoint.load(weights)
    options = in_products(enhancer.card)
    scores: dict[Origin, list[FloatArray]] = {origin: [] for origin in Origin}
    for done, case in enumerate(cases):
        report_progress("calibrating", done, len(cases))
        for origin, found in _scores(fill_case(case, enhancer, options)).items():
            scores[origin].append(found)
    joined = {origin: np.concatenate(found, axis=1) for origin, found in scores.items() if found}
    factors = {} if known is None else dict(known.factors)
    factors |= {
        origin: tuple(conformal_factor(band) for band in found) for origin, found in joined.items() if found.size
    }
    missing = [str(origin) for origin in Origin if origin not in factors]
    if missing:
        raise InvalidSettings(
            f"The cases hide no pixel from {missing[0]} that could be calibrated; name cloudier dates with --datetime."
        )
    return CalibrationTable(checkpoint.sha256_of(weights), enhancer.card.bands, factors, fitted_on)


def _scores(filled: Filled) -> dict[Origin, FloatArray]:
    """Return |estimate - truth| / standard deviation by origin, `(band, pixel)`."""
    case, dates = filled.case, filled.kinds == KindCode.OTHER_DATES
    gap = (filled.kinds != 0) & ~dates
    found: dict[Origin, FloatArray] = {}
    if filled.composite is not None:
        found[Origin.OTHER_DATES] = _some(filled.composite.reflectance, filled.composite.spread, case, dates)
    if filled.answer is not None:
        scale = np.hypot(filled.answer.spread, repeatability(filled.answer.image))
        found[Origin.MODEL] = _some(filled.answer.image, scale, case, gap)
    if filled.around is not None:
        scale = np.hypot(filled.around.spread, repeatability(filled.around.image))
        found[Origin.SURROUNDINGS] = _some(filled.around.image, scale, case, gap)
    return found


def _some(image: FloatArray, scale: FloatArray, case: Case, where: NDArray[np.bool_]) -> FloatArray:
    """Return the scores of at most so many pixels, spread evenly."""
    at = where & case.where & np.isfinite(image).all(axis=0) & np.isfinite(case.truth).all(axis=0)
    scores: FloatArray = np.abs(image - case.truth)[:, at] / scale[:, at]
    return scores[:, :: max(1, scores.shape[1] // _MOST_SCORES)]
