"""Cloud and shadow that a mask missed, found by looking at all dates together.

Ground changes slowly or for good; a cloud is there once. A clear look that is whiter, or darker, than the looks just
before and after it and than the median of all others is therefore no ground. Change that stays, such as a harvest or a
flood, is seen by the next look, too, and counts as ground; its colour tells it from cloud and shadow on the first and
the last date. After ideas of Tmask (Zhu and Woodcock 2014) and MAJA (Hagolle et al. 2010); the rules are our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import PixelClass, is_observed
from stac.masks.combination import grow
from stac.reflectance import PRODUCT_SCALE

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]

#: Clear looks that a pixel needs before one of them is judged.
FEWEST_LOOKS = 3
#: Least rise of blue that is cloud, reflectance, and in spreads of the other looks.
_RISE, _SPREADS = 0.03, 3.0
#: Cloud is white: blue rises by this share of red at least. Bare soil after a harvest is red.
_WHITE = 0.6
#: Shadow takes this share of near infrared at least, and of green and red: water and fire leave one of them.
_NIR_LEFT, _GREEN_LEFT, _RED_LEFT = 0.65, 0.85, 0.9
#: Ground that is dark in near infrared, such as water, shows no shadow, reflectance.
_DARK_GROUND = 0.12
#: Pixels of a neighbourhood of 3 x 3 that must be suspicious or masked: single ones are noise.
_COMPANY = 5
#: How far what was found is grown, metres: the rim of a cloud is thinner than what was found.
_GROWTH_M = 30.0
#: Pixels judged at once: so few that they stay in the processor's cache.
_CHUNK = 1 << 15


def suspicious(
    dn: NDArray[np.uint16], classes: NDArray[np.uint8], days: NDArray[np.int32], bands: Sequence[str]
) -> NDArray[np.uint8]:
    """Return `PixelClass.CLOUD` or `SHADOW` `(time, y, x)` where a clear look is neither ground nor lasting change.

    Everything else is 0. Snow that a mask knows is neither judged nor asked. Only the pixel itself and its neighbours
    within one pixel count, so a window gives what the whole gives, but for its outermost pixels.

    Args:
        dn: product DN `(time, band, y, x)`.
        classes: `PixelClass` values `(time, y, x)` before dilation.
        days: days since 1970-01-01 `(time,)`.
        bands: common names; without blue, green, red and nir nothing is found.
    """
    found = np.zeros(classes.shape, np.uint8)
    if not {"blue", "green", "red", "nir"} <= set(bands) or len(np.unique(days)) < FEWEST_LOOKS:
        return found
    blue, nir = (dn[:, bands.index(name)] for name in ("blue", "nir"))
    clear = classes == PixelClass.CLEAR
    enough = clear.sum(axis=0, dtype=np.uint8) >= FEWEST_LOOKS
    darkest, brightest = np.full(enough.shape, 65535, np.uint16), np.zeros(enough.shape, np.uint16)
    for date, here in enumerate(clear):
        np.minimum(darkest, blue[date], out=darkest, where=here)
        np.maximum(brightest, nir[date], out=brightest, where=here)
    rise, left = np.uint16(round(_RISE / PRODUCT_SCALE)), np.float32(_NIR_LEFT)
    order = np.argsort(days, kind="stable")
    channels = [bands.index(name) for name in ("blue", "green", "red", "nir")]
    pixels, seen, judged = dn.reshape(*dn.shape[:2], -1), clear.reshape(len(dn), -1), found.reshape(len(dn), -1)
    for place, date in enumerate(order):
        # Few pixels of clear dates come this far.
        bright = blue[date] > np.minimum(darkest, 65535 - rise) + rise
        asked = np.flatnonzero(clear[date] & enough & (bright | (nir[date] < left * brightest)))
        for start in range(0, len(asked), _CHUNK):
            some = asked[start : start + _CHUNK]
            looks = pixels.take(some, axis=2)[:, channels]
            judged[date, some] = _judged(looks[order], seen.take(some, axis=1)[order], place)
    return _in_company(found, classes)


def reach_of(gsd_m: float) -> int:
    """Return how far from a pixel others decide whether it is hidden, pixels."""
    return math.floor(_GROWTH_M / gsd_m + 1e-9) + 1


def _judged(dn: NDArray[np.uint16], clear: BoolArray, date: int) -> NDArray[np.uint8]:
    """Return what pixels `(pixel,)` of a date are: cloud, shadow, or 0 for ground.

    Args:
        dn: looks by time `(time, band, pixel)`, bands blue, green, red, nir.
        clear: which of them are clear `(time, pixel)`.
        date: position of the date in time.
    """
    looks = np.where(clear[:, None], dn * np.float32(PRODUCT_SCALE), np.float32(np.nan)).astype(np.float32)
    own, others = looks[date].copy(), np.delete(looks, date, axis=0)
    median = _median(others)
    spread = 1.4826 * _median(np.abs(others[:, 0] - median[0]))
    before, after = _nearest(looks[:date][::-1], median), _nearest(looks[date + 1 :], median)
    high, low = (of.reduce([median, before, after]) for of in (np.maximum, np.minimum))
    up = own - high
    cloud = (up[0] > np.maximum(_RISE, _SPREADS * spread)) & (up[0] > _WHITE * up[2])
    kept = own / np.maximum(low, np.float32(1e-4))
    shadow = (kept[3] < _NIR_LEFT) & (kept[1] < _GREEN_LEFT) & (kept[2] < _RED_LEFT) & (low[3] > _DARK_GROUND)
    return np.where(cloud, PixelClass.CLOUD, np.where(shadow, PixelClass.SHADOW, 0)).astype(np.uint8)


def _median(values: FloatArray) -> FloatArray:
    """Return the median of what is known along the first axis, NaN where nothing is.

    The few values of a pixel are sorted by comparing neighbours, all pixels at once: many times faster than
    `np.nanmedian`, and the same to the last bit.
    """
    known = np.isfinite(values)
    ordered = np.where(known, values, np.float32(np.inf))
    for start in range(len(ordered)):
        for one in range(start % 2, len(ordered) - 1, 2):
            lower = np.minimum(ordered[one], ordered[one + 1])
            np.maximum(ordered[one], ordered[one + 1], out=ordered[one + 1])
            ordered[one] = lower
    count = known.sum(axis=0)
    middle = [
        np.take_along_axis(ordered, at[None], 0)[0] for at in (np.maximum(count - 1, 0) // 2, count // 2 % len(values))
    ]
    found: FloatArray = (middle[0] + middle[1]) / np.float32(2)
    found[count == 0] = np.nan
    return found


def _nearest(looks: FloatArray, otherwise: FloatArray) -> FloatArray:
    """Return the first look of every pixel `(band, pixel)`; what is given otherwise where there is none."""
    found = otherwise.copy()
    missing = np.ones(found.shape[1], bool)
    for look in looks:
        here = missing & np.isfinite(look[0])
        found[:, here] = look[:, here]
        missing &= ~here
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
