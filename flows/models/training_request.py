"""What a training is asked to do: the options of `unveil train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from de_model.presets import Preset, ReferenceKind
from de_model.training.stages import Decay, Stage, TrainingOptions
from de_model.weighting import WeightMode
from flows.planning.search import SceneSet
from flows.settings import Device
from flows.settings.fields import CommaSeparated


class TrainingRequest(SceneSet):
    """What to train on what: the scenes, or in their place a data set on disk or a listing of places."""

    out: Path = Field(description="weights file that is written (safetensors)")
    data: Path | None = Field(
        default=None,
        description="data set to train on instead: folder of RICE, CUHK-CR or pairs in cloud/ and label/; with "
        "`places`, the folder of its paths",
    )
    places: Path | None = Field(
        default=None, description="listing of catalogs and image folders (YAML); trains the second edition"
    )
    gsd_m: float | None = Field(
        default=None,
        ge=0.01,
        description="pixel size, metres, of data that does not say",
        json_schema_extra={"option": "--gsd"},
    )
    validation_cells: Annotated[tuple[str, ...], CommaSeparated] = Field(
        default=(),
        description="grid squares to validate on, never trained on",
        json_schema_extra={"option": "--validate-cell"},
    )
    validate_every: int = Field(default=250, ge=1, description="steps between validations")
    preset: Preset | None = Field(
        default=None, description="size; that of the weights to start from, or small when left out"
    )
    start: Path | None = Field(
        default=None, description="weights file to start from", json_schema_extra={"option": "--from"}
    )
    stages: Annotated[tuple[Stage, ...], CommaSeparated] = Field(
        default=(),
        description="`reference`, `coarse`, `fine`, `allocation` or `joint`; all of them when left out",
        json_schema_extra={"option": "--stage"},
    )
    effort: float = Field(default=1.0, ge=1e-6, description="factor on the number of steps of the preset's schedule")
    seed: int = Field(default=0, ge=0, description="seed of the training")
    batch: int | None = Field(default=None, ge=1, description="patches per step; the stage's own when left out")
    accumulate: int = Field(default=1, ge=1, description="pieces that a batch is worked in: less memory")
    learning_rate: float | None = Field(default=None, ge=1e-9, description="of every stage; their own when left out")
    decay: Decay = Field(default=Decay.COSINE, description="of the learning rate: cosine, or constant as published")
    reference: ReferenceKind | None = Field(
        default=None, description="kind of reference; the preset's own when left out"
    )
    weight_mode: WeightMode = Field(default=WeightMode.CLAMP, description="limit of W: clamp as published, or bounded")
    device: Device = Field(default=Device.AUTO, description="where the model is trained")
    work: Path | None = Field(
        default=None, description="folder that a stop is continued from; beside the weights file when left out"
    )
    save_every: int = Field(default=100, ge=1, description="steps between saved states")
    #: Names of the only scenes that the second edition is trained on; empty for all.
    only: tuple[str, ...] = ()
    #: Address of the MLflow server or database that the training is tracked in; None tracks nothing.
    mlflow_uri: str | None = None

    @property
    def options(self) -> TrainingOptions:
        """How every stage is trained."""
        return TrainingOptions(seed=self.seed, decay=self.decay, accumulate=self.accumulate)

    @property
    def folder(self) -> Path:
        """Folder of the training in progress: the weights of finished stages and the state of the present one."""
        return self.work or self.out.with_suffix(".work")

    @property
    def size(self) -> Preset:
        """The preset that was named, else that of the weights to start from, else `small`."""
        from de_model.checkpoint import read_card  # loads torch

        if self.preset is not None:
            return self.preset
        return Preset.SMALL if self.start is None else read_card(self.start).preset
