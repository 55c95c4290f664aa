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
from enum import IntFlag, unique
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import PixelClass, is_observed
from stac.masks.combination import grow
from stac.reflectance import PRODUCT_SCALE

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
Number = TypeVar("Number", np.uint16, np.float32)

#: Clear looks that a pixel needs before one of them is judged.
FEWEST_LOOKS = 3
#: Least rise of blue that is cloud, reflectance, and in spreads of the other looks.
_RISE, _SPREADS = 0.03, 3.0
#: Cloud is white: blue rises by this share of red at least. Bare soil after a harvest is red.
_WHITE = 0.6
#: Most that a shadow leaves of green, red and near infrared: water and fire leave one of them.
_LEFT = np.array([[0.85], [0.9], [0.65]], np.float32)
#: The same near a cloud, and where it can have its shadow; over the middle of the three.
_RISE_NEAR, _SPREADS_NEAR = 0.02, 2.0
_LEFT_NEAR = np.array([[0.92], [0.95], [0.8]], np.float32)
#: Ground that is dark in near infrared, such as water, shows no shadow, reflectance.
_DARK_GROUND = 0.12
#: Pixels of a neighbourhood of 3 x 3 that must be suspicious or masked: single ones are noise.
_COMPANY = 5
#: How far what was found is grown, metres: the rim of a cloud is thinner than what was found.
_GROWTH_M = 30.0
#: Pixels judged at once: so few that they stay in the processor's cache.
_CHUNK = 1 << 15
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
    if not {"blue", "green", "red", "nir"} <= set(bands) or len(np.unique(days)) < FEWEST_LOOKS:
        return found
    channels = [bands.index(name) for name in ("blue", "green", "red", "nir")]
    order = np.argsort(days, kind="stable")
    pixels, seen, judged = dn.reshape(*dn.shape[:2], -1), classes.reshape(len(dn), -1), found.reshape(len(dn), -1)
    flags = np.zeros_like(classes) if near is None else near
    flags = flags.reshape(len(dn), -1)

    def judge(start: int) -> None:
        here = slice(start, start + _CHUNK)
        looks, clear = pixels[order, :, here][:, channels], seen[order, here] == PixelClass.CLEAR
        around = flags[order, here] * clear
        odd = _stands_out(looks[:, 0], looks[:, 3], clear) | _differs(looks[:, 0], looks[:, 3], clear, around)
        odd &= clear.sum(axis=0, dtype=np.uint16) >= FEWEST_LOOKS
        asked = np.flatnonzero(odd.any(axis=0))
        judged[order[:, None], start + asked] = _judged(
            looks[:, :, asked], clear[:, asked], odd[:, asked], around[:, asked]
        )

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="judge") as pool:
        list(pool.map(judge, range(0, pixels.shape[2], _CHUNK)))
    return _in_company(found, classes)


def reach_of(gsd_m: float) -> int:
    """Return how far from a pixel others decide whether it is hidden, pixels."""
    return math.floor(_GROWTH_M / gsd_m + 1e-9) + 1


def _stands_out(blue: NDArray[np.uint16], nir: NDArray[np.uint16], clear: BoolArray) -> BoolArray:
    """Return the clear looks `(time, pixel)` that differ from the clear looks just before and after them.

    A few comparisons for each look, however many there are; few looks are left to be judged.

    Args:
        blue: product DN `(time, pixel)`, by time.
        nir: likewise.
        clear: which looks are clear.
    """
    rise = np.uint16(round(_RISE / PRODUCT_SCALE) - 1)
    bright, dark = clear.copy(), clear.copy()
    for towards in (range(len(clear)), range(len(clear) - 1, -1, -1)):
        least, most = np.zeros(clear.shape[1], np.uint16), np.full(clear.shape[1], 65535, np.uint16)
        for date in towards:
            bright[date] &= blue[date] > least
            dark[date] &= nir[date] < most
            least = np.where(clear[date], np.minimum(blue[date], 65535 - rise) + rise, least)
            most = np.where(clear[date], (nir[date] * _LEFT[2]).astype(np.uint16) + 1, most)
    return bright | dark


def _differs(blue: NDArray[np.uint16], nir: NDArray[np.uint16], clear: BoolArray, near: NDArray[np.uint8]) -> BoolArray:
    """Return the clear looks `(time, pixel)` near a cloud that differ from any other clear look.

    Args:
        blue: product DN `(time, pixel)`.
        nir: likewise.
        clear: which looks are clear.
        near: `Near` values.
    """
    if not near.any():
        return np.zeros_like(clear)
    least = np.where(clear, blue, np.uint16(65535)).min(axis=0) + np.float32(_RISE_NEAR / PRODUCT_SCALE)
    most = np.where(clear, nir, np.uint16(0)).max(axis=0) * _LEFT_NEAR[2]
    brighter, darker = ((near & Near.CLOUD) > 0) & (blue > least), ((near & Near.SHADOW) > 0) & (nir < most)
    found: BoolArray = brighter | darker
    return found


def _judged(dn: NDArray[np.uint16], clear: BoolArray, odd: BoolArray, near: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what odd looks are `(time, pixel)`: cloud, shadow, or 0 for ground.

    Args:
        dn: looks by time `(time, band, pixel)`, bands blue, green, red, nir.
        clear: which of them are clear `(time, pixel)`.
        odd: which of them are judged `(time, pixel)`.
        near: `Near` values `(time, pixel)`.
    """
    kinds = np.zeros(clear.shape, np.uint8)
    looks = np.where(clear[:, None], dn * np.float32(PRODUCT_SCALE), np.float32(np.nan)).astype(np.float32)
    ordered, count = _ordered(np.where(clear[:, None], dn, np.uint16(65535))), clear.sum(axis=0)
    after = _looks_before(looks[::-1])[::-1]
    before = _looks_before(looks)
    for date in range(len(looks)):
        at = np.flatnonzero(odd[date])
        own = looks[date][:, at]
        median = _median_of_others(ordered[:, :, at], dn[date][:, at], count[at])
        sides = [np.where(np.isnan(side[date][:, at]), median, side[date][:, at]) for side in (before, after)]
        high, low = (of.reduce([median, *sides]) for of in (np.maximum, np.minimum))
        middle = np.maximum(np.minimum(*sides), np.minimum(np.maximum(*sides), median))
        beside, shaded = ((near[date, at] & flag) > 0 for flag in (Near.CLOUD, Near.SHADOW))
        up = own - np.where(beside, middle, high)
        cloud = (up[0] > np.where(beside, _RISE_NEAR, _RISE)) & (up[0] > _WHITE * up[2])
        bright = np.flatnonzero(cloud)
        others = np.delete(looks[:, 0, at[bright]], date, axis=0)
        spreads = np.where(beside[bright], _SPREADS_NEAR, _SPREADS)
        cloud[bright] = up[0, bright] > spreads * _deviation(others, median[0, bright])
        lit = np.where(shaded, middle, low)
        kept = (own / np.maximum(lit, np.float32(1e-4)))[1:]
        shadow = (kept < np.where(shaded, _LEFT_NEAR, _LEFT)).all(axis=0) & (lit[3] > _DARK_GROUND)
        kinds[date, at] = np.where(cloud, PixelClass.CLOUD, np.where(shadow, PixelClass.SHADOW, 0))
    return kinds


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


def _median_of_others(ordered: NDArray[np.uint16], own: NDArray[np.uint16], count: NDArray[np.int64]) -> FloatArray:
    """Return the median reflectance `(band, pixel)` of all looks but one of each pixel.

    Args:
        ordered: product DN of all looks in ascending order, unknown ones last `(time, band, pixel)`.
        own: the look that is left out `(band, pixel)`.
        count: known looks `(pixel,)`, at least 2.
    """
    rank = (ordered < own).sum(axis=0)
    lower, upper = (
        np.take_along_axis(ordered, (at + (at >= rank))[None], 0)[0].astype(np.float32)
        for at in ((count - 2) // 2, (count - 1) // 2)
    )
    found: FloatArray = (lower + upper) * np.float32(PRODUCT_SCALE / 2)
    return found


def _deviation(values: FloatArray, middle: FloatArray) -> FloatArray:
    """Return the scaled median absolute deviation `(pixel,)` of known values `(time, pixel)` from a middle."""
    known = np.isfinite(values)
    ordered, count = _ordered(np.where(known, np.abs(values - middle), np.float32(np.inf))), known.sum(axis=0)
    lower, upper = (np.take_along_axis(ordered, at[None], 0)[0] for at in ((count - 1) // 2, count // 2))
    found: FloatArray = np.float32(1.4826) * (lower + upper) / np.float32(2)
    return found


def _looks_before(looks: FloatArray) -> FloatArray:
    """Return the last known look before each of `(time, band, pixel)`, NaN where there is none."""
    found = np.full_like(looks, np.nan)
    for date in range(1, len(looks)):
        found[date] = np.where(np.isnan(looks[date - 1]), found[date - 1], looks[date - 1])
    return found


def _in_company(found: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what has enough suspicious or hidden neighbours."""
    for date, kinds in zip(range(len(found)), classes, strict=True):
        if not found[date].any():
            continue
        hidden = (found[date] > 0) | ~(is_observed(kinds) | (kinds == PixelClass.NODATA))
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
