"""Ablation `cross-data`: a model of one data set on another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table, in_words
from benchmarks.ablations.trained import pair_data, stage_of, train_on, untrained
from benchmarks.chart import Panel, Series
from de_model.data.datasets import RGB, Split
from de_model.data.pairs import PairData, ScenePair
from de_model.data.readers import open_dataset
from de_model.data.variation import transplant
from de_model.enhancer import Enhancer
from de_model.metrics.bootstrap import Interval, difference_interval, mean_interval
from de_model.training.objective import Batch
from de_model.training.stage_run import fixed_batch, psnr, restored
from de_model.training.stages import Stage
from flows.progress import report_progress

#: Patches a model is judged on, for every hold-out window that is asked for.
_PATCHES = 6
_REAL, _TRANSPLANTED = "real pairs", "transplanted clouds"
_STAGES = (Stage.REFERENCE, Stage.FINE, Stage.ALLOCATION)
_COLUMNS = (
    Column("trained on"),
    Column("judged on"),
    Column("PSNR, dB", interval=True),
    Column("above its reference, dB", 3, interval=True, signed=True),
    Column("above the model of that data, dB", interval=True, signed=True),
)


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind of data: a part to train on, and a part on other ground to judge."""

    name: str
    train: PairData
    test: PairData


@dataclass(frozen=True, slots=True)
class Scores:
    """PSNR of every patch, dB: of the result, and of the model's own reference."""

    own: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def gain(self) -> Interval:
        """The result above the reference, patch by patch."""
        return difference_interval(self.own, self.reference)

    def above(self, other: Scores) -> Interval:
        """The result above another's, patch by patch."""
        return difference_interval(self.own, other.own)


def run(setting: Setting) -> Findings:
    """Train on each kind of data and judge on all of them.

    Raises:
        InvalidSettings: the cells hold no pairs.
        InvalidData: the folder given holds no data set that can be used.
        TrainingFailed: a kind of data holds no usable patch.
    """
    bands = RGB if setting.data is not None else setting.train.bands
    train, hold_out = (scenes.model_copy(update={"bands": bands}) for scenes in (setting.train, setting.hold_out))
    setting = replace(setting, train=train, hold_out=hold_out)
    kinds = {kind.name: kind for kind in _collections(setting)}
    models = {name: _trained(setting, kind) for name, kind in kinds.items()}
    scores = {
        (there, here): _score(models[there], _batch(setting, kinds[here], models[there]))
        for there, here in product(kinds, kinds)
    }
    rows: list[tuple[Cell, ...]] = [
        (there, here, mean_interval(s.own), s.gain, s.above(scores[here, here])) for (there, here), s in scores.items()
    ]
    method = (
        f"Preset {setting.preset}, {setting.steps} steps each of {', '.join(_STAGES)}, bands {', '.join(bands)}; equal "
        f"initial weights. Trained on {', '.join(setting.train.cells)}, judged on {_patches(setting)} patches of "
        f"{stage_of(setting, Stage.ALLOCATION).patch} px of {', '.join(setting.hold_out.cells)} with DDIM-10; a data "
        "set given by --data has its own test part. Transplanted clouds lie over the clear dates: exact truth. "
        "PSNR in reflectance over all pixels with truth; 95 % bootstrap over patches, not over trainings."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), (_panel(kinds, scores),), method, _seen(scores))


def _collections(setting: Setting) -> Iterator[Collection]:
    train, _ = pair_data(setting.train)
    test, _ = pair_data(setting.hold_out)
    yield Collection(_REAL, train, test)
    yield Collection(_TRANSPLANTED, *(_transplanted(part) for part in (train, test)))
    if setting.data is not None:
        yield _from_folder(setting.data)


def _transplanted(data: PairData) -> PairData:
    """Return the pairs with each cloudy date's clouds laid on its clear date."""
    pairs = [pair for pair in data.pairs if isinstance(pair, ScenePair)]
    return PairData([replace(p, cloudy=transplant(p.cloudy, p.obscured, p.clear)) for p in pairs])


def _from_folder(folder: Path) -> Collection:
    train, test = (open_dataset(folder, split=split, bands=RGB) for split in (Split.TRAIN, Split.TEST))
    return Collection(train[0].files.dataset, PairData(train), PairData(test))


def _trained(setting: Setting, kind: Collection) -> Enhancer:
    enhancer = untrained(setting, setting.train.bands, _gsd(setting))
    stages = [stage_of(setting, stage) for stage in _STAGES]
    return train_on(kind.train, enhancer, stages, setting, kind.name)


def _patches(setting: Setting) -> int:
    return _PATCHES * setting.windows


def _gsd(setting: Setting) -> float:
    return pair_data(setting.train)[1]


def _batch(setting: Setting, kind: Collection, enhancer: Enhancer) -> Batch:
    stage = stage_of(setting, Stage.ALLOCATION)
    return fixed_batch(kind.test, stage, _patches(setting), enhancer.schedule.timesteps)


@torch.no_grad()
def _score(enhancer: Enhancer, batch: Batch) -> Scores:
    report_progress("judging")
    found = restored(enhancer, Stage.ALLOCATION, batch)
    reference, own = found.parts
    truth, valid = batch.patches.clear, batch.patches.valid > 0
    ways = (
        tuple(psnr(image[i : i + 1], truth[i : i + 1], valid[i : i + 1]) for i in range(len(truth)))
        for image in (own, reference)
    )
    return Scores(*ways)


def _panel(kinds: dict[str, Collection], scores: dict[tuple[str, str], Scores]) -> Panel:
    judged = tuple(kinds)
    means = {pair: mean_interval(s.own) for pair, s in scores.items()}
    series = tuple(Series(f"trained on {there}", judged, tuple(means[there, h] for h in judged)) for there in kinds)
    return Panel("", "PSNR, dB", series)


def _seen(scores: dict[tuple[str, str], Scores]) -> str:
    sentences = [
        f"On {here}, the model of {there} is {in_words(s.above(scores[here, here]))} dB against the model of that data."
        for (there, here), s in scores.items()
        if there != here
    ]
    return " ".join(sentences)
