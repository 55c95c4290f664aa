"""Settings of a retraining."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from de_model.data.datasets import Split, split_of
from flows.errors import InvalidSettings
from flows.models.gates import Gates
from flows.planning.search import SceneSet
from flows.settings import RunSettings
from flows.settings.fields import CommaSeparated
from flows.settings.loading import load_settings, read_yaml, use_login_of_up, validated
from flows.settings.run_settings import PlaceSettings
from stac.io.secrets import holds_secret
from stac.search.static import SAMPLE

#: Of the sample; the last one is not trained on.
_SAMPLE_SQUARES = ("MGRS-33TWM", "MGRS-33TWL")


@unique
class PromotionMode(StrEnum):
    """Who promotes a challenger that passed."""

    #: The flow.
    AUTOMATIC = "automatic"
    #: A person, with `unveil promote`.
    MANUAL = "manual"


class RetrainSettings(SceneSet):
    """Everything a retraining depends on."""

    cells: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="grid squares that are watched; left out, those of the sample"
    )
    holdout: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="squares of the comparison, never trained on; left out, as the hash of their name says"
    )
    # A deployment leaves these to the environment of its worker.
    out: str | None = Field(None, description="catalog whose model is retrained; that of runs when left out")
    state_dir: Path | None = Field(None, description="folder of registry and training; that of runs when left out")
    mlflow_uri: str | None = Field(None, description="MLflow server or database; that of runs when left out")
    model: str = Field("unveil-de", description="name of the registered model", json_schema_extra={"option": "--name"})
    least_new_scenes: int = Field(1, ge=0, description="fewer new scenes than this are not worth a training")
    effort: float = Field(0.3, gt=0, description="factor on the number of steps of the preset's schedule")
    seed: int = Field(0, ge=0, description="seed of the training")
    calibration_cases: int = Field(
        12, ge=1, description="cases of the squares held out that the challenger's intervals are fitted on, at most"
    )
    baseline_dates: int = Field(
        4, ge=0, description="cloudy dates of each training square whose restoration the drift baseline holds"
    )
    comparison_cases: int = Field(
        20, ge=1, description="other cases there that challenger and champion are compared on, at most"
    )
    comparison_window: int = Field(512, ge=64, description="side of the part of each date that is restored, pixels")
    shadow_scenes: int = Field(
        2, ge=0, description="published scenes that champion and challenger make again, the latest first"
    )
    gates: Gates = Field(default_factory=Gates, description="what a challenger must show")
    promotion: PromotionMode = Field(PromotionMode.MANUAL, description="automatic: the flow promotes what passed")

    @field_validator("source", "mlflow_uri")
    @classmethod
    def _without_login(cls, address: str | None) -> str | None:
        if holds_secret(address or ""):
            raise InvalidSettings(
                "The source or mlflow_uri of a retraining holds a login or a signature, and settings are stored; leave "
                "MLflow's to UNVEIL_MLFLOW_URI in the environment."
            )
        return address

    @model_validator(mode="before")
    @classmethod
    def _squares_of_the_sample(cls, given: Any) -> Any:
        """Watch the squares of the sample, where no other source is named."""
        if not isinstance(given, Mapping) or given.get("source", SAMPLE) != SAMPLE:
            return given
        return {"cells": _SAMPLE_SQUARES, "holdout": _SAMPLE_SQUARES[1:]} | dict(given)

    @classmethod
    def _places(cls) -> set[str]:
        """Return the names of the settings that say where things are, as those of a run do."""
        return cls.model_fields.keys() & PlaceSettings.model_fields.keys()

    def run_settings(self) -> RunSettings:
        """Return the settings of a run that writes the same catalog with the same registry."""
        return load_settings(None, {name: getattr(self, name) for name in self._places()})

    @property
    def folder(self) -> Path:
        """Folder of the training set and of trainings in progress."""
        return self.run_settings().state / "retraining"

    @property
    def shareable(self) -> dict[str, Any]:
        """All settings as JSON values that may be stored."""
        return self.model_dump(mode="json")

    def split(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the squares that are trained on, and those of the comparison.

        Raises:
            InvalidSettings: one of them is empty.
        """
        held = set(self.holdout) or {cell for cell in self.cells if split_of(cell) is not Split.TRAIN}
        training = tuple(cell for cell in self.cells if cell not in held)
        judged = tuple(cell for cell in self.cells if cell in held)
        if not training or not judged:
            raise InvalidSettings(
                f"Of cells {', '.join(self.cells)}, {len(training)} would be trained on and {len(judged)} held out; "
                "each needs one at least. Add cells, or name some with holdout."
            )
        return training, judged

    def scenes(self, cells: tuple[str, ...]) -> SceneSet:
        """Return the scenes of some squares."""
        return SceneSet(**self.model_dump(include=set(SceneSet.model_fields)) | {"cells": cells})


def load_retrain_settings(given: Mapping[str, Any] | None = None, config: Path | None = None) -> RetrainSettings:
    """Return settings from the command line or a flow (`given`), the environment, and a YAML file, in this order.

    This process has the login of `unveil up` afterwards, where it is sent to those servers.

    Raises:
        InvalidSettings: the file cannot be read, a name is unknown, a value is out of range, or an address holds a
            login.
    """
    from_file = {} if config is None else read_yaml(config)
    environment = {name for name in RetrainSettings._places() if os.environ.get(f"UNVEIL_{name.upper()}")}
    values = {name: value for name, value in from_file.items() if name not in environment} | dict(given or {})
    settings = validated(RetrainSettings, values, config)
    use_login_of_up(settings.run_settings())
    return settings
