"""Cloudy/clear pairs of the same ground, mined from the stacks of a catalog's cells."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from de_model.data.pairs import ScenePair
from flows.errors import InvalidSettings
from flows.models.pair_checks import PairLimits, objection
from flows.stacks import SceneSet, stacks_of
from stac.composite.normalisation import clean_sky_match
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_obscured, is_observed

_log = logging.getLogger("unveil")

#: A date is cloudy when this share of its valid pixels is hidden, and clear when this share is seen.
_CLOUDY_SHARE, _CLEAR_SHARE = (0.15, 0.95), 0.85


@dataclass(frozen=True, slots=True)
class PairChoice:
    """Which of the pairs are taken."""

    limits: PairLimits
    #: Names of the only ones, as a training set lists them; empty for all that keep the limits.
    names: tuple[str, ...] = ()


def mine_pairs(scenes: SceneSet, choice: PairChoice | None = None) -> tuple[list[ScenePair], float]:
    """Return the pairs of all cells, and the ground sampling distance in metres.

    Args:
        scenes: the cells.
        choice: which pairs are taken; every pair when left out.

    Raises:
        InvalidSettings: there is no cell, or the cells hold no pair or have different sampling distances.
    """
    stacks = list(stacks_of(scenes))
    pairs = [pair for stack in stacks for pair in pairs_of(stack, choice)]
    if not pairs:
        raise InvalidSettings(
            f"Cells {', '.join(scenes.cells) or '(none)'} hold no pair of a cloudy and a clear date; widen --datetime."
        )
    distances = {abs(float(stack.cell.geobox.resolution.x)) for stack in stacks}
    if len(distances) > 1:
        raise InvalidSettings(
            f"Cells {', '.join(scenes.cells)} have pixels of {sorted(distances)} m; train on one size at a time."
        )
    return pairs, distances.pop()


def pairs_of(stack: Stack, choice: PairChoice | None = None) -> list[ScenePair]:
    """Return the pairs of a cloudy and a clear date of a stack, the clear one matched to the cloudy one."""
    cloudy, clear = cloudy_and_clear(stack)
    pairs = (_pair(stack, c, k, choice) for c in cloudy for k in clear)
    return [pair for pair in pairs if pair is not None]


def cloudy_and_clear(stack: Stack) -> tuple[list[int], list[int]]:
    """Return the indices of the dates that are cloudy in part, and of those that are clear."""
    valid = [classes != PixelClass.NODATA for classes in stack.classes]
    hidden = [is_obscured(c)[v].mean() if v.any() else 0.0 for c, v in zip(stack.classes, valid, strict=True)]
    cloudy = [i for i, share in enumerate(hidden) if _CLOUDY_SHARE[0] <= share <= _CLOUDY_SHARE[1]]
    clear = [i for i, share in enumerate(hidden) if valid[i].any() and share <= 1 - _CLEAR_SHARE]
    return cloudy, clear


def _pair(stack: Stack, cloudy: int, clear: int, choice: PairChoice | None) -> ScenePair | None:
    name = f"{stack.item_ids[cloudy]} <- {stack.item_ids[clear]}"
    if choice is not None and choice.names and name not in choice.names:
        return None
    seen = is_observed(stack.classes[clear])
    ground = np.where(seen, stack.reflectance(clear), np.float32(np.nan))
    # Matched where the cloudy date is cleanest: a fit over all its clear pixels would teach the haze around clouds.
    shift = np.array([fit.intercept for fit in clean_sky_match(ground, stack, cloudy)], np.float32)
    matched = np.where(np.isnan(ground), ground, np.maximum(ground + shift[:, None, None], 1e-4))
    if choice is not None and (reason := objection(stack, cloudy, clear, matched, choice.limits)) is not None:
        _log.info("left out: %s", reason)
        return None
    has_data = stack.classes[cloudy] != PixelClass.NODATA
    return ScenePair(
        name=name,
        cloudy=stack.reflectance(cloudy),
        clear=matched,
        valid=has_data & seen,
        obscured=is_obscured(stack.classes[cloudy]),
    )
