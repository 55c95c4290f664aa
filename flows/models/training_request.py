"""What a training is asked to do, and what it reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.presets import Preset, ReferenceKind
from de_model.training.stages import Stage, StageOptions, TrainingOptions, schedule_for
from de_model.training.trainer import StageResult
from de_model.weighting import WeightMode
from flows.errors import InvalidSettings
from flows.models.evaluation_report import plain
from flows.models.tracking import Tracking
from flows.models.training_places import PlaceListing
from flows.planning.search import SceneSet

#: What must have been trained before a stage makes sense: one of each of these.
_NEEDS: dict[Stage, tuple[frozenset[Stage], ...]] = {
    stage: (frozenset({Stage.REFERENCE}), frozenset({Stage.COARSE, Stage.FINE}))
    for stage in (Stage.ALLOCATION, Stage.JOINT)
}


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train on what."""

    #: The scenes to train on.
    scenes: SceneSet
    out: Path
    #: Folder of the training in progress: the weights of finished stages and the state of the present one.
    work: Path
    #: Names of the only scenes that the second edition is trained on; empty for all.
    only: tuple[str, ...] = ()
    #: A data set on disk to train on instead of the scenes: RICE, CUHK-CR, or pairs in `cloud` and `label`.
    folder: Path | None = None
    #: Pixel size in metres of a data set that does not say.
    gsd_m: float | None = None
    #: Places to train the second edition on instead of the scenes.
    places: PlaceListing | None = None
    #: Cells of the same source and interval that are looked at and never trained on.
    validation_cells: tuple[str, ...] = ()
    #: Steps between two looks.
    validate_every: int = 250
    preset: Preset = Preset.SMALL
    #: Stages to train, in any order; empty for all.
    stages: tuple[Stage, ...] = ()
    #: Weights to start from, instead of random ones.
    start: Path | None = None
    #: Factor on the preset's number of steps.
    effort: float = 1.0
    #: Patches per step and learning rate in place of the preset's.
    batch: int | None = None
    learning_rate: float | None = None
    #: None takes the preset's own.
    reference: ReferenceKind | None = None
    weight_mode: WeightMode = WeightMode.CLAMP
    options: TrainingOptions = field(default_factory=TrainingOptions)
    save_every: int = 100
    device: str = "cpu"
    tracking: Tracking | None = None


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
    schedule = schedule_for(request.preset, request.effort, chosen)
    given = {"batch": request.batch, "learning_rate": request.learning_rate}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return tuple(replace(stage, **changes) for stage in schedule)


def preset_for(name: str | None, start: Path | None) -> Preset:
    """Return the preset that was asked for, else that of the weights to start from, else `small`.

    Raises:
        InvalidSettings: an unknown preset.
        InvalidCheckpoint: `start` is not an Unveil model.
    """
    if name is None:
        return Preset.SMALL if start is None else checkpoint.read_card(start).preset
    try:
        return Preset(name)
    except ValueError as error:
        raise InvalidSettings(f"Preset {name} is unknown; choose one of {', '.join(Preset)}.") from error
