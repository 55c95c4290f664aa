"""Which pixels are compared: restored ones, by class and together, and the observed ones around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from stac.provenance import RESTORED, Provenance
from stac.quality.parts import Part

BoolArray = NDArray[np.bool_]

#: Name of all restored pixels together, and what each group holds.
EVERYTHING = "restored"
GROUPS: dict[str, tuple[Provenance, ...]] = {EVERYTHING: RESTORED} | {p.name.lower(): (p,) for p in RESTORED}

#: How far from a patch its surroundings reach: where the ground is alike, but beyond the haze at a cloud's edge.
_REACH_M, _LEAST_REACH, _MOST_REACH = 1000.0, 8, 100
#: Fewer pixels than this on either side, and a comparison says nothing.
FEWEST = 30


@dataclass(frozen=True, slots=True)
class Group:
    """Pixels of one group in a part, whole part with its margin, `(y, x)`."""

    #: Pixels of the group.
    inside: BoolArray
    #: Those of them that lie near observed ones.
    rim: BoolArray
    #: Observed pixels that lie near the group.
    ring: BoolArray


def reach_of(gsd_m: float) -> int:
    """Return how far surroundings reach, pixels."""
    return int(np.clip(round(_REACH_M / gsd_m), _LEAST_REACH, _MOST_REACH))


def groups_of(part: Part, reach: int) -> dict[str, Group]:
    """Return the groups that a part holds, by name.

    Near means at most `reach` pixels away along rows and along columns. Only the core is right: the margin must be
    at least `reach`.
    """
    observed = part.provenance == Provenance.OBSERVED
    found = {name: np.isin(part.provenance, classes) for name, classes in GROUPS.items()}
    beside = _near(observed, reach)
    return {
        name: Group(inside, inside & beside, observed & _near(inside, reach))
        for name, inside in found.items()
        if inside.any()
    }


def _near(mask: BoolArray, reach: int) -> BoolArray:
    near: BoolArray = maximum_filter(mask.view(np.uint8), 2 * reach + 1, mode="constant").view(np.bool_)
    return near
