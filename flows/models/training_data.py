"""What a training looks at: pairs mined from a catalog's scenes, or a data set on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from de_model.data.datasets import Split
from de_model.data.pairs import ScenePair
from de_model.data.readers import open_dataset
from de_model.data.synthetic import with_synthetic
from de_model.training.sources import DrawnData, PairData, TrainingData
from flows.errors import InvalidSettings
from flows.models.training_pairs import PairChoice, mine_pairs
from flows.stacks import SceneSet
from stac.io.secrets import redact


@dataclass(frozen=True, slots=True)
class Folder:
    """A data set on disk: RICE, CUHK-CR, SEN12MS-CR, or pairs in `cloud` and `label`."""

    path: Path
    #: Pixel size in metres, for data sets that do not say; what they say wins.
    gsd_m: float | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """Everything a training looks at, and what it is for people and for the model's card."""

    data: TrainingData
    #: Names of the pairs.
    names: tuple[str, ...]
    bands: tuple[str, ...]
    gsd_m: float
    #: What it is, in a few words.
    title: str
    #: URL or path it is from.
    source: str


def material_of(
    scenes: SceneSet, folder: Folder | None, synthetic: float, choice: PairChoice | None = None
) -> Material:
    """Return the pairs of a folder where one is given, else those of the scenes.

    Args:
        scenes: cells of a catalog.
        folder: a data set instead; its training part where it has parts.
        synthetic: share of patches under synthetic clouds, 0..1; scenes only.
        choice: which pairs of the scenes are taken; every pair when left out.

    Raises:
        InvalidSettings: there are no pairs, both cells and a folder are given, or the pixel size is not known.
        InvalidData: the folder holds no data set that can be used.
    """
    if folder is None:
        if not scenes.cells:
            raise InvalidSettings("There is nothing to train on; give --cell MGRS-33TWM, or --data FOLDER.")
        return _from_scenes(scenes, synthetic, choice)
    if scenes.cells:
        raise InvalidSettings(f"Both --data {folder.path} and --cell are given; train on one of them.")
    if synthetic:
        raise InvalidSettings("--synthetic needs reflectance and the sun of scenes; leave it out with --data.")
    return _from_folder(folder)


def _from_scenes(scenes: SceneSet, synthetic: float, choice: PairChoice | None) -> Material:
    pairs, gsd_m = mine_pairs(scenes, choice)
    title = f"{scenes.collection} {scenes.interval}, cells {', '.join(scenes.cells)}"
    return Material(
        _pair_data(pairs, scenes.bands, gsd_m, synthetic),
        tuple(pair.name for pair in pairs),
        scenes.bands,
        gsd_m,
        title,
        redact(scenes.source),
    )


def _pair_data(pairs: Sequence[ScenePair], bands: tuple[str, ...], gsd_m: float, synthetic: float) -> PairData:
    if not synthetic:
        return PairData(pairs)
    return PairData(pairs, with_synthetic(pairs, bands, gsd_m, synthetic))


def _from_folder(folder: Folder) -> Material:
    pairs = open_dataset(folder.path, split=Split.TRAIN)
    info = pairs[0].info
    gsd_m = info.gsd_m or folder.gsd_m
    if gsd_m is None:
        raise InvalidSettings(f"{info.dataset} does not say how large its pixels are; give --gsd METRES.")
    title = f"{info.dataset}, {len(pairs)} pairs of its training part"
    names = tuple(pair.name for pair in pairs)
    return Material(DrawnData(pairs), names, info.bands, gsd_m, title, str(folder.path))
