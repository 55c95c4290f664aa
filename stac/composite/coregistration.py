"""Shifts between the dates of a cell, and reading dates so that they lie on each other.

The shift of a date is the peak of the phase correlation of its edges with those of the reference (Kuglin and Hines
1975), found in several windows that both saw clear. A date that lies more than half a pixel off is moved when it is
read; its pixels then only make synthesised ones. One that lies off too far, or not everywhere alike, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_gradient_magnitude, shift

from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed

FloatArray = NDArray[np.float32]

#: Side of a window, most windows, and share of a window that both dates must see.
_SIDE, _WINDOWS, _SEEN = 128, 9, 0.7
#: Shifts from here on are corrected, and up to here; farther ones are no shift of the same ground, pixels.
_LEAST, _MOST = 0.5, 4.0
#: Windows that must agree, and within how much, pixels; a peak must stand out of the rest so many deviations.
_FEWEST, _AGREE, _PEAK = 3, 0.35, 8.0


@dataclass(frozen=True, slots=True)
class Shift:
    """How far the ground of a date lies from that of the reference, pixels along rows and columns."""

    rows: float
    columns: float
    #: Windows that agree on it.
    windows: int

    @property
    def size(self) -> float:
        """Its length, pixels."""
        return math.hypot(self.rows, self.columns)

    @property
    def matters(self) -> bool:
        """More than half a pixel."""
        return self.size > _LEAST

    @property
    def too_far(self) -> bool:
        """Farther than is corrected."""
        return self.size > _MOST


def find_shifts(stack: Stack, reference: int) -> dict[str, Shift]:
    """Return the shift of every date that is certain, by id.

    Args:
        stack: all dates of a cell at full resolution.
        reference: index of the date that the others should lie on.
    """
    clear = is_observed(stack.classes)
    found: dict[str, Shift] = {}
    edges = _edges(stack, reference)
    windows = _windows(clear[reference])
    for date, name in enumerate(stack.item_ids):
        if date == reference:
            continue
        both = clear[reference] & clear[date]
        usable = [at for at in windows if both[at].mean() >= _SEEN]
        own = _edges(stack, date) if len(usable) >= _FEWEST else None
        offsets = (
            [] if own is None else [o for at in usable if (o := _offset(edges[at], own[at], both[at])) is not None]
        )
        if len(offsets) < _FEWEST:
            continue
        middle = np.median(offsets, axis=0)
        agreeing = [o for o in offsets if np.hypot(*(np.array(o) - middle)) <= _AGREE]
        if 2 * len(agreeing) > len(offsets) and len(agreeing) >= _FEWEST:
            rows, columns = np.mean(agreeing, axis=0)
            found[name] = Shift(round(float(rows), 3), round(float(columns), 3), len(agreeing))
    return found


def _windows(clear: NDArray[np.bool_]) -> list[tuple[slice, slice]]:
    """Return the windows that the reference sees best, the best first."""
    height, width = clear.shape
    side = min(_SIDE, height // 2, width // 2)
    if side < _SIDE // 4:
        return []
    every = [
        (slice(y, y + side), slice(x, x + side))
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
    ]
    return sorted(every, key=lambda at: -float(clear[at].mean()))[:_WINDOWS]


def _edges(stack: Stack, date: int) -> FloatArray:
    """Return the strength of edges `(y, x)`: it does not depend on how bright a date is."""
    band = stack.bands.index("nir") if "nir" in stack.bands else len(stack.bands) - 1
    strength: FloatArray = gaussian_gradient_magnitude(stack.dn[date, band].astype(np.float32), 1.0)
    return strength


def _offset(one: FloatArray, other: FloatArray, both: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return how far `other` lies from `one`, rows and columns; None where no peak stands out."""
    taper = np.hanning(one.shape[0])[:, None] * np.hanning(one.shape[1])[None] * both
    first, second = (fft.fft2((image - image[both].mean()) * taper) for image in (one, other))
    product = second * np.conj(first)
    surface = np.real(fft.ifft2(product / np.maximum(np.abs(product), 1e-9)))
    reach = math.ceil(_MOST) + 1
    near = np.fft.fftshift(surface)
    centre = near.shape[0] // 2, near.shape[1] // 2
    part = near[centre[0] - reach : centre[0] + reach + 1, centre[1] - reach : centre[1] + reach + 1]
    top = np.unravel_index(int(part.argmax()), part.shape)
    if part[top] < _PEAK * surface.std() or 0 in top or 2 * reach in top:
        return None
    rows, columns = (_between(part.take(top[1 - axis], axis=1 - axis), int(top[axis])) for axis in (0, 1))
    return rows - reach, columns - reach


def _between(line: NDArray[np.floating], peak: int) -> float:
    """Return where the top lies between pixels: the two higher ones of three share a peak by their heights.

    The correlation of a shift by a part of a pixel falls off as a sinc, for which this ratio is exact (Foroosh et al.
    2002).
    """
    before, top, after = (float(line[peak + step]) for step in (-1, 0, 1))
    beside, sign = (after, 1) if after >= before else (before, -1)
    return peak + sign * max(beside, 0.0) / (top + max(beside, 0.0))


def read_registered(read: Callable[[Cell], Stack], window: Cell, shifts: Mapping[str, Shift]) -> Stack:
    """Read the dates of a window so that they lie on the reference; dates that lie too far off are left out.

    A moved pixel is observed where all that it is made of is; the outcome does not depend on the window.

    Args:
        read: reads all dates of a window.
        window: the window.
        shifts: from `find_shifts`, for the same grid.
    """
    off = {name: each for name, each in shifts.items() if each.matters}
    if not off:
        return read(window)
    margin = math.ceil(_MOST) + 1
    around = read(Cell(window.id, window.geobox.pad(margin), window.owned))
    around = around.without([name for name, each in off.items() if each.too_far])
    dn, classes = around.dn.copy(), around.classes.copy()
    for date, name in enumerate(around.item_ids):
        if name in off:
            dn[date], classes[date] = _moved(around.dn[date], around.classes[date], off[name])
    height, width = window.geobox.shape
    inside = np.s_[..., margin : margin + height, margin : margin + width]
    moved = replace(around, dn=np.ascontiguousarray(dn[inside]), classes=np.ascontiguousarray(classes[inside]))
    lost = tuple(
        f"Date {n} lies {e.size:.1f} pixels off the reference; it is not used." for n, e in off.items() if e.too_far
    )
    return replace(moved, cell=window, dropped=(*around.dropped, *lost))


def _moved(
    dn: NDArray[np.uint16], classes: NDArray[np.uint8], by: Shift
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return a date moved back by its shift, bilinear; what is not made of observed ground alone is hidden."""
    back = (-by.rows, -by.columns)
    image = np.stack([shift(band.astype(np.float32), back, order=1, mode="nearest") for band in dn])
    observed = is_observed(classes).astype(np.float32)
    whole = shift(observed, back, order=1, mode="constant") > 1 - 1e-3
    # The nearest pixel says what hides the ground; a mixture of ground and anything else is not an observation.
    nearest = shift(classes, back, order=0, mode="constant")
    kept = np.where(is_observed(nearest) & ~whole, PixelClass.DEFECTIVE, nearest).astype(np.uint8)
    values = np.where(kept == PixelClass.NODATA, 0, np.rint(image).clip(1, 65535)).astype(np.uint16)
    return values, kept
