"""Cloud and shadow that a mask missed, found by looking at all dates together.

Ground changes slowly or for good; a cloud is there once. A clear look that is whiter, or darker, than the looks just
before and after it and than the median of all others is therefore no ground. Change that stays, such as a harvest or a
flood, is seen by the next look, too, and counts as ground; its colour separates it from cloud and shadow on the first
and the last date. Near a cloud, and where the sun can throw its shadow (`stac.masks.shadow_geometry`), a look need only
be whiter, or darker, than the middle of those three. After ideas of Tmask (Zhu and Woodcock 2014) and MAJA (Hagolle et
al. 2010); the rules are our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntFlag, unique
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import OBSERVED, PixelClass, among, is_observed
from stac.masks.combination import grow
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
Number = TypeVar("Number", np.uint16, np.float32)

#: Clear looks that a pixel needs before one of them is judged.
FEWEST_LOOKS = 3
#: Least rise of blue that is cloud, reflectance, and in spreads of the other looks.
_RISE, _SPREADS = 0.03, 3.0
#: Cloud is white: blue rises by this share of red at least. Bare soil after a harvest is red.
_WHITE = 0.6
#: Most that a shadow leaves of red, near infrared and green: water and fire leave one of them.
_LEFT = np.array([[0.9], [0.65], [0.85]], np.float32)
#: The same near a cloud, and where it can have its shadow; over the middle of the three.
_RISE_NEAR, _SPREADS_NEAR = 0.02, 2.0
_LEFT_NEAR = np.array([[0.95], [0.8], [0.92]], np.float32)
#: Ground that is dark in near infrared, such as water, shows no shadow, reflectance.
_DARK_GROUND = 0.12
#: Pixels of a neighbourhood of 3 x 3 that must be suspicious or masked: single ones are noise.
_COMPANY = 5
#: How far what was found is grown, metres: the rim of a cloud is thinner than what was found.
_GROWTH_M = 30.0
#: Order of the bands: a cloud brightens the first two, a shadow darkens the others and red.
_BANDS, _BRIGHTENED, _DARKENED = ("blue", "red", "nir", "green"), slice(0, 2), slice(1, 4)
_MOST_DN = np.uint16(65535)
#: Pixels judged at once: so few that they stay in the processor's cache.
_CHUNK = 1 << 16
_THREADS = 2


@unique
class Near(IntFlag):
    """What the known clouds of a date make likely; values may be added."""

    NOTHING = 0
    #: Another cloud, or the rim of a known one.
    CLOUD = 1
    #: The shadow of a known cloud.
    SHADOW = 2


def suspicious(
    dn: NDArray[np.uint16],
    classes: NDArray[np.uint8],
    days: NDArray[np.int32],
    bands: Sequence[str],
    near: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Return `PixelClass.CLOUD` or `SHADOW` `(time, y, x)` where a clear look is neither ground nor lasting change.

    Everything else is 0. Snow that a mask knows is neither judged nor asked. Only the pixel itself and its neighbours
    within one pixel count, so a window gives what the whole gives, but for its outermost pixels.

    Args:
        dn: product DN `(time, band, y, x)`.
        classes: `PixelClass` values `(time, y, x)` before dilation.
        days: days since 1970-01-01 `(time,)`.
        bands: common names; without blue, green, red and nir nothing is found.
        near: `Near` values `(time, y, x)`; None where that is not known.
    """
    found = np.zeros(classes.shape, np.uint8)
    if not set(_BANDS) <= set(bands) or len(np.unique(days)) < FEWEST_LOOKS:
        return found
    channels, order = [bands.index(name) for name in _BANDS], np.argsort(days, kind="stable")
    pixels, seen, judged = dn.reshape(*dn.shape[:2], -1), classes.reshape(len(dn), -1), found.reshape(len(dn), -1)
    flags = np.zeros_like(seen) if near is None else near.reshape(len(dn), -1)

    def judge(start: int) -> None:
        here = slice(start, start + _CHUNK)
        blue, nir = ([pixels[date, channel, here] for date in order] for channel in (channels[0], channels[2]))
        clear = among(seen[:, here], (PixelClass.CLEAR,))[order]
        around = flags[:, here][order] * clear
        bright, dark = _stands_out(blue, nir, clear)
        _differs(blue, nir, clear, around, bright, dark)
        at = np.flatnonzero((bright | dark).any(axis=0) & (clear.sum(axis=0, dtype=np.uint16) >= FEWEST_LOOKS))
        looks = np.stack([pixels[date, :, here].take(at, axis=1)[channels] for date in order])
        clear, bright, dark = (each.take(at, axis=1) for each in (clear, bright, dark))
        judged[order[:, None], start + at] = _judged(looks, clear, bright, dark, around.take(at, axis=1))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="judge") as pool:
        list(pool.map(judge, range(0, pixels.shape[2], _CHUNK)))
    return _in_company(found, classes)


def reach_of(gsd_m: float) -> int:
    """Return how far from a pixel others decide whether it is hidden, pixels."""
    return math.floor(_GROWTH_M / gsd_m + 1e-9) + 1


def _stands_out(
    blue: Sequence[NDArray[np.uint16]], nir: Sequence[NDArray[np.uint16]], clear: BoolArray
) -> tuple[BoolArray, BoolArray]:
    """Return the clear looks `(time, pixel)` that are brighter, and darker, than those just before and after them.

    A few comparisons for each look, however many there are; few looks are left to be judged.

    Args:
        blue: product DN `(pixel,)` of each look, by time.
        nir: likewise.
        clear: which looks are clear `(time, pixel)`.
    """
    rise = np.uint16(round(_RISE / PRODUCT_SCALE) - 1)
    brighter = [np.minimum(look, _MOST_DN - rise) + rise for look in blue]
    darker = [(look * _LEFT[1]).astype(np.uint16) + np.uint16(1) for look in nir]
    bright, dark = clear.copy(), clear.copy()
    for towards in (range(len(clear)), range(len(clear) - 1, -1, -1)):
        least, most = np.zeros(clear.shape[1], np.uint16), np.full(clear.shape[1], _MOST_DN)
        for date in towards:
            bright[date] &= blue[date] > least
            dark[date] &= nir[date] < most
            least, most = _chosen(clear[date], brighter[date], least), _chosen(clear[date], darker[date], most)
    return bright, dark


def _differs(
    blue: Sequence[NDArray[np.uint16]],
    nir: Sequence[NDArray[np.uint16]],
    clear: BoolArray,
    near: NDArray[np.uint8],
    bright: BoolArray,
    dark: BoolArray,
) -> None:
    """Add the clear looks near a cloud that are brighter, and darker, than any other clear look.

    Args:
        blue: product DN `(pixel,)` of each look, by time.
        nir: likewise.
        clear: which looks are clear `(time, pixel)`.
        near: `Near` values `(time, pixel)`.
        bright: looks that may be cloud `(time, pixel)`, changed in place.
        dark: looks that may be shadow `(time, pixel)`, changed in place.
    """
    if not near.any():
        return
    rise = np.uint16(round(_RISE_NEAR / PRODUCT_SCALE))
    least, most = np.full(clear.shape[1], _MOST_DN - rise), np.zeros(clear.shape[1], np.uint16)
    for date, known in enumerate(clear):
        np.minimum(least, _chosen(known, blue[date], least), out=least)
        np.maximum(most, nir[date] * known, out=most)
    least += rise
    most = np.ceil(most * _LEFT_NEAR[1]).astype(np.uint16)
    for date, around in enumerate(near):
        bright[date] |= ((around & np.uint8(Near.CLOUD)) > 0) & (blue[date] > least)
        dark[date] |= ((around & np.uint8(Near.SHADOW)) > 0) & (nir[date] < most)


def _chosen(where: BoolArray, one: NDArray[np.uint16], other: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return one array where a mask is set, else the other: `np.where` by bits, many times faster for ragged masks."""
    chosen: NDArray[np.uint16] = other ^ ((one ^ other) & np.negative(where.astype(np.uint16)))
    return chosen


def _judged(
    dn: NDArray[np.uint16], clear: BoolArray, bright: BoolArray, dark: BoolArray, near: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return what odd looks are `(time, pixel)`: cloud, shadow, or 0 for ground.

    Args:
        dn: looks by time `(time, band, pixel)`, bands as `_BANDS`.
        clear: which of them are clear `(time, pixel)`.
        bright: which of them may be cloud `(time, pixel)`.
        dark: which of them may be shadow `(time, pixel)`.
        near: `Near` values `(time, pixel)`.
    """
    kinds, looks = np.zeros(clear.shape, np.uint8), _Looks.of(dn, clear)
    for date in range(len(dn)):
        at = np.flatnonzero(dark[date])
        own, *others = looks.compared(date, at, _DARKENED)
        shaded = (near[date, at] & np.uint8(Near.SHADOW)) > 0
        lit = np.where(shaded, _middle(*others), np.minimum.reduce(others))
        kept = own / np.maximum(lit, np.float32(1e-4))
        shadow = (kept < np.where(shaded, _LEFT_NEAR, _LEFT)).all(axis=0) & (lit[1] > _DARK_GROUND)
        kinds[date, at[shadow]] = PixelClass.SHADOW
        at = np.flatnonzero(bright[date])
        own, *others = looks.compared(date, at, _BRIGHTENED)
        beside = (near[date, at] & np.uint8(Near.CLOUD)) > 0
        up = own - np.where(beside, _middle(*others), np.maximum.reduce(others))
        cloud = np.flatnonzero((up[0] > np.where(beside, _RISE_NEAR, _RISE)) & (up[0] > _WHITE * up[1]))
        spreads = np.where(beside[cloud], _SPREADS_NEAR, _SPREADS)
        sure = up[0, cloud] > spreads * looks.deviation(date, at[cloud], others[0][0, cloud])
        kinds[date, at[cloud[sure]]] = PixelClass.CLOUD
    return kinds


def _reflectance(dn: NDArray[np.uint16]) -> FloatArray:
    return dn * np.float32(PRODUCT_SCALE)


@dataclass(frozen=True, slots=True)
class _Looks:
    """All looks at some pixels, and what each of them is compared with."""

    #: Product DN `(time, band, pixel)`, by time.
    dn: NDArray[np.uint16]
    clear: BoolArray
    #: The last known look before and the first after each, 0 where there is none, likewise.
    before: NDArray[np.uint16]
    after: NDArray[np.uint16]
    #: Three neighbours in the middle of the known looks of a pixel in ascending order `(3, band, pixel)`.
    middle: NDArray[np.uint16]
    #: Pixels of an odd number of known looks `(pixel,)`: without one of them two are in the middle.
    odd: BoolArray

    @classmethod
    def of(cls, dn: NDArray[np.uint16], clear: BoolArray) -> _Looks:
        """Return the looks of pixels that have two known ones at least."""
        count, middle = clear.sum(axis=0, dtype=np.uint16), np.zeros((3, *dn.shape[1:]), np.uint16)
        ordered, first = _ordered(_chosen(clear[:, None], dn, np.full_like(dn, _MOST_DN))), (count - 2) // 2
        for place in range(len(dn) // 2):
            here = first == place
            for step, looks in enumerate(middle):
                looks |= ordered[min(place + step, len(dn) - 1)] * here
        before, after = _looks_before(dn, clear), _looks_before(dn[::-1], clear[::-1])[::-1]
        return cls(dn, clear, before, after, middle, count % 2 == 1)

    def compared(
        self, date: int, at: NDArray[np.intp], bands: slice
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return looks, the median of all others, and the looks before and after them, or the median without one.

        All are reflectance `(band, pixel)`.

        Args:
            date: of the looks.
            at: their pixels.
            bands: the bands asked for.
        """
        own, (lower, middle, upper) = (
            self.dn[date, bands].take(at, axis=1),
            (looks[bands].take(at, axis=1) for looks in self.middle),
        )
        # What is above the look that is left out moves down by one place.
        first = _chosen(lower < own, lower, middle)
        second = _chosen(self.odd.take(at), _chosen(middle < own, middle, upper), first)
        median = (first.astype(np.float32) + second) * np.float32(PRODUCT_SCALE / 2)
        sides = (side[date, bands].take(at, axis=1) for side in (self.before, self.after))
        before, after = (_reflectance(side) + median * (side == PRODUCT_NODATA) for side in sides)
        return _reflectance(own), median, before, after

    def deviation(self, date: int, at: NDArray[np.intp], median: FloatArray) -> FloatArray:
        """Return the scaled median absolute deviation `(pixel,)` in blue of all looks but one from their median."""
        others = np.arange(len(self.dn)) != date
        known, looks = self.clear.take(at, axis=1)[others], self.dn[:, 0].take(at, axis=1)[others]
        apart = np.abs(_reflectance(looks) - median)
        ordered, count = _ordered(np.where(known, apart, np.float32(np.inf))), known.sum(axis=0)
        lower, upper = (np.take_along_axis(ordered, place[None], 0)[0] for place in ((count - 1) // 2, count // 2))
        found: FloatArray = np.float32(1.4826) * (lower + upper) / np.float32(2)
        return found


def _middle(one: FloatArray, other: FloatArray, third: FloatArray) -> FloatArray:
    """Return the middle of three values, any shape."""
    middle: FloatArray = np.maximum(np.minimum(one, other), np.minimum(np.maximum(one, other), third))
    return middle


def _ordered(values: NDArray[Number]) -> NDArray[Number]:
    """Return values in ascending order along the first axis.

    The few values of a pixel are sorted by Batcher's merge exchange, all pixels at once: faster than `np.sort`.
    """
    ordered = values.copy()
    for one, other in _exchanges(len(values)):
        lower = np.minimum(ordered[one], ordered[other])
        np.maximum(ordered[one], ordered[other], out=ordered[other])
        ordered[one] = lower
    return ordered


def _exchanges(count: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places that merge exchange compares, in order (Knuth 5.2.2, algorithm M)."""
    block = 1
    while block < count:
        distance = block
        while distance:
            for first in range(distance % block, count - distance, 2 * distance):
                for one in range(first, min(first + distance, count - distance)):
                    if one // (2 * block) == (one + distance) // (2 * block):
                        yield one, one + distance
            distance //= 2
        block *= 2


def _looks_before(dn: NDArray[np.uint16], clear: BoolArray) -> NDArray[np.uint16]:
    """Return the last known look before each of `(time, band, pixel)`, 0 where there is none."""
    found = np.full_like(dn, PRODUCT_NODATA)
    for date in range(1, len(dn)):
        found[date] = _chosen(clear[date - 1], dn[date - 1], found[date - 1])
    return found


def _in_company(found: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what has enough suspicious or hidden neighbours."""
    for date, kinds in zip(range(len(found)), classes, strict=True):
        if not found[date].any():
            continue
        hidden = (found[date] > 0) | ~among(kinds, (*OBSERVED, PixelClass.NODATA))
        found[date][_neighbours(hidden) < _COMPANY] = 0
    return found


def _neighbours(mask: BoolArray) -> NDArray[np.uint8]:
    """Return how many pixels of each neighbourhood of 3 x 3 are set, `(y, x)`; none are beyond the edge."""
    padded = np.pad(mask.view(np.uint8), 1)
    along: NDArray[np.uint8] = padded[:, :-2] + padded[:, 1:-1]
    along += padded[:, 2:]
    around: NDArray[np.uint8] = along[:-2] + along[1:-1]
    around += along[2:]
    return around


def hide(classes: NDArray[np.uint8], found: NDArray[np.uint8], gsd_m: float) -> NDArray[np.uint8]:
    """Return a mask `(y, x)` in which what was found, grown a little, hides the ground.

    Args:
        classes: `PixelClass` values after dilation.
        found: from `suspicious`.
        gsd_m: pixel size, metres.
    """
    hidden, free = classes.copy(), is_observed(classes)
    for kind in (PixelClass.SHADOW, PixelClass.CLOUD):
        if (found == kind).any():
            hidden[grow(found == kind, _GROWTH_M, gsd_m) & free] = kind
    return hidden
