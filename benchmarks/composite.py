"""Composites against the simplest ways to fill a cloud, on every place at hand, and the time of a block by its dates.

    python -m benchmarks.composite --out docs/results
    python -m benchmarks.composite --series CATALOG --out docs/results    # with a year of one place at 10 m

Clouds of one date are laid on a clear date, whose own pixels under them are the truth; and cloudy dates are compared
with a clear date that was withheld from everything.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter

from benchmarks.report import Page, parser, publish, table
from de_model.calibration import CalibrationTable, Origin, calibration_of
from de_model.checkpoint import shipped_weights
from flows.models.evaluation import Case, real_cases, transplanted_cases
from flows.planning.search import SceneSet, cloudy_and_clear, stacks_of
from stac.composite.fusion import FusedComposite, fit_fused
from stac.composite.normalisation import repeatability
from stac.composite.temporal import geomedian_clear, median_clear, nearest_clear, source_dates
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed

FloatArray = NDArray[np.float32]
Values = NDArray[np.float64]
Line = Callable[[Values, Values], tuple[float, float]]

_BANDS = ("blue", "green", "red", "nir")
#: Pixels that a line is fitted on, and pixels of a case that are worth a score.
_FITTED, _LEAST_PIXELS = 50_000, 200
#: Of the cases of the series one in so many is looked at: its dates are many and alike.
_EVERY = 3
#: Dates of the timed blocks, their side in pixels, and how often each is timed.
_DATES, _SIDE, _ROUNDS = (4, 8, 16, 32), 512, 3
_FUSED, _YARDSTICK = "fused", "mean of the two nearest linear matches"


@dataclass(frozen=True, slots=True)
class Simple:
    """A mean of linear matches of the nearest dates."""

    line: Line
    #: So many dates, the nearest that saw the pixel.
    nearest: int
    #: Each date's weight is residual^-power.
    power: int = 0
    #: A line whose residuals are larger than clear dates differ by counts less, which keeps the target's haze out.
    believed: bool = False

    def __call__(self, stack: Stack, target: int, max_days: int) -> FloatArray:
        """Return reflectance `(band, y, x)`, NaN where no date saw the ground."""
        image, here = stack.reflectance(target), is_observed(stack.classes[target])
        total, weight, used = np.zeros_like(image), np.zeros_like(image), np.zeros(here.shape, int)
        for date in source_dates(stack, target, max_days=max_days):
            seen = is_observed(stack.classes[date]) & (used < self.nearest)
            matched, error = self._match(stack.reflectance(date), image, here & is_observed(stack.classes[date]))
            share = (1 / np.maximum(error, 2e-3) ** self.power)[:, None]
            total[:, seen] += share * matched[:, seen]
            weight[:, seen] += share
            used += seen
        mean: FloatArray = np.where(used > 0, total / np.where(used > 0, weight, 1), np.nan).astype(np.float32)
        return mean

    def _match(self, there: FloatArray, image: FloatArray, both: NDArray[np.bool_]) -> tuple[FloatArray, Values]:
        matched, errors, step = there.copy(), np.full(len(there), 0.05), max(1, int(both.sum()) // _FITTED)
        for band in range(len(there)):
            x, y = (each[band][both][::step].astype(np.float64) for each in (there, image))
            if len(x) < _LEAST_PIXELS or x.std() < 1e-6:
                continue
            slope, offset = self.line(x, y)
            spread = 1.4826 * float(np.median(np.abs(y - slope * x - offset)))
            usual = float(repeatability(np.asarray(np.median(x))))
            belief = min(1.0, (usual / max(spread, 1e-6)) ** 4) if self.believed else 1.0
            matched[band] += np.float32(belief) * ((slope - 1) * there[band] + offset)
            rest = y - x - belief * ((slope - 1) * x + offset)
            errors[band] = np.sqrt(np.square(rest.clip(*np.quantile(rest, (0.005, 0.995)))).mean())
        return matched, errors


def least_squares(x: Values, y: Values) -> tuple[float, float]:
    """Return slope and offset of the ordinary regression."""
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(offset)


def major_axis(x: Values, y: Values) -> tuple[float, float]:
    """Return slope and offset of the reduced major axis."""
    slope = float(y.std() / x.std())
    return slope, float(y.mean() - slope * x.mean())


def theil_sen(x: Values, y: Values) -> tuple[float, float]:
    """Return the median slope of pairs of pixels, and the median offset."""
    slopes = list[Values]()
    for shift in (len(x) // 2, len(x) // 3, len(x) // 5):
        apart = np.roll(x, shift) - x
        some = np.abs(apart) > 0.01
        slopes.append((np.roll(y, shift) - y)[some] / apart[some])
    every = np.concatenate(slopes)
    slope = float(np.median(every)) if len(every) else 1.0
    return slope, float(np.median(y - slope * x))


#: Reflectance of each candidate; the target date is the second argument, days the third.
SIMPLE: Mapping[str, Callable[[Stack, int, int], FloatArray]] = {
    "nearest date, copied": lambda s, t, d: nearest_clear(s, t, max_days=d).reflectance,
    "nearest date, linear match": Simple(least_squares, 1),
    "median": lambda s, t, d: median_clear(s, t, max_days=d).reflectance,
    "geomedian": lambda s, t, d: geomedian_clear(s, t, max_days=d).reflectance,
    _YARDSTICK: Simple(least_squares, 2),
    "mean of all linear matches": Simple(least_squares, 99),
    "mean of the two nearest, reduced major axis": Simple(major_axis, 2),
    "mean of the two nearest, Theil-Sen": Simple(theil_sen, 2),
    "mean of the four nearest, Theil-Sen, inverse variance": Simple(theil_sen, 4, 2),
    "the same, haze kept out": Simple(theil_sen, 4, 2, believed=True),
}


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of the candidates in one case, and how many values of the fused one lie in their 90 % interval."""

    pixels: int
    #: Mean absolute and mean squared error, reflectance.
    errors: Mapping[str, tuple[float, float]]
    inside: float


@dataclass(frozen=True, slots=True)
class Place:
    """Cases of one place that are summed up in one column."""

    title: str
    days: int
    cases: Sequence[Case]


def places(series: str | None) -> Iterator[Place]:
    """Yield the shipped places and, where it is named, the series at 10 m."""
    for code in ("MGRS-33TWL", "MGRS-33TWM"):
        stack = next(stacks_of(SceneSet(cells=(code,))))
        cloudy, clear = cloudy_and_clear(stack)
        yield Place(f"{code[5:]}, transplants", 15, list(transplanted_cases(stack, cloudy, clear)))
        yield Place(f"{code[5:]}, real pairs", 15, list(real_cases(stack, cloudy, clear)))
    if series is not None:
        stack = next(stacks_of(SceneSet(cells=("MGRS-33TUG",), source=series, datetime="2018-01-01/2018-12-31")))
        moved = list(transplanted_cases(stack, *cloudy_and_clear(stack)))
        for days in (30, 60):
            yield Place(f"10 m series, {days} days", days, moved[::_EVERY])


def score(case: Case, days: int, table_of: CalibrationTable | None) -> Score | None:
    """Return the errors in one case; None where other dates fill next to nothing of it."""
    stack, target = case.stack, case.target
    fitted = fit_fused(stack, target, max_days=days)
    images = {name: make(stack, target, days) for name, make in SIMPLE.items()}
    where = case.where & np.isfinite(images[_YARDSTICK]).all(axis=0)
    if where.sum() < _LEAST_PIXELS:
        return None
    flat = replace(fitted, field=None).apply(stack, target, where=where)
    composite = fitted.apply(stack, target, where=where)
    images |= {"fused, without the residual field": flat.reflectance, _FUSED: composite.reflectance}
    errors = {name: np.maximum(image[:, where], 1e-4) - case.truth[:, where] for name, image in images.items()}
    factors = np.array(table_of.factors[Origin.OTHER_DATES] if table_of else (1.645,) * len(_BANDS))
    inside = float((np.abs(errors[_FUSED]) <= factors[:, None] * composite.spread[:, where]).mean())
    found = {name: (float(np.abs(e).mean()), float(np.square(e).mean())) for name, e in errors.items()}
    return Score(int(where.sum()), found, inside)


def measure(series: str | None) -> dict[str, list[Score]]:
    """Return the scores of all cases by place."""
    table_of, found = calibration_of(shipped_weights()), defaultdict[str, list[Score]](list)
    for place in places(series):
        scores = (score(case, place.days, table_of) for case in place.cases)
        found[place.title] += [each for each in scores if each is not None]
    return dict(found)


def timed() -> dict[int, tuple[float, float]]:
    """Return the median processor seconds to fit one block and to fill it with the fused composite, by dates."""
    return {dates: _timed(blobby(dates)) for dates in _DATES}


def _timed(stack: Stack) -> tuple[float, float]:
    hidden, fitted = ~is_observed(stack.classes[0]), fit_fused(stack, 0)
    both = (partial(fit_fused, stack, 0), partial(FusedComposite.apply, fitted, stack, 0, where=hidden))
    fit, apply = ([_seconds(each) for _ in range(_ROUNDS)] for each in both)
    return float(np.median(fit)), float(np.median(apply))


def _seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def blobby(dates: int) -> Stack:
    """Return a target and so many other dates of one ground, each with clouds of its own over two fifths of it."""
    random = np.random.default_rng(dates)
    size = (_SIDE, _SIDE)
    ground = gaussian_filter(random.normal(size=(len(_BANDS), *size)), (0, 3, 3)) + 0.2
    noise = random.normal(0, 0.005, (dates + 1, len(_BANDS), *size))
    dn = np.rint((ground.clip(0.02, 0.6) + noise) * 1e4).clip(1, 65_535).astype(np.uint16)
    fields = np.stack([gaussian_filter(random.normal(size=size), 16) for _ in range(dates + 1)])
    cloudy = fields > np.quantile(fields, 0.6, axis=(1, 2), keepdims=True)
    classes = np.where(cloudy, PixelClass.CLOUD, PixelClass.CLEAR).astype(np.uint8)
    cell = Cell("TIMED", GeoBox.from_bbox((499_980, 4_990_000, 505_100, 4_995_120), "EPSG:32633", resolution=10))
    days = np.array([0, *range(1, dates + 1)], np.int32)
    return Stack(dn, classes, tuple(f"d{day}" for day in days), days, _BANDS, cell)


def page_of(found: Mapping[str, Sequence[Score]], seconds: Mapping[int, tuple[float, float]]) -> Page:
    """Return the results page."""
    titles = [title for title, scores in found.items() if scores]
    names = list(found[titles[0]][0].errors)
    maes = {name: {title: _mean(found[title], name, 0) for title in titles} for name in names}
    psnrs = {n: {title: -10 * np.log10(_mean(found[title], n, 1)) for title in titles} for n in names}
    rows = [(n, *(f"{maes[n][title]:.4f} / {psnrs[n][title]:.1f}" for title in titles)) for n in names]
    gains = ("fused against the yardstick", *(f"{_gain(found[title], maes, title)}" for title in titles))
    inside = {title: _weighted([s.inside for s in found[title]], found[title]) for title in titles}
    first = seconds[_DATES[0]]
    times = [
        (dates, f"{fit:.2f} s", f"{apply:.3f} s", f"{apply / first[1]:.1f}") for dates, (fit, apply) in seconds.items()
    ]
    parts = (
        (
            "MAE (reflectance) / PSNR (dB) over pixels that another date saw, weighted by pixels. The yardstick is the "
            f"*{_YARDSTICK}*. Intervals are calibrated on one tile of the sample, 33TWM; nothing was fitted on the "
            "series."
        ),
        table(("composite", *(f"{title} ({len(found[title])})" for title in titles)), [*rows, gains]),
        "## Coverage of the fused composite's 90 % intervals",
        table(("place", "truth inside"), [(title, f"{100 * inside[title]:.1f} %") for title in titles]),
        "## Processor time by number of dates",
        (
            f"A block of {_SIDE} px, four bands, two fifths of every date under its own clouds; the target's hidden "
            "pixels are filled. At most eight dates are averaged at a pixel."
        ),
        table(("other dates", "fit", "block", "block, times that of four"), times),
    )
    record = {
        "mae": maes, "psnr": psnrs, "coverage": inside,
        "seconds": {str(dates): {"fit": fit, "block": apply} for dates, (fit, apply) in seconds.items()},
    }  # fmt: skip
    return Page("Composites against simple fills", parts, record)


def _gain(scores: Sequence[Score], maes: Mapping[str, Mapping[str, float]], title: str) -> str:
    less = 1 - maes[_FUSED][title] / maes[_YARDSTICK][title]
    better = sum(each.errors[_FUSED][0] < each.errors[_YARDSTICK][0] for each in scores)
    return f"{-100 * less:+.0f} %, better in {better} of {len(scores)}"


def _mean(scores: Sequence[Score], name: str, which: int) -> float:
    return _weighted([each.errors[name][which] for each in scores], scores)


def _weighted(values: Sequence[float], scores: Sequence[Score]) -> float:
    return float(np.average(values, weights=[each.pixels for each in scores]))


if __name__ == "__main__":
    options = parser("composite", __doc__)
    options.add_argument("--series", help="catalog.json of a year of one place (MGRS-33TUG, 2018)")
    given = options.parse_args()
    publish("composite", page_of(measure(given.series), timed()), given)
