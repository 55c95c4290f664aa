"""Hold-out windows of cloudy dates whose truth was withheld from everything, and ways of restoring them, judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablations.block_gains import BlockGain, block_gains
from benchmarks.ablations.setting import Setting
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore
from de_model.inference.sampling import Sampling, sampling_for
from de_model.metrics.bootstrap import Interval, difference_interval, mean_interval
from flows.errors import InvalidSettings
from flows.planning.search import SceneSet, stacks_of
from flows.progress import report_progress
from stac.composite.fusion import fit_fused
from stac.load.stack import Stack
from stac.masks.classes import is_hidden, is_observed

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Cloudy dates of the sample, each with the clear date that is its truth: three days apart, other orbits.
_CASES = ((date(2023, 8, 18), date(2023, 8, 15)), (date(2023, 8, 10), date(2023, 8, 13)))
#: Share of a window that must be scored: enough to say something, and some ground left to see.
_SHARE = (0.2, 0.95)
#: Dates further away do not enter the composite.
_COMPOSITE_DAYS = 15


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a cloudy date whose truth is known. Images `(band, y, x)` in reflectance, masks `(y, x)`."""

    #: Cell, cloudy date, row and column.
    name: str
    #: NaN where nodata, as in every image.
    cloudy: FloatArray
    truth: FloatArray
    #: Fused composite of the remaining dates; NaN where none of them saw the ground.
    composite: FloatArray
    #: `PixelClass` values of the cloudy date.
    classes: NDArray[np.uint8]
    #: Hidden on the cloudy date: what is restored.
    hidden: BoolArray
    #: Seen on the truth date.
    seen: BoolArray
    bands: tuple[str, ...]
    #: Row and column of the first pixel, the address in the noise field.
    origin: tuple[int, int]
    #: Side of a pixel, metres.
    gsd_m: float

    @property
    def scored(self) -> BoolArray:
        """`(y, x)`, True where restoration and truth can be compared."""
        return self.hidden & self.seen


def hold_out_windows(setting: Setting) -> list[Window]:
    """Return windows spread over the hold-out cells and cloudy dates, always the same ones.

    Raises:
        InvalidSettings: cells are trained on as well, have not the dates, or too few windows of this size.
    """
    shared = set(setting.train.cells) & set(setting.hold_out.cells)
    if shared:
        raise InvalidSettings(f"Cell {min(shared)} is trained on; judge on another one.")
    found = _all_windows(setting.hold_out, setting.side)
    if len(found) < setting.windows:
        raise InvalidSettings(
            f"Cells {', '.join(setting.hold_out.cells)} hold {len(found)} windows of {setting.side} px with hidden "
            f"ground and known truth, not {setting.windows}; ask for fewer or smaller ones."
        )
    chosen = np.linspace(0, len(found) - 1, setting.windows).round().astype(int)
    return [found[index] for index in chosen]


@lru_cache(maxsize=2)
def _all_windows(scenes: SceneSet, side: int) -> tuple[Window, ...]:
    """Return all windows of some cells; an experiment asks for the same ones several times."""
    return tuple(
        window
        for stack in stacks_of(scenes)
        for target_day, truth_day in _CASES
        for window in _windows_of(stack, _index_on(stack, target_day), _index_on(stack, truth_day), side)
    )


def _index_on(stack: Stack, day: date) -> int:
    """Return the position of the acquisition of a day.

    Raises:
        InvalidSettings: the stack has no such day.
    """
    number = (day - date(1970, 1, 1)).days
    found = np.flatnonzero(stack.days == number)
    if not len(found):
        raise InvalidSettings(f"Cell {stack.cell.id} has no acquisition on {day}; it holds {stack.item_ids}.")
    return int(found[0])


def _windows_of(stack: Stack, target: int, truth: int, side: int) -> Iterator[Window]:
    rest = stack.without([stack.item_ids[truth]])
    index = rest.index_of(stack.item_ids[target])
    composite = fit_fused(rest, index, max_days=_COMPOSITE_DAYS).apply(rest, index).reflectance
    cloudy, clear, classes = stack.reflectance(target), stack.reflectance(truth), stack.classes[target]
    hidden, seen = is_hidden(classes), is_observed(stack.classes[truth])
    for row, column in _corners(hidden.shape, side):
        part = (slice(row, row + side), slice(column, column + side))
        if _SHARE[0] <= (hidden & seen)[part].mean() <= _SHARE[1]:
            yield Window(
                f"{stack.item_ids[target]} at {row}, {column}",
                cloudy[:, *part],
                clear[:, *part],
                composite[:, *part],
                classes[part],
                hidden[part],
                seen[part],
                stack.bands,
                (row, column),
                stack.cell.gsd_m,
            )


def _corners(shape: tuple[int, ...], side: int) -> Iterator[tuple[int, int]]:
    for row in range(0, shape[0] - side + 1, side):
        for column in range(0, shape[1] - side + 1, side):
            yield row, column


#: Gives the reference of a window, or None for the model's own.
References = Callable[[Window], FloatArray | None]


def own_reference(_: Window) -> None:
    """Leave the reference to the model's network."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one way of restoring; blocks are in the same order in every run on the same windows."""

    blocks: tuple[BlockGain, ...]
    #: W over hidden pixels, mean over windows.
    weight: float

    @property
    def psnr(self) -> Interval:
        """PSNR of the result on hidden pixels, mean over blocks, dB."""
        return mean_interval([b.psnr for b in self.blocks])

    @property
    def reference_psnr(self) -> Interval:
        """The same of the reference alone."""
        return mean_interval([b.reference_psnr for b in self.blocks])

    @property
    def gain(self) -> Interval:
        """PSNR of the result above the reference's, block by block, dB."""
        return difference_interval([b.psnr for b in self.blocks], [b.reference_psnr for b in self.blocks])

    @property
    def spectrum(self) -> Interval:
        """Error of the power of fine detail, dB."""
        return mean_interval([b.spectrum for b in self.blocks])

    @property
    def reference_spectrum(self) -> Interval:
        """The same of the reference alone."""
        return mean_interval([b.reference_spectrum for b in self.blocks])

    def above(self, other: Trial) -> Interval:
        """Return the PSNR above another run's on the same blocks, dB."""
        return difference_interval([b.psnr for b in self.blocks], [b.psnr for b in other.blocks])


def try_on(
    windows: Sequence[Window],
    enhancer: Enhancer,
    sampling: Sampling,
    references: References = own_reference,
    name: str = "restoring",
) -> Trial:
    """Restore every window and judge it.

    Raises:
        InvalidModelInput: the sampling does not fit the model, or the bands do not.
    """
    blocks: list[BlockGain] = []
    weights: list[float] = []
    for number, window in enumerate(windows):
        report_progress(name, number, len(windows))
        found = restore_window(window, enhancer, sampling, references(window))
        blocks += judge(window, found.image, found.reference)
        weights.append(float(found.reference_weight[window.hidden].mean()))
    return Trial(tuple(blocks), float(np.mean(weights)))


def sampling_of(setting: Setting, enhancer: Enhancer, eta: float | None = None) -> Sampling:
    """Return one sample as it suits a model, windows whole; with the least W of its card when left out."""
    own = sampling_for(enhancer.card)
    eta = enhancer.card.eta if eta is None else eta
    return replace(own, seed=setting.seed, samples=1, eta=eta, tile=setting.side, overlap=0)


def in_steps(enhancer: Enhancer) -> str:
    """Return how a window is sampled, in words."""
    steps = sampling_for(enhancer.card).steps
    return f"one sample of {steps} {'evaluation' if steps == 1 else 'evaluations'} each"


def restore_window(
    window: Window, enhancer: Enhancer, sampling: Sampling, reference: FloatArray | None = None
) -> Restoration:
    """Return what the model makes of a window from its cloudy date alone, and a reference where one is given."""
    return restore(enhancer, window.cloudy, window.hidden, sampling, None, window.origin, reference, gsd_m=window.gsd_m)


def judge(window: Window, image: FloatArray, reference: FloatArray, within: BoolArray | None = None) -> list[BlockGain]:
    """Return the figures of a window's blocks, on the scored pixels `within` where that is given."""
    where = window.scored & np.isfinite(image).all(axis=0) & np.isfinite(reference).all(axis=0)
    if within is not None:
        where &= within
    return list(block_gains(image, reference, window.truth, where))
