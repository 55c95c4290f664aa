"""What every training begins with: its data, the model to train, and what its card keeps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint
from de_model.training.course import Observer, StageResult
from de_model.training.stages import StageOptions
from de_model.training.store import Store
from flows.models.training_request import TrainingRequest
from flows.processing.model import torch_device

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A training that can begin."""

    #: Of the model that comes of it.
    card: ModelCard
    #: Names of the pairs or scenes that are trained on, and the URL or path they are from.
    names: tuple[str, ...]
    source: str
    #: Trains, calling observers; returns the finished model, and what came of its stages.
    run: Callable[[Sequence[Observer]], tuple[Enhancer, tuple[StageResult, ...]]]
    #: A stop is continued from here; each training has one of its own.
    folder: Path


def begin(card: ModelCard, request: TrainingRequest) -> Enhancer:
    """Return the model to train, on its device: random, or with the weights that the request starts from.

    Raises:
        InvalidCheckpoint: the weights have another architecture than the card says.
    """
    torch.manual_seed(request.seed)
    enhancer, start, device = Enhancer(card).channels_last(), request.start, torch_device(request.device)
    if start is None:
        return enhancer.to(device)
    origin = checkpoint.load(start)
    # The networks of the second edition depend on their design and the bands alone.
    names = ("bands",) if card.scene is not None else ("preset", "bands", "timesteps", "reference")
    for name in names:
        there, here = getattr(origin.card, name), getattr(card, name)
        if there != here:
            raise InvalidCheckpoint(f"{start} has {name} {there}, this training has {here}; give weights that fit.")
    try:
        enhancer.load_state_dict(origin.state_dict())
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise InvalidCheckpoint(f"{start} has another architecture than this training ({detail}).") from error
    return enhancer.to(device)


def store_of(request: TrainingRequest, card: ModelCard, part: str = "") -> Store:
    """Return the folder of a training in progress, below that of the request.

    Raises:
        InvalidCheckpoint: the folder belongs to another training.
    """
    identity = {
        "data": card.data_fingerprint,
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "reference": str(card.reference),
        "weight_mode": str(card.weight_mode),
        **{name: json.dumps(value) for name, value in json.loads(card.training).items()},
    }
    return Store(request.folder / part, identity)


def options_text(request: TrainingRequest, options: dict[str, Any], stages: Sequence[StageOptions]) -> str:
    """Return the options of a training as the model's card keeps them, JSON."""
    start = None if request.start is None else checkpoint.sha256_of(request.start)
    said = {"effort": request.effort, "start": start, "stages": [asdict(stage) for stage in stages]}
    return json.dumps(options | said)


def revision() -> str:
    """Return the version-control revision of this code, or `unknown` outside a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
