"""Ablation `gaps`: how to sample where other dates leave a few pixels, the model's share of a product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table
from benchmarks.chart import Panel, Series
from benchmarks.measuring import clock, one_thread
from de_model import checkpoint
from de_model.calibration import calibration_of
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore
from de_model.inference.part import Part
from de_model.inference.sampling import Sampling
from de_model.metrics.bootstrap import Interval
from de_model.sampling.kinds import SamplerKind
from flows.models.evaluation_cases import Case, ErrorSums, error_sums, index_on, transplanted_cases
from flows.planning.search import stacks_of
from flows.processing.restore import composite_of, intervals_of, prepare
from flows.progress import report_progress
from flows.settings.loading import load_settings
from stac.composite.normalisation import repeatability
from stac.product.assembly import Intervals, best_known, unseen

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Cloudy dates of the sample whose clouds are laid on its clear dates; most of a cell is seen by other dates.
_CLOUDS = (date(2023, 8, 18), date(2023, 8, 10))
_CLEAR = (date(2023, 8, 15), date(2023, 8, 13), date(2023, 8, 20))
#: Every row is compared with this one.
FIRST = "4 steps from noise"
#: Sampler, steps, start.
WALKS: dict[str, tuple[SamplerKind, int, int | None]] = {
    FIRST: (SamplerKind.DPMPP2M, 4, None),
    "2 steps from noise": (SamplerKind.DPMPP2M, 2, None),
    "pyramid, 4 steps": (SamplerKind.PYRAMID, 4, None),
    "pyramid, 2 steps": (SamplerKind.PYRAMID, 2, None),
    "2 steps from t = 200": (SamplerKind.DPMPP2M, 2, 200),
    "1 step from t = 100": (SamplerKind.DPMPP2M, 1, 100),
    "1 step from t = 200": (SamplerKind.DPMPP2M, 1, 200),
    "1 step from t = 300": (SamplerKind.DPMPP2M, 1, 300),
    "1 step from t = 400": (SamplerKind.DPMPP2M, 1, 400),
}
_COLUMNS = (
    Column("walk"),
    Column("MAE", 4, interval=True),
    Column("MAE below 4 steps", 4, interval=True, signed=True),
    Column("PSNR, dB"),
    Column("fine detail over the truth's"),
    Column("error and spread, correlation"),
    Column("inside 90 % intervals"),
    Column("seconds per scene"),
)


@dataclass(frozen=True, slots=True)
class _Gaps:
    """What no date saw of one case, and what is known around it."""

    case: Case
    #: Reflectance `(band, y, x)` with everything that other dates saw filled in.
    scene: FloatArray
    #: `(y, x)`, True where no date saw the ground; scored where its truth is known.
    needed: BoolArray
    scored: BoolArray
    fill: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One sample of one case: values on its scored pixels `(band, pixel)`."""

    errors: ErrorSums
    #: Absolute errors and standard deviations of the samples, reflectance.
    error: FloatArray
    spread: FloatArray
    #: Half-widths of the 90 % intervals, reflectance; NaN without a table.
    half_width: FloatArray
    #: Mean square of a pixel's difference from the mean of its 3 x 3 surroundings: restored, and true.
    detail: tuple[float, float]
    seconds: float


def run(setting: Setting) -> Findings:
    """Restore the gaps of as many scenes as `setting.windows` allows, in several ways.

    Raises:
        InvalidCheckpoint: the weights cannot be used.
    """
    enhancer, table = checkpoint.load(setting.weights), calibration_of(setting.weights)
    usual = replace(load_settings().restoration.sampling, seed=setting.seed)
    cases = list(_cases(setting))
    with one_thread():
        found = {
            name: _walked(cases, enhancer, replace(usual, sampler=s, steps=n, start=t), intervals_of(table), name)
            for name, (s, n, t) in WALKS.items()
        }
    rows = [_row(name, outcomes, found[FIRST]) for name, outcomes in found.items()]
    return Findings(Table(_COLUMNS, tuple(rows)), _panels(rows), _method(cases, usual), _seen(rows))


def _method(cases: Sequence[_Gaps], usual: Sampling) -> str:
    pixels = sum(int(case.needed.sum()) for case in cases)
    return (
        f"{len(cases)} scenes: the sample's clouds laid on a clear date, {pixels} pixels that no date saw, scored "
        f"where the truth is known; {usual.samples} samples, tiles of {usual.tile} px, the rest of each scene filled "
        "from other dates, as in a product. Intervals are 95 % bootstraps over blocks of 64 px, differences paired. "
        "Fine detail is the mean square of a pixel's difference from its 3 x 3 mean. The share inside intervals uses "
        "the table beside the weights, fitted for the sampling schedule of products. Seconds are of one "
        "thread of the model."
    )


def _cases(setting: Setting) -> Iterator[_Gaps]:
    left = setting.windows
    for stack in stacks_of(setting.hold_out):
        clouds, clear = ([index_on(stack, day) for day in days] for days in (_CLOUDS, _CLEAR))
        for case in transplanted_cases(stack, clouds, clear):
            if case.sources == "all" and left:
                left -= 1
                yield _gaps(case)


def _gaps(case: Case) -> _Gaps:
    prepared = prepare(case.stack, case.target, case.stack.cell, load_settings().restoration)
    composite = composite_of(case.stack, prepared)
    needed = unseen(case.stack, case.target, composite)
    return _Gaps(case, best_known(case.stack, case.target, composite), needed, needed & case.where, prepared.fill)


def _walked(
    cases: Sequence[_Gaps], enhancer: Enhancer, sampling: Sampling, intervals: Intervals | None, name: str
) -> list[_Outcome]:
    outcomes = []
    for number, gaps in enumerate(cases):
        report_progress(name, number, len(cases))
        outcomes.append(_outcome(gaps, enhancer, sampling, intervals))
    return outcomes


def _outcome(gaps: _Gaps, enhancer: Enhancer, sampling: Sampling, intervals: Intervals | None) -> _Outcome:
    device, at = next(enhancer.parameters()).device, gaps.scored
    part = Part(gaps.needed.shape, (0, 0), gaps.fill)
    began = clock(device)
    made = restore(enhancer, gaps.scene, gaps.needed, sampling, origin=gaps.case.stack.cell.origin, part=part)
    seconds = clock(device) - began
    error = np.abs(made.image - gaps.case.truth)[:, at]
    errors = error_sums(made.image, gaps.case.truth, at, gaps.case.stack.bands)
    detail = (_detail(made.image, gaps), _detail(gaps.case.truth, gaps))
    return _Outcome(errors, error, made.spread[:, at], _half_width(made, at, intervals), detail, seconds)


def _half_width(made: Restoration, at: BoolArray, intervals: Intervals | None) -> FloatArray:
    """Return half-widths `(band, pixel)` as a product has them."""
    scale = np.hypot(made.spread[:, at], repeatability(made.image[:, at]))
    factors = np.full(len(scale), np.nan) if intervals is None else np.array(intervals.model)
    return np.asarray(factors[:, None] * scale, np.float32)


def _detail(image: FloatArray, gaps: _Gaps) -> float:
    filled = np.where(gaps.scored, image, gaps.scene)
    # As the model sees it: nodata beside a gap is the band's level.
    filled = np.where(np.isfinite(filled), filled, np.array(gaps.fill, np.float32)[:, None, None])
    fine = np.stack([band - uniform_filter(band, 3) for band in filled])[:, gaps.scored]
    return float(np.mean(fine**2, dtype=np.float64))


def _row(name: str, outcomes: Sequence[_Outcome], first: Sequence[_Outcome]) -> tuple[Cell, ...]:
    together, standard = (_sum([o.errors for o in each]) for each in (outcomes, first))
    gain, low, high = together.mae_gain(standard)
    made, true = np.array([o.detail for o in outcomes]).mean(axis=0)
    error, spread, half_width = (
        np.concatenate(each, axis=1)
        for each in zip(*((o.error, o.spread, o.half_width) for o in outcomes), strict=True)
    )
    inside = np.where(np.isnan(half_width), np.nan, error <= half_width)
    return (
        name,
        Interval(together.mae, *together.mae_interval(), len(together.sums)),
        Interval(gain, low, high, len(together.sums)),
        together.psnr,
        float(made / true),
        float(np.corrcoef(error.mean(axis=0), spread.mean(axis=0))[0, 1]),
        float(inside.mean()),
        float(np.mean([o.seconds for o in outcomes])),
    )


def _sum(errors: Sequence[ErrorSums]) -> ErrorSums:
    total = errors[0]
    for each in errors[1:]:
        total = total + each
    return total


def _panels(rows: Sequence[tuple[Cell, ...]]) -> tuple[Panel, ...]:
    names = tuple(str(row[0]) for row in rows)
    shown = {1: "MAE", 4: "fine detail over the truth's", 7: "seconds per scene"}
    return tuple(
        Panel("", title, (Series(title, names, tuple(_number(row[column]) for row in rows)),))
        for column, title in shown.items()
    )


def _number(cell: Cell) -> float | Interval:
    return cell if isinstance(cell, Interval) else float(cell)


def _seen(rows: Sequence[tuple[Cell, ...]]) -> str:
    best = min(rows, key=lambda row: _plain(row[1]))
    sharpest = min(rows, key=lambda row: abs(np.log(_plain(row[4]))))
    informative = max(rows, key=lambda row: _plain(row[5]))
    cheapest = min(rows, key=lambda row: _plain(row[7]))
    return (
        f"The smallest MAE is that of {best[0]}, {_plain(best[1]):.4f} against {_plain(rows[0][1]):.4f} of {FIRST}. "
        f"The fine detail nearest to the truth's is that of {sharpest[0]}, the spread that says most about the error "
        f"that of {informative[0]}, the least time that of {cheapest[0]}."
    )


def _plain(cell: Cell) -> float:
    return cell.mean if isinstance(cell, Interval) else float(cell)
