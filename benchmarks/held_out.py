"""What a model is worth on places that it never saw: fillers by kind of pixel, and how wide intervals must be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from de_model.calibration import conformal_factor
from de_model.data.archive import Scene
from de_model.data.cases import Case, CaseKind, CaseMixture, CaseSource
from de_model.inference.layers import recalibrated
from de_model.metrics.baselines import blurred, interpolated
from de_model.scene.design import SceneDesign
from de_model.scene.model import SceneNetworks, SceneSample
from de_model.scene.networks import Belief, Inputs
from de_model.scene.observation import Observation, SceneClass, classes_of, levels_of, maps_of
from de_model.validation import CLEAR_SHARE, NEAR_PX, Figures, Filler, KindRecord, PixelKind

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Fill = Callable[[FloatArray, BoolArray], FloatArray]

#: Side of a case, and pixels of a kind that make it count.
_SIDE, _FEWEST = 192, 150
#: Constants that W is compared with: the best of them is that of the best mean over all cases.
CONSTANTS = (0.3, 0.5, 0.7, 1.0)
#: Scores kept of a kind in a case.
_MOST_SCORES = 3000
#: Ground as it is, nothing over it.
_AS_IT_IS = CaseMixture(0.0, 0.0, 0.0, with_dates=0.0, invented_dates=0.0, haze=0.0, halo=0.0, changed=0.0, mixed=0.0)
#: What hides the ground of the cases, by name.
_MIXTURES: Mapping[str, CaseMixture] = {
    "gap": replace(_AS_IT_IS, gap=1.0),
    "cloud": replace(_AS_IT_IS, transplant=1.0, haze=0.3),
    "dates": replace(_AS_IT_IS, transplant=0.5, gap=0.5, with_dates=1.0),
}


_NONE = np.zeros((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class KindScore:
    """Errors of every filler on the pixels of one kind in one case."""

    place: str
    kind: PixelKind
    #: True for a real pair: the truth is another date.
    real: bool
    pixels: int
    fillers: Mapping[Filler, Figures]
    #: High-pass energy of reference and DE against the truth's.
    detail: tuple[float, float]
    #: `(pixel, band)`: logarithm of the predicted deviation and error of DE, standardised.
    log_deviation: FloatArray = field(repr=False)
    error: FloatArray = field(repr=False)
    #: `(pixel, band)`, reflectance: error, value and spread of the interpolated surroundings.
    around: tuple[FloatArray, FloatArray, FloatArray] = field(repr=False, default=(_NONE, _NONE, _NONE))
    #: PSNR of DE with each of `CONSTANTS` in place of W.
    w_constants: tuple[float, ...] = ()
    #: PSNR of DE with nothing drawn towards the level of the scene.
    all_kept: float = float("nan")
    #: Mean W, and on a worse reference.
    w_mean: float = float("nan")
    w_mean_degraded: float = float("nan")


def measure(
    networks: SceneNetworks,
    design: SceneDesign,
    eta: float,
    scenes: Sequence[Scene],
    cases: int,
    seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
    others: Mapping[Filler, Fill] | None = None,
    shown: frozenset[str] = frozenset(),
) -> list[KindScore]:
    """Return scores on cases of places that were held out.

    Args:
        networks: in evaluation mode.
        design: of its card.
        eta: least share of the reference.
        scenes: of the held-out places; clouds are taken from them too.
        cases: of each place and kind of cover.
        seed: of the cases and the noise.
        on_case: called with (cases done, cases in all).
        others: more fillers of gaps; each is given standardised ground `(band, y, x)` and where it is known.
        shown: names of the scenes that are judged; the others lend clouds and other dates. Empty for all.
    """
    drawn = list(cases_of(scenes, cases, seed, shown))
    scores: list[KindScore] = []
    for done, (place, case, real) in enumerate(drawn):
        scores += _scores(networks, design, eta, place, case, real, seed, others or {})
        if on_case is not None:
            on_case(done + 1, len(drawn))
    return scores


def cases_of(
    scenes: Sequence[Scene], count: int, seed: int = 0, shown: frozenset[str] = frozenset()
) -> Iterator[tuple[str, Case, bool]]:
    """Yield place, case, and whether it is a real pair; arguments as for `measure`."""
    layers = [scene.layer for scene in scenes if scene.layer is not None]
    for place in sorted({scene.info.place for scene in scenes}):
        own = [scene for scene in scenes if scene.info.place == place]
        for name, mixture in _MIXTURES.items():
            if name == "dates" and len([s for s in own if s.info.series and s.clear.mean() > 0.1]) < 3:
                continue
            source = CaseSource(own, _SIDE, seed + 1000, mixture, shown=shown)
            if not source.grounds:
                continue
            source.layers = layers
            for number in range(count):
                yield place, source.case(number), False
        for pair in CaseSource(own, _SIDE).pairs:
            yield place, _case_of(pair.cloudy, pair.clear), True
        for scene in own[:2]:
            if (not shown or scene.info.name in shown) and scene.clear.mean() > 0.9:
                yield place, _overcast(scene), False


def _case_of(cloudy: Scene, clear: Scene) -> Case:
    """Return a real pair as `unveil predict` sees it: one mask, the truth another date."""
    classes = classes_of(cloudy.image, cloudy.cloud)
    levels = levels_of(cloudy.image, classes)
    maps, numbers = maps_of(Observation(cloudy.image, classes, gsd_m=cloudy.info.gsd_m), levels)
    height, width = (length // 16 * 16 for length in classes.shape)
    at = (slice(0, height), slice(0, width))
    wanted, valid = (cloudy.cloud & clear.clear)[at], clear.clear[at]
    return Case(maps[:, *at], numbers, levels.standardised(clear.image)[:, *at], wanted, valid, CaseKind.PAIR)


def _overcast(scene: Scene) -> Case:
    """Return a window of clear ground of which nothing is seen."""
    height, width = (min(_SIDE, length // 16 * 16) for length in scene.classes.shape)
    at = (slice(0, height), slice(0, width))
    image = np.full_like(scene.image[:, *at], 0.7)
    classes = np.full((height, width), SceneClass.THICK, np.uint8)
    levels = levels_of(image, classes)
    maps, numbers = maps_of(Observation(image, classes, gsd_m=scene.info.gsd_m), levels)
    valid = scene.clear[at]
    return Case(maps, numbers, levels.standardised(scene.image[:, *at]), valid, valid, CaseKind.GAP)


def kinds_of(case: Case) -> dict[PixelKind, BoolArray]:
    """Return the wanted pixels of a case by kind."""
    bands = len(case.truth)
    classes, known = case.maps[bands : bands + 4], case.maps[2 * bands + 4] > 0
    clear, thin = classes[0] > 0, (classes[1] + classes[3]) > 0
    rest = case.wanted & ~known
    if clear.mean() < CLEAR_SHARE and not known.any():
        return {PixelKind.NO_CLEAR_GROUND: rest}
    near = distance_transform_edt(~(clear | known)) <= NEAR_PX
    return {
        PixelKind.OTHER_DATES: case.wanted & known,
        PixelKind.THIN_CLOUD: rest & thin,
        PixelKind.GAP_NEAR: rest & ~thin & near,
        PixelKind.GAP_FAR: rest & ~thin & ~near,
    }


@torch.inference_mode()
def _scores(
    networks: SceneNetworks,
    design: SceneDesign,
    eta: float,
    place: str,
    case: Case,
    real: bool,
    seed: int,
    others: Mapping[Filler, Fill],
) -> list[KindScore]:
    bands = len(case.truth)
    inputs = Inputs(torch.from_numpy(case.maps)[None].float(), torch.from_numpy(case.numbers)[None], bands)
    belief = networks.reference(inputs)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(belief.mean.shape, generator=generator)

    def sampled(weight: float | None = None, reference: Belief = belief) -> SceneSample:
        return networks.sample(inputs, noise, design.t_start, design.steps, eta, weight, reference)

    own = sampled()
    restored, log_deviation, share, alone = (
        layer[0].numpy() for layer in (own.mean, own.log_variance / 2, own.weight, own.reference)
    )
    worse = networks.belief_in(belief.mean + 0.5 * torch.randn(belief.mean.shape, generator=generator), inputs, belief)
    degraded_share = sampled(None, worse).weight[0].numpy()
    constants = [sampled(weight).mean[0].numpy() for weight in CONSTANTS]
    whole = restored / inputs.kept(networks.kept)[0].numpy()
    estimates = _fillers(case, alone, restored, others)
    deviation = (0.03 * np.exp(case.numbers[bands : 2 * bands])).astype(np.float32)
    error, value, spread = _around(case, deviation)
    found: list[KindScore] = []
    for kind, where in kinds_of(case).items():
        if where.sum() < _FEWEST:
            continue
        figures = {
            name: _figures(image, case.truth, where, deviation)
            for name, image in estimates.items()
            if applies(name, kind)
        }
        step = max(1, int(where.sum()) // _MOST_SCORES)
        found.append(
            KindScore(
                place,
                kind,
                real,
                int(where.sum()),
                figures,
                (_detail(alone, case.truth, where), _detail(restored, case.truth, where)),
                log_deviation[:, where].T[::step],
                (restored - case.truth)[:, where].T[::step],
                (error[:, where].T[::step], value[:, where].T[::step], spread[:, where].T[::step]),
                tuple(_figures(image, case.truth, where, deviation).psnr_db for image in constants),
                _figures(whole, case.truth, where, deviation).psnr_db,
                float(share[:, where].mean()),
                float(degraded_share[:, where].mean()),
            )
        )
    return found


def ground_of(case: Case) -> tuple[FloatArray, BoolArray]:
    """Return standardised ground, of the date and of others, and where it is known."""
    bands = len(case.truth)
    image, clear = case.maps[:bands], case.maps[bands] > 0
    composite, known = case.maps[bands + 4 : 2 * bands + 4], case.maps[2 * bands + 4] > 0
    return np.where(known & ~clear, composite, image), clear | known


def _around(case: Case, deviation: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return error, value and spread of the interpolated surroundings, reflectance."""
    bands, scale = len(case.truth), deviation[:, None, None]
    found = interpolated(*ground_of(case), (0.0,) * bands)
    level = np.square((case.numbers[:bands] + 1.2) / 4).astype(np.float32)[:, None, None]
    return (found.image - case.truth) * scale, found.image * scale + level, found.spread * scale


def _fillers(
    case: Case, reference: FloatArray, restored: FloatArray, others: Mapping[Filler, Fill]
) -> dict[Filler, FloatArray]:
    bands = len(case.truth)
    image = case.maps[:bands]
    composite, known = case.maps[bands + 4 : 2 * bands + 4], case.maps[2 * bands + 4] > 0
    date, dated = case.maps[2 * bands + 6 : 3 * bands + 6], case.maps[3 * bands + 6] > 0
    ground, seen = ground_of(case)
    around = interpolated(ground, seen, (0.0,) * bands).image
    found = {name: fill(ground, seen) for name, fill in others.items()}
    found |= {
        Filler.FLAT: np.zeros_like(image),
        Filler.NORMALISED_CONVOLUTION: around,
        Filler.BLURRED_REFERENCE: blurred(reference),
        Filler.REFERENCE: reference,
        Filler.DE: restored,
    }
    if known.any():
        found |= {Filler.LINEAR_MATCH: np.where(dated, date, composite), Filler.MEAN_LINEAR_MATCHES: composite}
    return found


def applies(name: Filler, kind: PixelKind) -> bool:
    """Return whether a filler can fill a kind of pixel."""
    of_dates = name in (Filler.LINEAR_MATCH, Filler.MEAN_LINEAR_MATCHES, Filler.NEAREST_DATE, Filler.COMPOSITE)
    return kind is PixelKind.OTHER_DATES if of_dates else True


def _figures(image: FloatArray, truth: FloatArray, where: BoolArray, deviation: FloatArray) -> Figures:
    error = (image - truth)[:, where] * deviation[:, None]
    return Figures(float(np.abs(error).mean()), float(-10 * np.log10(max(np.square(error).mean(), 1e-12))))


def _detail(image: FloatArray, truth: FloatArray, where: BoolArray) -> float:
    """Return the amplitude of fine detail against the truth's."""
    fine, real = (np.stack([band - _box(band) for band in each])[:, where] for each in (image, truth))
    return float(fine.std() / max(float(real.std()), 1e-6))


def _box(plane: FloatArray) -> FloatArray:
    padded = np.pad(plane, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9, np.float32)


def kind_records(scores: Sequence[KindScore]) -> dict[PixelKind, KindRecord]:
    """Return what was measured on every kind of pixel: means over places, so that no place counts twice."""
    records = {}
    for kind in PixelKind:
        own = [score for score in scores if score.kind is kind]
        if not own:
            continue
        places = sorted({score.place for score in own})
        fillers = {name: _mean([_mean(_of(own, place, name)) for place in places]) for name in Filler}
        pixels = sum(score.pixels for score in own)
        records[kind] = KindRecord(len(own), len(places), pixels, fillers)
    return records


def _of(scores: Sequence[KindScore], place: str, name: Filler) -> list[Figures | None]:
    return [score.fillers.get(name) for score in scores if score.place == place]


def _mean(figures: Sequence[Figures | None]) -> Figures | None:
    known = [found for found in figures if found is not None]
    if not known:
        return None
    return Figures(float(np.mean([found.mae for found in known])), float(np.mean([found.psnr_db for found in known])))


def fitted_widths(scores: Sequence[KindScore], level: float = 0.9, knots: int = 5) -> tuple[tuple[float, float], ...]:
    """Return the knots of a recalibration: in bins of predicted width, `level` of the errors within 1.645 deviations.

    Every case counts alike: each gives the same number of values.

    Args:
        scores: on places that neither training nor model choice saw.
        level: probability that an interval holds the truth.
        knots: bins of equal share.
    """
    random = np.random.default_rng(0)
    width, error = [], []
    for score in scores:
        chosen = random.integers(0, len(score.error), 600)
        width.append(score.log_deviation[chosen].ravel())
        error.append(np.abs(score.error[chosen]).ravel())
    at, size = np.concatenate(width), np.concatenate(error)
    edges = np.quantile(at, np.linspace(0, 1, knots + 1))
    edges[-1] += 1e-6
    found: list[tuple[float, float]] = []
    for low, high in pairwise(edges):
        inside = (at >= low) & (at < high)
        if inside.sum() < 200:
            continue
        ratio = np.quantile(size[inside] / np.exp(at[inside]), level) / 1.645
        found.append((float(np.median(at[inside])), float(np.log(max(ratio, 1e-3)))))
    return tuple(found)


def band_factors(
    scores: Sequence[KindScore], widths: tuple[tuple[float, float], ...], level: float = 0.9
) -> tuple[float, ...]:
    """Return per band how many recalibrated deviations hold `level` of the errors, every case alike."""
    random = np.random.default_rng(1)
    ratios = []
    for score in scores:
        chosen = random.integers(0, len(score.error), 600)
        ratios.append(np.abs(score.error[chosen]) / np.exp(recalibrated(score.log_deviation[chosen], widths)))
    joined = np.concatenate(ratios)
    return tuple(conformal_factor(joined[:, band], level) for band in range(joined.shape[1]))


def coverage(scores: Sequence[KindScore], widths: tuple[tuple[float, float], ...]) -> float:
    """Return the share of errors within 1.645 recalibrated deviations, every case alike."""
    shares = [_inside(score, widths) for score in scores]
    return float(np.mean(shares)) if shares else float("nan")


def _inside(score: KindScore, widths: tuple[tuple[float, float], ...]) -> float:
    return float((np.abs(score.error) <= 1.645 * np.exp(recalibrated(score.log_deviation, widths))).mean())


def crossed_coverage(scores: Sequence[KindScore]) -> dict[str, float]:
    """Return the coverage of every place with widths fitted on the others."""
    places = sorted({score.place for score in scores})
    found = {}
    for place in places:
        rest = [score for score in scores if score.place != place]
        if rest:
            own = [score for score in scores if score.place == place]
            found[place] = coverage(own, fitted_widths(rest))
    return found


def with_widths(design: SceneDesign, scores: Sequence[KindScore]) -> SceneDesign:
    """Return the design with its deviations recalibrated."""
    return replace(design, widths=fitted_widths(scores))
