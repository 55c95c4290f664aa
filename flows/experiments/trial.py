"""One way of restoring, tried on all windows and judged block by block against the reference it was given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore
from de_model.inference.sampling import Sampling
from de_model.metrics.bootstrap import Bootstrap, Interval, difference_interval, mean_interval
from flows.experiments.windows import BoolArray, FloatArray, Window
from flows.models.block_gains import BlockGain, block_gains
from flows.progress import tell

#: Gives the reference of a window, or None for the model's own.
References = Callable[[Window], FloatArray | None]


def own_reference(_: Window) -> None:
    """Leave the reference to the model's network."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one way of restoring; blocks are in the same order in every trial on the same windows."""

    blocks: tuple[BlockGain, ...]
    #: W over hidden pixels, mean over windows.
    weight: float
    #: Time of one window, seconds.
    seconds: float

    @property
    def psnr(self) -> Interval:
        """PSNR of the result on hidden pixels, mean over blocks, dB."""
        return mean_interval([b.psnr for b in self.blocks], Bootstrap())

    @property
    def reference_psnr(self) -> Interval:
        """The same of the reference alone."""
        return mean_interval([b.reference_psnr for b in self.blocks], Bootstrap())

    @property
    def gain(self) -> Interval:
        """PSNR of the result above the reference's, block by block, dB."""
        return difference_interval([b.psnr for b in self.blocks], [b.reference_psnr for b in self.blocks], Bootstrap())

    @property
    def spectrum(self) -> Interval:
        """Error of the power of fine detail, dB."""
        return mean_interval([b.spectrum for b in self.blocks], Bootstrap())

    @property
    def reference_spectrum(self) -> Interval:
        """The same of the reference alone."""
        return mean_interval([b.reference_spectrum for b in self.blocks], Bootstrap())

    def above(self, other: Trial) -> Interval:
        """Return the PSNR above another trial's on the same blocks, dB."""
        return difference_interval([b.psnr for b in self.blocks], [b.psnr for b in other.blocks], Bootstrap())


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
    weights, began = [], time.monotonic()
    for number, window in enumerate(windows):
        tell(name, number, len(windows))
        found = restore_window(window, enhancer, sampling, references(window))
        blocks += judge(window, found.image, found.reference)
        weights.append(float(found.reference_weight[window.hidden].mean()))
    return Trial(tuple(blocks), float(np.mean(weights)), (time.monotonic() - began) / len(windows))


def restore_window(
    window: Window, enhancer: Enhancer, sampling: Sampling, reference: FloatArray | None = None
) -> Restoration:
    """Return what the model makes of a window from its cloudy date alone, and a reference where one is given."""
    return restore(enhancer, window.cloudy, window.hidden, sampling, None, window.origin, reference)


def judge(window: Window, image: FloatArray, reference: FloatArray, within: BoolArray | None = None) -> list[BlockGain]:
    """Return the figures of a window's blocks, on the scored pixels `within` where that is given."""
    where = window.scored & np.isfinite(image).all(axis=0) & np.isfinite(reference).all(axis=0)
    if within is not None:
        where &= within
    return list(block_gains(image, reference, window.truth, where, window.seen, window.bands))
