"""Versions of registered models, and the files behind them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from de_model import checkpoint
from de_model.calibration import CalibrationTable, calibration_path, load_table
from de_model.errors import InvalidCheckpoint
from de_model.validation import ValidationRecord, load_record, validation_path

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: str
    #: The alias it was asked for by, or None.
    alias: str | None
    #: SHA-256 of the weights file, 64 hexadecimal digits.
    sha256: str
    #: `models:/NAME/VERSION`: never an alias, so that it means the same tomorrow.
    uri: str
    #: MLflow run that registered it.
    run_id: str
    #: SHA-256 of what its calibration says; empty without one, None for a version that was registered without saying.
    calibration: str | None = None
    #: Whether it has a drift baseline.
    baseline: bool = False
    #: SHA-256 of what its validation record says; empty without one, None for a version registered without saying.
    validation: str | None = None


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """One line of the registry."""

    version: str
    aliases: tuple[str, ...]
    #: When it was registered.
    created: datetime
    tags: Mapping[str, str]


def describe(found: MlflowVersion, alias: str | None) -> ModelVersion:
    """Return a version as MLflow lists it.

    Raises:
        InvalidCheckpoint: it was registered without the checksum of its weights.
    """
    uri, sha256 = f"models:/{found.name}/{found.version}", found.tags.get("sha256", "")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidCheckpoint(
            f"{uri} has no tag sha256 with the checksum of its weights; register the weights again."
        )
    calibration = found.tags.get("calibration_sha256")
    beside = calibration, found.tags.get("baseline") == "yes", found.tags.get("validation_sha256")
    return ModelVersion(found.name, str(found.version), alias, sha256, uri, found.run_id or "", *beside)


def listed(found: MlflowVersion, aliases: tuple[str, ...]) -> ListedVersion:
    """Return a line of the registry for a version as MLflow lists it."""
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return ListedVersion(str(found.version), aliases, created, dict(found.tags))


def local_folder(uri: str) -> Path | None:
    """Return the folder that a `file:` URI or a path means, or None when the artefact is elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return Path(uri) if not parts.scheme else None


def verify(weights: Path, version: ModelVersion) -> None:
    """Raise `InvalidCheckpoint` unless weights, calibration and validation record are those that were registered."""
    remedy = "register the weights again, or choose another version with --model."
    if not weights.is_file():
        raise InvalidCheckpoint(f"The weights of {version.uri} are missing at {weights}; {remedy}")
    beside: tuple[tuple[str, str | None, Callable[[], CalibrationTable | ValidationRecord]], ...] = (
        ("calibration", version.calibration, lambda: load_table(calibration_path(weights))),
        ("validation record", version.validation, lambda: load_record(validation_path(weights))),
    )
    loaded = [(name, registered, load()) for name, registered, load in beside if registered]
    found = [("weights", version.sha256, checkpoint.sha256_of(weights), version.sha256)]
    found += [(name, registered, each.sha256, each.weights_sha256) for name, registered, each in loaded]
    for name, registered, sha256, of_weights in found:
        if sha256 != registered or of_weights != version.sha256:
            raise InvalidCheckpoint(
                f"The {name} of {version.uri} at {weights} has SHA-256 {sha256}, registered was {registered}: the file "
                f"was changed; {remedy}"
            )


def is_whole(weights: Path, version: ModelVersion) -> bool:
    """Return whether the files of a version are there and as they were registered."""
    try:
        verify(weights, version)
    except InvalidCheckpoint:
        return False
    return True
