"""Training pairs: mine them from scenes, check them, bring folders and pairs together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from de_model.data.datasets import Split
from de_model.data.pairs import PairData, ScenePair
from de_model.data.readers import open_dataset
from flows.errors import InvalidSettings
from flows.planning.search import SceneSet, fullest_window, stacks_of
from stac.composite.normalisation import clean_sky_match
from stac.io.secrets import redact
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Fewer pixels than this seen on both dates, and nothing can be checked: the pair is left out.
_FEWEST = 400
#: Side of the window in which dates are registered, pixels.
_WINDOW = 256
#: Shifts that are tried, pixels in each direction.
_REACH = 3


@dataclass(frozen=True, slots=True)
class PairLimits:
    """What a pair must keep, measured on the pixels that both dates saw."""

    #: Days between the dates.
    most_days: int = 15
    #: Shift of one date against the other at which they fit best, pixels.
    most_shift: int = 1
    #: Share of pixels whose mean absolute difference, after the match, exceeds `change`. Haze around clouds is change,
    #: too: up to 0.36 of the sample's cloudiest date.
    most_changed: float = 0.5
    #: Reflectance.
    change: float = 0.05


def objection(stack: Stack, cloudy: int, clear: int, ground: FloatArray, limits: PairLimits) -> str | None:
    """Return why a pair is left out, one sentence; None for a good pair.

    Args:
        stack: all dates of the cell.
        cloudy: index of one date.
        clear: index of the other.
        ground: reflectance `(band, y, x)` of the clear date, matched to the cloudy one, NaN where it saw nothing.
        limits: what it must keep.
    """
    name = f"{stack.item_ids[cloudy]} <- {stack.item_ids[clear]}"
    days = abs(int(stack.days[cloudy]) - int(stack.days[clear]))
    if days > limits.most_days:
        return f"{name}: {days} days apart, more than {limits.most_days}."
    both = is_observed(stack.classes[cloudy]) & np.isfinite(ground).all(axis=0)
    if both.sum() < _FEWEST:
        return f"{name}: only {int(both.sum())} pixels were seen on both dates."
    scene = stack.reflectance(cloudy)
    at = fullest_window(both, _WINDOW)
    shift = best_shift(scene[-1][at], ground[-1][at], both[at])
    if max(map(abs, shift)) > limits.most_shift:
        return f"{name}: shifted by {shift[0]} rows and {shift[1]} columns."
    changed = float((np.abs(scene - ground).mean(axis=0)[both] > limits.change).mean())
    if changed > limits.most_changed:
        return f"{name}: {changed:.0%} of the ground has changed, more than {limits.most_changed:.0%}."
    return None


def best_shift(one: FloatArray, other: FloatArray, where: BoolArray) -> tuple[int, int]:
    """Return by how many rows and columns `other` lies off `one`: the shift with the highest correlation.

    Pearson's correlation over the pixels that are seen in both after the shift (masked registration, Padfield 2012,
    https://doi.org/10.1109/TIP.2011.2181402, evaluated for small shifts only).

    Args:
        one: `(y, x)`.
        other: `(y, x)`.
        where: `(y, x)`, pixels seen in both.
    """
    a, b = np.where(where, one, np.nan), np.where(where, other, np.nan)
    found: dict[tuple[int, int], float] = {}
    for row in range(-_REACH, _REACH + 1):
        for column in range(-_REACH, _REACH + 1):
            found[row, column] = _correlation(a, np.roll(b, (-row, -column), axis=(0, 1)))
    # Of equals the smallest shift: flat ground says nothing.
    return max(found, key=lambda shift: (round(found[shift], 6), -abs(shift[0]) - abs(shift[1])))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    inside = np.s_[_REACH:-_REACH, _REACH:-_REACH]
    one, other = a[inside], b[inside]
    both = np.isfinite(one) & np.isfinite(other)
    x, y = one[both].astype(np.float64), other[both].astype(np.float64)
    if len(x) < 2 or not (x.std() and y.std()):
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


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
    hidden = [is_hidden(c)[v].mean() if v.any() else 0.0 for c, v in zip(stack.classes, valid, strict=True)]
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
    image = stack.reflectance(cloudy)
    return ScenePair(
        name=name,
        cloudy=image,
        clear=matched,
        valid=np.isfinite(image).all(axis=0) & seen,  # deep shadow may lack a band
        obscured=is_hidden(stack.classes[cloudy]),
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """A data set on disk: RICE, CUHK-CR, or pairs in `cloud` and `label`."""

    path: Path
    #: Pixel size in metres, for data sets that do not say; what they say wins.
    gsd_m: float | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """Everything a training looks at, and what it is for people and for the model's card."""

    data: PairData
    #: Names of the pairs.
    names: tuple[str, ...]
    bands: tuple[str, ...]
    gsd_m: float
    #: What it is, in a few words.
    title: str
    #: URL or path it is from.
    source: str


def material_of(scenes: SceneSet, folder: Folder | None, choice: PairChoice | None = None) -> Material:
    """Return the pairs of a folder where one is given, else those of the scenes.

    Args:
        scenes: cells of a catalog.
        folder: a data set instead; its training part where it has parts.
        choice: which pairs of the scenes are taken; every pair when left out.

    Raises:
        InvalidSettings: there are no pairs, both cells and a folder are given, or the pixel size is not known.
        InvalidData: the folder holds no data set that can be used.
    """
    if folder is None:
        if not scenes.cells:
            raise InvalidSettings("There is nothing to train on; give --cell MGRS-33TWM, or --data FOLDER.")
        return _from_scenes(scenes, choice)
    if scenes.cells:
        raise InvalidSettings(f"Both --data {folder.path} and --cell are given; train on one of them.")
    return _from_folder(folder)


def _from_scenes(scenes: SceneSet, choice: PairChoice | None) -> Material:
    pairs, gsd_m = mine_pairs(scenes, choice)
    title = f"{scenes.collection} {scenes.interval}, cells {', '.join(scenes.cells)}"
    return Material(
        PairData(pairs),
        tuple(pair.name for pair in pairs),
        scenes.bands,
        gsd_m,
        title,
        redact(scenes.source),
    )


def _from_folder(folder: Folder) -> Material:
    pairs = open_dataset(folder.path, split=Split.TRAIN)
    dataset, gsd_m = pairs[0].files.dataset, pairs[0].gsd_m or folder.gsd_m
    if gsd_m is None:
        raise InvalidSettings(f"{dataset} does not say how large its pixels are; give --gsd METRES.")
    title = f"{dataset}, {len(pairs)} pairs of its training part"
    names = tuple(pair.name for pair in pairs)
    return Material(PairData(pairs), names, pairs[0].bands, gsd_m, title, str(folder.path))
