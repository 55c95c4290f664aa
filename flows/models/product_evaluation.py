"""Every way to fill clouds against a known truth, by pixel class: the figures behind docs/results/product.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from functools import partial

import numpy as np
from numpy.typing import NDArray

from de_model.enhancer import Enhancer
from de_model.inference.engine import restore
from de_model.inference.sampling import Sampling
from flows.models.error_sums import ErrorSums, error_sums
from flows.models.evaluation_cases import Case, Protocol
from flows.restoration import restore_date
from flows.restoration_options import RestorationOptions
from stac.assembly import ModelResult, assemble
from stac.composite import TemporalPrior, geomedian_clear, median_clear, nearest_clear
from stac.layers import ProductLayers
from stac.masks.classes import PixelClass, is_obscured
from stac.reflectance import to_reflectance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Advance = Callable[[str, int, int], None]

#: Side of the window that the model restores in each case, pixels; the whole cell would take an hour.
_WINDOW = 128


@unique
class Candidate(StrEnum):
    """What is compared."""

    COPY = "nearest clear date, copied"
    LINEAR = "nearest clear date, linear match"
    MEDIAN = "median of other dates"
    GEOMEDIAN = "geomedian of other dates"
    PRODUCT = "product"
    REFERENCE = "reference network alone"
    DE = "DE alone"
    DE_ON_PRIOR = "DE with the prior as its reference"


#: Candidates that need the model.
OF_MODEL = (Candidate.REFERENCE, Candidate.DE, Candidate.DE_ON_PRIOR)
_CLASSES = {"cloud": PixelClass.CLOUD, "thin cloud": PixelClass.THIN_CLOUD, "shadow": PixelClass.SHADOW}


@dataclass(frozen=True, slots=True)
class Coverage:
    """Values inside their 90 % interval, and values in all: pixels times bands."""

    inside: int
    total: int


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """What was found in one case."""

    case: str
    protocol: Protocol
    gap: int
    alone: bool
    #: By candidate and pixel class; every pixel is one that all candidates fill.
    whole: Mapping[Candidate, Mapping[str, ErrorSums]]
    #: The same, with the model's candidates, in one window; empty where it did not run.
    window: Mapping[Candidate, Mapping[str, ErrorSums]]
    #: Coverage by origin: pixels from other dates, and from the model.
    coverage: Mapping[str, Coverage]


def evaluate_cases(
    cases: Sequence[Case], enhancer: Enhancer, options: RestorationOptions, single: Sampling, tell: Advance
) -> Iterator[CaseFigures]:
    """Yield the figures of every case.

    The product is scored where other dates fill it; there no pixel depends on the model. The model's candidates run
    in the window with the most scored pixels, in cases with all dates as source.

    Args:
        cases: what to restore.
        enhancer: the model.
        options: how the product is made.
        single: how the model restores whole clouds.
        tell: told of progress.
    """
    for done, case in enumerate(cases):
        tell("cases", done, len(cases))
        layers = restore_date(case.stack, case.target, enhancer, replace(options, use_model=False)).layers
        images = _temporal(case, options) | {Candidate.PRODUCT: to_reflectance(layers.data)}
        where = _filled(case.where, images)
        coverage = {"other dates": _covered(to_reflectance(layers.data), layers.uncertainty, case.truth, where)}
        window: Mapping[Candidate, Mapping[str, ErrorSums]] = {}
        if case.donors == "all" and where.any():
            window, coverage["model"] = _in_window(case, images, where, enhancer, options, single)
        yield CaseFigures(
            case.name, case.protocol, case.gap, case.donors != "all", _by_class(case, images, where), window, coverage
        )
    tell("cases", len(cases), len(cases))


def _temporal(case: Case, options: RestorationOptions) -> dict[Candidate, FloatArray]:
    makers: dict[Candidate, Callable[..., TemporalPrior]] = {
        Candidate.COPY: partial(nearest_clear, harmonised=False),
        Candidate.LINEAR: nearest_clear,
        Candidate.MEDIAN: median_clear,
        Candidate.GEOMEDIAN: geomedian_clear,
    }
    days = options.prior_days
    return {name: make(case.stack, case.target, max_days=days).reflectance for name, make in makers.items()}


def _filled(where: BoolArray, images: Mapping[Candidate, FloatArray]) -> BoolArray:
    filled = where.copy()
    for image in images.values():
        filled &= np.isfinite(image).all(axis=0)
    return filled


def _by_class(
    case: Case, images: Mapping[Candidate, FloatArray], where: BoolArray
) -> dict[Candidate, dict[str, ErrorSums]]:
    classes = case.stack.classes[case.target]
    masks = {"all": where} | {name: where & (classes == value) for name, value in _CLASSES.items()}
    return {
        candidate: {
            name: error_sums(image, case.truth, mask, case.stack.bands) for name, mask in masks.items() if mask.any()
        }
        for candidate, image in images.items()
    }


def _in_window(
    case: Case,
    images: Mapping[Candidate, FloatArray],
    where: BoolArray,
    enhancer: Enhancer,
    options: RestorationOptions,
    single: Sampling,
) -> tuple[Mapping[Candidate, Mapping[str, ErrorSums]], Coverage]:
    """Return all candidates in the fullest window, and the coverage of the model's intervals there."""
    at = fullest_window(where)
    part = replace(case, stack=case.stack.window(*at), truth=case.truth[:, *at], where=where[at])
    found, layers = model_alone(part, enhancer, options, single)
    prior = images[Candidate.PRODUCT][:, *at]
    hidden = is_obscured(part.stack.classes[part.target])
    scene = part.stack.reflectance(part.target)
    refined = restore(enhancer, scene, hidden, single, reference=prior)
    every = {name: image[:, *at] for name, image in images.items()} | {
        Candidate.REFERENCE: found,
        Candidate.DE: to_reflectance(layers.data),
        Candidate.DE_ON_PRIOR: refined.image,
    }
    scored = _filled(part.where, every)
    coverage = _covered(every[Candidate.DE], layers.uncertainty, part.truth, scored)
    return _by_class(part, every, scored), coverage


def model_alone(
    case: Case, enhancer: Enhancer, options: RestorationOptions, single: Sampling
) -> tuple[FloatArray, ProductLayers]:
    """Return the reference `(band, y, x)` and the product that the model makes of the target date alone."""
    hidden = is_obscured(case.stack.classes[case.target])
    found = restore(enhancer, case.stack.reflectance(case.target), hidden, single)
    result = ModelResult(found.image, found.reference_weight, found.spread)
    return found.reference, assemble(case.stack, case.target, None, result, intervals=options.intervals)


def fullest_window(where: BoolArray, side: int = _WINDOW) -> tuple[slice, slice]:
    """Return the rows and columns of the window of so many pixels with the most chosen ones; the first of equals."""
    height, width = where.shape
    best, found = -1, (slice(0, side), slice(0, side))
    for row in range(0, max(1, height - side + 1), side // 2):
        for column in range(0, max(1, width - side + 1), side // 2):
            at = (slice(row, row + side), slice(column, column + side))
            if (count := int(where[at].sum())) > best:
                best, found = count, at
    return found


def _covered(image: FloatArray, half_width: FloatArray, truth: FloatArray, where: BoolArray) -> Coverage:
    inside = np.abs(image - truth)[:, where] <= half_width[:, where]
    return Coverage(int(inside.sum()), inside.size)
