"""One mask from several: each votes on what it can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique

import numpy as np
from numpy.typing import NDArray

from stac.errors import InvalidInput
from stac.masks.classes import OBSCURED, PixelClass

ClassArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]


@unique
class MaskRule(StrEnum):
    """How many masks must agree."""

    #: One is enough: hides most.
    ANY = "any"
    #: All that can tell the class: hides least.
    ALL = "all"
    #: More than half of those that can tell the class.
    MAJORITY = "majority"
    #: The first mask that knows the pixel; the others fill its gaps.
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one mask says."""

    #: `PixelClass` values `(y, x)`.
    classes: ClassArray
    #: What it can tell from clear ground.
    sees: frozenset[PixelClass]


#: Questions that are voted on, most important first: a pixel gets the class of the first that is carried.
_QUESTIONS = (
    (PixelClass.CLOUD, PixelClass.THIN_CLOUD),
    (PixelClass.SHADOW,),
    (PixelClass.DEFECTIVE,),
    (PixelClass.SNOW,),
)


def combine(opinions: Sequence[Opinion], rule: MaskRule) -> ClassArray:
    """Return the mask `(y, x)` that several masks make together.

    Nodata wins: what one mask knows to hold no data is not data (`first` instead asks the next mask). A mask that
    cannot tell a class has no vote on it: s2cloudless saying clear does not contradict a shadow. Cloud and thin cloud
    are one question; the cloud is thin when nobody who can tell calls it thick. Masks that agree that the ground is
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
    together = _carried(opinions, OBSCURED, rule) & ~np.isin(found, OBSCURED)
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
    """Return where `(y, x)` enough of the masks that can tell say one of the classes."""
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
    for kind in (PixelClass.DEFECTIVE, PixelClass.SHADOW, PixelClass.THIN_CLOUD, PixelClass.CLOUD):
        for opinion in opinions:
            found[opinion.classes == kind] = kind
    return found
