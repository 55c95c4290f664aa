"""Training of a model, of either edition: planned, followed, tracked in MLflow, written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.training.course import Observer, Progress, StageResult
from flows.models.evaluation_report import plain
from flows.models.tracking import tracked
from flows.models.training_pairs import plan_on_pairs
from flows.models.training_plan import Log
from flows.models.training_request import TrainingRequest
from flows.models.training_scenes import plan_on_scenes
from flows.processing.model import torch_device
from flows.progress import report_progress
from stac.errors import NotWritable
from stac.io.files import require_writable


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training made."""

    weights: Path
    sha256: str
    card: ModelCard
    stages: tuple[StageResult, ...]
    pairs: tuple[str, ...]
    #: MLflow run, None without tracking.
    run_id: str | None

    def as_record(self) -> dict[str, Any]:
        """Return the report as JSON values; a score that is not finite is None."""
        return {
            "weights": str(self.weights),
            "sha256": self.sha256,
            "card": asdict(self.card) | {"training": json.loads(self.card.training)},
            "stages": plain([asdict(result) for result in self.stages]),
            "pairs": list(self.pairs),
            "mlflow_run": self.run_id,
        }


def train_model(request: TrainingRequest, log: Log = lambda _: None) -> TrainingReport:
    """Train a model and write it to `request.out`; a training that was stopped is continued from `request.folder`.

    A request that lists places, or starts from weights of the second edition, trains a model of the second edition.

    Raises:
        TrainingFailed: gradients or the loss stay non-finite, memory is too small, or no patch is usable.
        InvalidSettings, InvalidModelInput: the request makes no sense.
        InvalidCheckpoint: `start` has another architecture, or the folder belongs to another training.
        NotWritable: weights file or folder cannot be written.
        ServiceUnavailable: MLflow cannot be used.
    """
    for folder in (request.out.parent, request.folder):
        require_writable(folder)
    if request.out.is_dir():
        raise NotWritable(f"{request.out} cannot be written, it is a folder; choose another place.")
    second = request.places is not None or (
        request.start is not None and checkpoint.read_card(request.start).scene is not None
    )
    plan = plan_on_scenes(request, log) if second else plan_on_pairs(request, log)
    parameters = _parameters(request, plan.card)
    with tracked(request.mlflow_uri, parameters, plan, log) as tracker:
        enhancer, results = plan.run([_Shown(), *([] if tracker is None else [tracker])])
        checkpoint.save(enhancer.cpu(), request.out)
        run = None if tracker is None else tracker.run_id
        sha256 = checkpoint.sha256_of(request.out)
        report = TrainingReport(request.out, sha256, enhancer.card, results, plan.names, run)
        if tracker is not None:
            tracker.finished(report.as_record())
    return report


def _parameters(request: TrainingRequest, card: ModelCard) -> dict[str, str]:
    """Return what a person would compare runs by."""
    training = json.loads(card.training)
    flat = {name: str(value) for name, value in training.items() if name != "stages"}
    for stage in training["stages"]:
        flat |= {f"{stage['stage']}.{name}": str(value) for name, value in stage.items() if name != "stage"}
    return flat | {
        "edition": "1" if card.scene is None else "2",
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "weight_mode": str(card.weight_mode),
        "accumulate": str(request.accumulate),
        "device": torch_device(request.device),
        "revision": card.revision,
    }


class _Shown(Observer):
    """Reports the steps of a training as progress."""

    def on_step(self, progress: Progress) -> None:
        """Report a step."""
        losses = ", ".join(f"{name} {value:.4g}" for name, value in progress.losses.items())
        skipped = f", {progress.skipped} skipped" if progress.skipped else ""
        text = (
            f"{progress.stage}: {losses}, {progress.images_per_s:.1f} images/s, waiting {progress.waiting:.0%}{skipped}"
        )
        report_progress(text, progress.step, progress.steps)
