"""Real pairs: a cloudy date is restored and compared with a clear date that was withheld from everything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from enum import StrEnum, unique

import numpy as np
from numpy.typing import NDArray

from de_model.enhancer import Enhancer
from de_model.inference.engine import restore
from de_model.inference.sampling import Sampling
from de_model.metrics.standard import Scores, score
from flows.bench.machine import machine
from flows.errors import InvalidSettings
from flows.models.block_gains import BlockGain, block_gains, summary
from flows.restoration import restore_date
from flows.restoration_options import RestorationOptions
from stac.composite import median_clear, nearest_clear
from stac.masks.classes import is_obscured, is_observed
from stac.reflectance import to_reflectance
from stac.stack import Stack

FloatArray = NDArray[np.float32]

_EXPLANATION = """\
Pixels hidden on the target date (after dilation) are compared with a clear date a few days away, which was withheld
from every input, prior and candidate. Part of every error is real change between the dates and the different view from
another orbit; no candidate can reach zero. PSNR and SSIM are for a peak reflectance of 1. The spectrum error compares
the power of fine detail (0.25 to 0.5 cycles per pixel) inside the scored pixels: blur and invented texture both raise
it."""


@unique
class Candidate(StrEnum):
    """What is compared, from nothing to the product."""

    CLOUDY = "cloudy input"
    COPY = "nearest clear date, copied"
    LINEAR = "nearest clear date, linear match"
    MEDIAN = "median of other dates"
    REFERENCE = "reference network alone"
    DE = "DE, single date"
    PRODUCT = "product"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One target date against one truth date."""

    cell: str
    target: str
    truth: str
    #: Share of the cell that was scored: hidden on the target, seen on the truth date and by every candidate.
    share: float
    scores: Mapping[Candidate, Scores]
    #: DE against its own reference, block by block.
    gains: tuple[BlockGain, ...]


def index_on(stack: Stack, day: date) -> int:
    """Return the position of the acquisition of a day.

    Raises:
        InvalidSettings: the stack has no such day.
    """
    number = (day - date(1970, 1, 1)).days
    found = np.flatnonzero(stack.days == number)
    if not len(found):
        raise InvalidSettings(f"Cell {stack.cell.id} has no acquisition on {day}; it holds {stack.item_ids}.")
    return int(found[0])


def evaluate_cell(
    stack: Stack,
    targets: Sequence[date],
    truths: Sequence[date],
    enhancer: Enhancer,
    options: RestorationOptions,
    single_date: Sampling,
) -> Iterator[CaseResult]:
    """Yield the result of every pair of target and truth dates.

    The truth date is taken out of the stack before anything looks at it.

    Args:
        stack: all dates of the cell.
        targets: cloudy dates.
        truths: clear dates.
        enhancer: the model.
        options: how the product is made.
        single_date: how the model restores whole clouds without other dates.
    """
    for target_day in targets:
        target = index_on(stack, target_day)
        single = _single_date(stack, target, enhancer, single_date)
        for truth_day in truths:
            truth = index_on(stack, truth_day)
            candidates = dict(single) | _temporal(stack, target, truth, enhancer, options)
            yield _score(stack, target, truth, candidates)


def _single_date(stack: Stack, target: int, enhancer: Enhancer, sampling: Sampling) -> dict[Candidate, FloatArray]:
    """Return what needs no other date, `(band, y, x)` each."""
    image = stack.reflectance(target)
    found = restore(enhancer, image, is_obscured(stack.classes[target]), sampling)
    return {Candidate.CLOUDY: image, Candidate.REFERENCE: found.reference, Candidate.DE: found.image}


def _temporal(
    stack: Stack, target: int, truth: int, enhancer: Enhancer, options: RestorationOptions
) -> dict[Candidate, FloatArray]:
    """Return what uses other dates, the truth date withheld."""
    rest = stack.without([stack.item_ids[truth]])
    index = rest.index_of(stack.item_ids[target])
    days = options.prior_days
    return {
        Candidate.COPY: nearest_clear(rest, index, harmonised=False, max_days=days).reflectance,
        Candidate.LINEAR: nearest_clear(rest, index, max_days=days).reflectance,
        Candidate.MEDIAN: median_clear(rest, index, max_days=days).reflectance,
        Candidate.PRODUCT: to_reflectance(restore_date(rest, index, enhancer, options).layers.data),
    }


def _score(stack: Stack, target: int, truth: int, candidates: Mapping[Candidate, FloatArray]) -> CaseResult:
    where = is_obscured(stack.classes[target]) & is_observed(stack.classes[truth])
    for image in candidates.values():
        where &= np.isfinite(image).all(axis=0)
    expected = stack.reflectance(truth)
    # Windows may look at any ground the truth date saw, never at its clouds.
    seen = is_observed(stack.classes[truth])
    scores = {c: score(candidates[c], expected, where, stack.bands, seen) for c in Candidate}
    own, reference = candidates[Candidate.DE], candidates[Candidate.REFERENCE]
    gains = tuple(block_gains(own, reference, expected, where, seen, stack.bands))
    return CaseResult(stack.cell.id, _day(stack, target), _day(stack, truth), float(where.mean()), scores, gains)


def _day(stack: Stack, index: int) -> str:
    return str(np.datetime64(int(stack.days[index]), "D"))


def mean_scores(results: Sequence[CaseResult]) -> dict[Candidate, Scores]:
    """Return the mean over cases; PSNR is averaged as mean squared error."""
    means = {}
    for candidate in Candidate:
        scores = [asdict(result.scores[candidate]) for result in results]
        column = {name: np.array([s[name] for s in scores]) for name in scores[0]}
        psnr = -10 * np.log10(np.mean(10 ** (-column.pop("psnr") / 10)))
        pixels, windows = (int(column.pop(name).sum()) for name in ("pixels", "windows"))
        plain = {name: _defined_mean(values) for name, values in column.items()}
        means[candidate] = Scores(**plain, psnr=float(psnr), pixels=pixels, windows=windows)
    return means


def _defined_mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the cases in which a figure is defined; NaN when it is in none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def as_record(scores: Scores) -> dict[str, float | int | None]:
    """Return scores as JSON values; null where a figure is not defined or infinite."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(scores).items()}


def as_markdown(results: Sequence[CaseResult], command: str, model: str) -> str:
    """Return a results page: how it was made, the mean over cases, and every case."""
    means = mean_scores(results)
    pages = [
        "# The product against simpler ways to fill clouds",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}; model {model}.",
        _EXPLANATION,
        "## Mean over all cases",
        _table(means),
        _verdict(means),
        summary([gain for result in results for gain in result.gains]),
    ]
    for result in results:
        pages += [f"## {result.cell}: {result.target} against {result.truth} ({result.share:.0%} of the cell)"]
        pages += [_table(result.scores)]
    return "\n\n".join(pages) + "\n"


def _table(scores: Mapping[Candidate, Scores]) -> str:
    head = (
        "| candidate | MAE | PSNR, dB | SSIM | NDVI error | spectral angle, ° | edge error | spectrum error, dB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {c} | {s.mae:.4f} | {s.psnr:.2f} | {s.ssim:.3f} | {s.ndvi_mae:.4f} | {s.sam:.2f} | {s.edge:.4f} "
        f"| {s.spectrum:.2f} |"
        for c, s in scores.items()
    ]
    return "\n".join([head, *rows])


def _verdict(means: Mapping[Candidate, Scores]) -> str:
    """Say plainly which candidates the product beats, by mean absolute error."""
    own = means[Candidate.PRODUCT].mae
    others = [c for c in Candidate if c is not Candidate.PRODUCT]
    beaten = [c for c in others if own < means[c].mae]
    unbeaten = [c for c in others if c not in beaten]
    lost = f" It does not beat: {', '.join(unbeaten)}." if unbeaten else ""
    return f"By mean absolute error the product beats: {', '.join(beaten) or 'none'}.{lost}"
