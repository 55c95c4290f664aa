"""Training pairs of a cloudy and a clear image: of scenes, or of a data set on disk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from de_model.data.datasets import Split
from de_model.data.pairs import PairData, ScenePair
from de_model.data.readers import open_dataset
from flows.errors import InvalidSettings
from flows.planning.search import SceneSet, stacks_of
from stac.composite.normalisation import clean_sky_shift
from stac.io.secrets import redact
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed

#: A date is cloudy when this share of its valid pixels is hidden, and clear when this share is seen.
_CLOUDY_SHARE, _CLEAR_SHARE = (0.15, 0.95), 0.85


def mine_pairs(scenes: SceneSet) -> tuple[list[ScenePair], float]:
    """Return the pairs of a cloudy and a clear date of all cells, and the ground sampling distance in metres.

    Raises:
        InvalidSettings: there is no cell, or the cells hold no pair or have different sampling distances.
    """
    stacks = list(stacks_of(scenes))
    pairs = [_pair(stack, c, k) for stack in stacks for c, k in product(*cloudy_and_clear(stack))]
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


def cloudy_and_clear(stack: Stack) -> tuple[list[int], list[int]]:
    """Return the indices of the dates that are cloudy in part, and of those that are clear."""
    valid = [classes != PixelClass.NODATA for classes in stack.classes]
    hidden = [is_hidden(c)[v].mean() if v.any() else 0.0 for c, v in zip(stack.classes, valid, strict=True)]
    cloudy = [i for i, share in enumerate(hidden) if _CLOUDY_SHARE[0] <= share <= _CLOUDY_SHARE[1]]
    clear = [i for i, share in enumerate(hidden) if valid[i].any() and share <= 1 - _CLEAR_SHARE]
    return cloudy, clear


def _pair(stack: Stack, cloudy: int, clear: int) -> ScenePair:
    """Return a pair; the clear date is matched to the cloudy one."""
    seen = is_observed(stack.classes[clear])
    ground = np.where(seen, stack.reflectance(clear), np.float32(np.nan))
    # Matched where the cloudy date is cleanest: a fit over all its clear pixels would teach the haze around clouds.
    shift = clean_sky_shift(ground, stack, cloudy)
    image = stack.reflectance(cloudy)
    return ScenePair(
        name=f"{stack.item_ids[cloudy]} <- {stack.item_ids[clear]}",
        cloudy=image,
        clear=np.where(np.isnan(ground), ground, np.maximum(ground + shift[:, None, None], 1e-4)),
        valid=np.isfinite(image).all(axis=0) & seen,  # deep shadow may lack a band
        obscured=is_hidden(stack.classes[cloudy]),
    )


@dataclass(frozen=True, slots=True)
class TrainingData:
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


def training_data_of(scenes: SceneSet, folder: Path | None, gsd_m: float | None = None) -> TrainingData:
    """Return the pairs of a folder where one is given, else those of the scenes.

    Args:
        scenes: cells of a catalog.
        folder: a data set instead (RICE, CUHK-CR, or pairs in `cloud` and `label`); its training part where it has
            parts.
        gsd_m: pixel size in metres of a data set that does not say.

    Raises:
        InvalidSettings: there are no pairs, both cells and a folder are given, or the pixel size is not known.
        InvalidData: the folder holds no data set that can be used.
    """
    if folder is None:
        if not scenes.cells:
            raise InvalidSettings("There is nothing to train on; give --cell MGRS-33TWM, or --data FOLDER.")
        return _from_scenes(scenes)
    if scenes.cells:
        raise InvalidSettings(f"Both --data {folder} and --cell are given; train on one of them.")
    return _from_folder(folder, gsd_m)


def _from_scenes(scenes: SceneSet) -> TrainingData:
    pairs, gsd_m = mine_pairs(scenes)
    title = f"{scenes.collection} {scenes.interval}, cells {', '.join(scenes.cells)}"
    names = tuple(pair.name for pair in pairs)
    return TrainingData(PairData(pairs), names, scenes.bands, gsd_m, title, redact(scenes.source))


def _from_folder(folder: Path, given: float | None) -> TrainingData:
    pairs = open_dataset(folder, split=Split.TRAIN)
    dataset, gsd_m = pairs[0].files.dataset, pairs[0].gsd_m or given
    if gsd_m is None:
        raise InvalidSettings(f"{dataset} does not say how large its pixels are; give --gsd METRES.")
    title = f"{dataset}, {len(pairs)} pairs of its training part"
    names = tuple(pair.name for pair in pairs)
    return TrainingData(PairData(pairs), names, pairs[0].bands, gsd_m, title, str(folder))
