"""Training on a catalog: mine cloudy/clear pairs from its scenes, run the stages, keep what is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.data.pairs import PairData
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint
from de_model.training.stages import StageOptions
from de_model.training.store import Store
from de_model.training.trainer import Observer, StageResult, check, train
from de_model.training.validation import Validation
from flows.errors import InvalidSettings
from flows.models.scene_training import is_standardised, train_standardised
from flows.models.tracking import Lineage, Tracker, tracked
from flows.models.training_data import Material, material_of, mine_pairs
from flows.models.training_request import TrainingReport, TrainingRequest, plan_stages
from flows.models.writing import check_writable, revision

#: Names of pairs that are logged before training; data sets have thousands.
_NAMED = 12


def train_model(
    request: TrainingRequest, observers: Sequence[Observer] = (), log: Callable[[str], None] | None = None
) -> TrainingReport:
    """Train a model and write it to `request.out`; a training that was stopped is continued from `request.work`.

    Raises:
        TrainingFailed: gradients stay non-finite, memory is too small, or no patch is usable.
        InvalidSettings, InvalidModelInput: the request makes no sense.
        InvalidCheckpoint: `start` has another architecture, or `work` belongs to another training.
        NotWritable: `out` or `work` cannot be written.
        ServiceUnavailable: MLflow cannot be used.
    """
    if is_standardised(request):
        return train_standardised(request, observers, log or _no_log)
    return _train_stages(request, observers, log or _no_log)


def _no_log(_: str) -> None:
    """Say nothing."""


def _train_stages(
    request: TrainingRequest, observers: Sequence[Observer], log: Callable[[str], None]
) -> TrainingReport:
    for path in (request.out, request.work / "any"):
        check_writable(path)
    stages = plan_stages(request)
    material = material_of(request.scenes, request.folder, request.pairs)
    log(f"{len(material.names)} pairs: " + "; ".join(material.names[:_NAMED]))
    data, validation = material.data, _validation(request, material.bands)
    card = _card(request, material, stages)
    enhancer = begin(card, request.start, request.options.seed).to(request.device)
    check(enhancer, data, stages, request.options)
    store = _store(request, card)
    lineage = Lineage(card.trained_on, data.fingerprint, material.names, material.source)
    with tracked(request.tracking, store.folder, _parameters(request, card), lineage, log) as tracker:
        results = train(
            enhancer,
            data,
            stages,
            request.options,
            store=store,
            save_every=request.save_every,
            validation=validation,
            observers=[*observers, *_listeners(tracker)],
        )
        checkpoint.save(enhancer.cpu(), request.out)
        report = _report(request, card, results, material, tracker)
        if tracker is not None:
            tracker.finished(report.as_record())
    return report


def _listeners(tracker: Tracker | None) -> list[Observer]:
    return [] if tracker is None else [tracker]


def begin(card: ModelCard, start: Path | None, seed: int) -> Enhancer:
    """Return the model to train: random, or with the weights of `start`.

    Raises:
        InvalidCheckpoint: the weights have another architecture than the card says.
    """
    torch.manual_seed(seed)
    enhancer = Enhancer(card).channels_last()
    if start is None:
        return enhancer
    origin = checkpoint.load(start)
    for name in ("preset", "bands", "timesteps", "reference"):
        there, here = getattr(origin.card, name), getattr(card, name)
        if there != here:
            raise InvalidCheckpoint(f"{start} has {name} {there}, this training has {here}; give weights that fit.")
    try:
        enhancer.load_state_dict(origin.state_dict())
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise InvalidCheckpoint(f"{start} has another architecture than this training ({detail}).") from error
    return enhancer


def _validation(request: TrainingRequest, bands: tuple[str, ...]) -> Validation | None:
    shared = set(request.validation_cells) & set(request.scenes.cells)
    if shared:
        raise InvalidSettings(f"Cell {min(shared)} is trained on; validate on another one.")
    if not request.validation_cells:
        return None
    pairs, _ = mine_pairs(replace(request.scenes, cells=request.validation_cells, bands=bands))
    return Validation(PairData(pairs), request.validate_every)


def _card(request: TrainingRequest, material: Material, stages: Sequence[StageOptions]) -> ModelCard:
    training: dict[str, Any] = request.options.identity() | {
        "seed": request.options.seed,
        "effort": request.effort,
        "start": None if request.start is None else checkpoint.sha256_of(request.start),
        "stages": [asdict(stage) for stage in stages],
    }
    values: dict[str, Any] = {
        "preset": request.preset,
        "bands": material.bands,
        "gsd_m": material.gsd_m,
        "trained_on": material.title,
        "data_fingerprint": material.data.fingerprint,
        "revision": revision(),
        "training": json.dumps(training),
    }
    if request.reference is not None:
        values["reference"] = request.reference
    return ModelCard(weight_mode=request.weight_mode, **values)


def _store(request: TrainingRequest, card: ModelCard) -> Store:
    training = json.loads(card.training)
    identity = {
        "data": card.data_fingerprint,
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "reference": str(card.reference),
        "weight_mode": str(card.weight_mode),
        **{name: json.dumps(value) for name, value in training.items()},
    }
    return Store(request.work, identity, request.keep_states)


def _parameters(request: TrainingRequest, card: ModelCard) -> dict[str, str]:
    """Return what a person would compare runs by."""
    training = json.loads(card.training)
    flat = {name: str(value) for name, value in training.items() if name != "stages"}
    for stage in training["stages"]:
        flat |= {f"{stage['stage']}.{name}": str(value) for name, value in stage.items() if name != "stage"}
    return flat | {
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "weight_mode": str(card.weight_mode),
        "accumulate": str(request.options.accumulate),
        "device": request.device,
        "revision": card.revision,
    }


def _report(
    request: TrainingRequest,
    card: ModelCard,
    results: tuple[StageResult, ...],
    material: Material,
    tracker: Tracker | None,
) -> TrainingReport:
    run = None if tracker is None else tracker.run_id
    return TrainingReport(request.out, checkpoint.sha256_of(request.out), card, results, material.names, run)
