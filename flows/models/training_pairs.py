"""The first edition: training on pairs of a cloudy and a clear image, of scenes or of a data set on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from de_model.card import ModelCard
from de_model.data.datasets import Split
from de_model.data.pairs import PairData, ScenePair
from de_model.data.readers import open_dataset
from de_model.enhancer import Enhancer
from de_model.training.course import Observer, StageResult
from de_model.training.stage_run import Validation
from de_model.training.stages import Stage, StageOptions, schedule_for
from de_model.training.trainer import check, train
from flows.errors import InvalidSettings
from flows.models.training_plan import Log, TrainingPlan, begin, options_text, revision, store_of
from flows.models.training_request import TrainingRequest
from flows.planning.search import SceneSet, cloudy_and_clear, stacks_of
from stac.composite.haze import clean_sky_shift
from stac.io.secrets import redact
from stac.load.stack import Stack
from stac.masks.classes import is_hidden, is_observed

#: Names of pairs that are logged before training; data sets have thousands.
_NAMED = 12
#: What must have been trained before a stage makes sense: one of each of these.
_NEEDS: dict[Stage, tuple[frozenset[Stage], ...]] = {
    stage: (frozenset({Stage.REFERENCE}), frozenset({Stage.COARSE, Stage.FINE}))
    for stage in (Stage.ALLOCATION, Stage.JOINT)
}


def plan_on_pairs(request: TrainingRequest, log: Log) -> TrainingPlan:
    """Return the training of the first edition, on cloudy and clear pairs."""
    stages = plan_stages(request)
    material = _training_data(request)
    log(f"{len(material.names)} pairs: " + "; ".join(material.names[:_NAMED]))
    validation = _validation(request, material.bands)
    card = _card_of_pairs(request, material, stages)
    enhancer = begin(card, request)
    check(enhancer, material.data, stages, request.options)
    store = store_of(request, card)

    def run(observers: Sequence[Observer]) -> tuple[Enhancer, tuple[StageResult, ...]]:
        results = train(
            enhancer,
            material.data,
            stages,
            request.options,
            store=store,
            save_every=request.save_every,
            validation=validation,
            observers=observers,
        )
        return enhancer, results

    return TrainingPlan(card, material.names, material.source, run, store.folder)


def plan_stages(request: TrainingRequest) -> tuple[StageOptions, ...]:
    """Return the stages to run, coarse to fine.

    Raises:
        InvalidSettings: a stage would start from networks that were never trained.
    """
    chosen = set(request.stages) or set(Stage)
    for stage in sorted(chosen, key=list(Stage).index):
        missing = [need for need in _NEEDS.get(stage, ()) if not need & chosen]
        if missing and request.start is None:
            names = " and ".join("/".join(s for s in Stage if s in need) for need in missing)
            raise InvalidSettings(f"Stage {stage} needs {names} first: add --stage, or give --from WEIGHTS.")
    schedule = schedule_for(request.size, request.effort, chosen)
    given = {"batch": request.batch, "learning_rate": request.learning_rate}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return tuple(replace(stage, **changes) for stage in schedule)


def _validation(request: TrainingRequest, bands: tuple[str, ...]) -> Validation | None:
    shared = set(request.validation_cells) & set(request.cells)
    if shared:
        raise InvalidSettings(f"Cell {min(shared)} is trained on; validate on another one.")
    if not request.validation_cells:
        return None
    pairs, _ = mine_pairs(request.model_copy(update={"cells": request.validation_cells, "bands": bands}))
    return Validation(PairData(pairs), request.validate_every)


def _card_of_pairs(request: TrainingRequest, material: TrainingData, stages: Sequence[StageOptions]) -> ModelCard:
    reference: dict[str, Any] = {} if request.reference is None else {"reference": request.reference}
    return ModelCard(
        preset=request.size,
        bands=material.bands,
        gsd_m=material.gsd_m,
        trained_on=material.title,
        data_fingerprint=material.data.fingerprint,
        revision=revision(),
        training=options_text(request, request.options.identity() | {"seed": request.seed}, stages),
        weight_mode=request.weight_mode,
        **reference,
    )


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


def _training_data(request: TrainingRequest) -> TrainingData:
    """Return the pairs of a data set where one is named, by its training part, else those of the scenes.

    Raises:
        InvalidSettings: there are no pairs, both cells and a folder are given, or the pixel size is not known.
        InvalidData: the folder holds no data set that can be used.
    """
    if request.data is None:
        if not request.cells:
            raise InvalidSettings("There is nothing to train on; give --cell MGRS-33TWM, or --data FOLDER.")
        return _from_scenes(request)
    if request.cells:
        raise InvalidSettings(f"Both --data {request.data} and --cell are given; train on one of them.")
    return _from_folder(request.data, request.gsd_m)


def _from_scenes(scenes: SceneSet) -> TrainingData:
    pairs, gsd_m = mine_pairs(scenes)
    names = tuple(pair.name for pair in pairs)
    return TrainingData(PairData(pairs), names, scenes.bands, gsd_m, scenes.title, redact(scenes.source))


def _from_folder(folder: Path, given: float | None) -> TrainingData:
    pairs = open_dataset(folder, split=Split.TRAIN)
    dataset, gsd_m = pairs[0].files.dataset, pairs[0].gsd_m or given
    if gsd_m is None:
        raise InvalidSettings(f"{dataset} does not say how large its pixels are; give --gsd METRES.")
    title = f"{dataset}, {len(pairs)} pairs of its training part"
    names = tuple(pair.name for pair in pairs)
    return TrainingData(PairData(pairs), names, pairs[0].bands, gsd_m, title, str(folder))
