"""Combine masks and grow their classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique

import numpy as np
import pystac
from numpy.typing import NDArray

from stac.errors import InvalidInput
from stac.grid.assets import has_asset
from stac.masks.classes import HIDDEN, PixelClass, among, around_square, is_observed
from stac.masks.methods import OMNICLOUDMASK, QA_PIXEL, S2CLOUDLESS, SCL, MaskMethod

ClassArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]
#: Questions that are voted on, most important first: a pixel gets the class of the first that is carried.
_QUESTIONS = (
    (PixelClass.CLOUD, PixelClass.THIN_CLOUD),
    (PixelClass.SHADOW,),
    (PixelClass.DEFECTIVE,),
    (PixelClass.SNOW,),
)


@unique
class MaskKind(StrEnum):
    """A way to separate cloud and shadow from ground."""

    #: Sentinel-2 scene classification, an asset.
    SCL = "scl"
    #: Landsat Collection 2 quality band, an asset.
    QA_PIXEL = "qa_pixel"
    #: Cloud probability from ten bands of Sentinel-2 Level-1C.
    S2CLOUDLESS = "s2cloudless"
    #: Deep learning from red, green and near infrared; an optional package.
    OMNICLOUDMASK = "omnicloudmask"
    #: What other dates disagree with (`stac.masks.temporal`); beside the other masks, never alone.
    TEMPORAL = "temporal"

    @property
    def method(self) -> MaskMethod:
        """How the mask is made."""
        return _METHODS[self]


_METHODS = {
    MaskKind.SCL: SCL,
    MaskKind.QA_PIXEL: QA_PIXEL,
    MaskKind.S2CLOUDLESS: S2CLOUDLESS,
    MaskKind.OMNICLOUDMASK: OMNICLOUDMASK,
}


def kinds_for(item: pystac.Item, asked: Sequence[MaskKind]) -> tuple[MaskKind, ...]:
    """Return the masks asked for, or, when none was, the one that comes with the scene."""
    asked = [kind for kind in asked if kind is not MaskKind.TEMPORAL]
    if asked:
        return tuple(asked)
    return (MaskKind.QA_PIXEL,) if has_asset(item, "qa_pixel") else (MaskKind.SCL,)


def disk(radius_m: float, gsd_m: float) -> BoolArray:
    """Return a disk `(y, x)` of `radius_m` metres on a grid of `gsd_m` metres; at least its own centre."""
    reach = math.floor(radius_m / gsd_m + 1e-9)
    offset = np.arange(-reach, reach + 1) * gsd_m
    inside: BoolArray = np.hypot(offset[:, None], offset[None, :]) <= radius_m + 1e-6
    return inside


def grow(mask: BoolArray, radius_m: float, gsd_m: float) -> BoolArray:
    """Return `mask` `(y, x)` grown by a disk of `radius_m` metres on a grid of `gsd_m` metres.

    A disk is a pile of rows, so the mask is widened by one pixel at a time and added to the result once for every row
    that is as wide: as many passes as the disk has rows, where a general dilation takes one for every pixel of it.
    """
    half_widths = (disk(radius_m, gsd_m).sum(axis=1) - 1) // 2
    reach = len(half_widths) // 2
    grown, wide = mask.copy(), mask.copy()
    for half_width in range(reach + 1):
        if half_width:
            wider = wide.copy()
            wider[:, 1:] |= wide[:, :-1]
            wider[:, :-1] |= wide[:, 1:]
            wide = wider
        for row in np.flatnonzero(half_widths == half_width) - reach:
            _add_moved(grown, wide, int(row))
    return grown


def _add_moved(grown: BoolArray, mask: BoolArray, rows: int) -> None:
    """Add `mask`, moved down by `rows`, to `grown` in place."""
    height = len(mask)
    if abs(rows) < height:
        grown[max(rows, 0) : height + min(rows, 0)] |= mask[max(-rows, 0) : height - max(rows, 0)]


def dilate(classes: ClassArray, gsd_m: float, cloud_m: float, shadow_m: float) -> ClassArray:
    """Return the mask with cloud and shadow grown over observed ground.

    Only clear and snow pixels change; what was hidden stays what it was, nodata stays nodata. Cloud wins
    over shadow where both grow.

    Args:
        classes: `PixelClass` values `(y, x)`.
        gsd_m: pixel size, metres.
        cloud_m: reach of clouds (thin ones too), metres, 0 or more.
        shadow_m: reach of shadows, metres, 0 or more.

    Raises:
        InvalidInput: a distance is negative or the pixel size is not positive.
    """
    if gsd_m <= 0 or cloud_m < 0 or shadow_m < 0:
        raise InvalidInput(f"Dilation of {cloud_m} m / {shadow_m} m at {gsd_m} m: distances must not be negative.")
    grown, free = classes.copy(), is_observed(classes)
    for kinds, reach, becomes in (
        ((PixelClass.SHADOW,), shadow_m, PixelClass.SHADOW),
        ((PixelClass.CLOUD, PixelClass.THIN_CLOUD), cloud_m, PixelClass.CLOUD),
    ):
        if reach / gsd_m + 1e-9 >= 1:
            near = grow(among(classes, kinds), reach, gsd_m)
            grown[near & free] = becomes
    return grown


def without_mixed(classes: ClassArray, dilated: ClassArray, reach: int) -> ClassArray:
    """Return a dilated mask in which no ground counts as observed that other than ground was mixed into.

    Args:
        classes: `PixelClass` values `(y, x)` before dilation.
        dilated: the same after it.
        reach: pixels that resampling reaches to every side.
    """
    grown, free = dilated.copy(), is_observed(dilated)
    for kind in (PixelClass.NODATA, *HIDDEN):
        grown[around_square(among(classes, (kind,)), reach) & free] = kind
    return grown


@unique
class MaskRule(StrEnum):
    """How many masks must agree."""

    #: One is enough: hides most.
    ANY = "any"
    #: All that know the class: hides least.
    ALL = "all"
    #: More than half of those that know the class.
    MAJORITY = "majority"
    #: The first mask that knows the pixel; the others fill its gaps.
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one mask says."""

    #: `PixelClass` values `(y, x)`.
    classes: ClassArray
    #: What it separates from clear ground.
    sees: frozenset[PixelClass]


def combine(opinions: Sequence[Opinion], rule: MaskRule) -> ClassArray:
    """Return the mask `(y, x)` that several masks make together.

    Nodata wins: what one mask knows to hold no data is not data (`first` instead asks the next mask). A mask that
    does not know a class has no vote on it: s2cloudless saying clear does not contradict a shadow. Cloud and thin cloud
    are one question; the cloud is thin when none that knows calls it thick. Masks that agree that the ground is
    hidden, one by cloud and one by shadow, are counted together, too.

    Raises:
        InvalidInput: there is no mask.
    """
    if not opinions:
        raise InvalidInput("No mask was given; name at least one, such as scl.")
    if rule is MaskRule.FIRST or len(opinions) == 1:
        return _first(opinions)
    found = np.full(opinions[0].classes.shape, PixelClass.CLEAR, np.uint8)
    for classes in reversed(_QUESTIONS):
        carried = _carried(opinions, classes, rule)
        found[carried] = _thickness(opinions)[carried] if PixelClass.CLOUD in classes else classes[0]
    together = _carried(opinions, HIDDEN, rule) & ~np.isin(found, HIDDEN)
    found[together] = _most_severe(opinions)[together]
    for opinion in opinions:
        found[opinion.classes == PixelClass.NODATA] = PixelClass.NODATA
    return found


def _first(opinions: Sequence[Opinion]) -> ClassArray:
    found = opinions[0].classes.copy()
    for opinion in opinions[1:]:
        unknown = found == PixelClass.NODATA
        found[unknown] = opinion.classes[unknown]
    return found


def _carried(opinions: Sequence[Opinion], classes: Sequence[PixelClass], rule: MaskRule) -> BoolArray:
    """Return where `(y, x)` enough of the masks that know it say one of the classes."""
    voters = [opinion for opinion in opinions if opinion.sees & set(classes)]
    votes = np.zeros(opinions[0].classes.shape, np.uint8)
    for opinion in voters:
        votes += np.isin(opinion.classes, classes)
    needed = {MaskRule.ANY: 1, MaskRule.ALL: len(voters)}.get(rule, len(voters) // 2 + 1)
    return votes >= max(needed, 1)


def _thickness(opinions: Sequence[Opinion]) -> ClassArray:
    """Return cloud or thin cloud `(y, x)`, for pixels that are one of them."""
    judges = [opinion.classes for opinion in opinions if PixelClass.THIN_CLOUD in opinion.sees]
    thick = np.zeros(opinions[0].classes.shape, np.bool_)
    thin = thick.copy()
    for classes in judges:
        thick |= classes == PixelClass.CLOUD
        thin |= classes == PixelClass.THIN_CLOUD
    return np.where(thin & ~thick, PixelClass.THIN_CLOUD, PixelClass.CLOUD).astype(np.uint8)


def _most_severe(opinions: Sequence[Opinion]) -> ClassArray:
    found = np.full(opinions[0].classes.shape, PixelClass.CLEAR, np.uint8)
    for kind in HIDDEN:
        for opinion in opinions:
            found[opinion.classes == kind] = kind
    return found
