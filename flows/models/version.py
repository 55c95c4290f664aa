"""Versions of registered models, and the files behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from de_model import checkpoint
from de_model.calibration import CalibrationTable, calibration_of, calibration_path, load_table
from de_model.errors import InvalidCheckpoint
from de_model.validation import ValidationRecord, load_record, validation_of, validation_path

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


def verify(path: Path, version: ModelVersion) -> None:
    """Raise `InvalidCheckpoint` unless `path` holds exactly the registered weights."""
    remedy = "register the weights again, or choose another version with --model."
    if not path.is_file():
        raise InvalidCheckpoint(f"The weights of {version.uri} are missing at {path}; {remedy}")
    found = checkpoint.sha256_of(path)
    if found != version.sha256:
        raise InvalidCheckpoint(
            f"The weights of {version.uri} at {path} have SHA-256 {found}, registered was {version.sha256}: the file "
            f"was changed; {remedy}"
        )


def verified_calibration(weights: Path, version: ModelVersion) -> CalibrationTable | None:
    """Return the calibration beside the weights of a version; None when it was registered without.

    Raises:
        InvalidCheckpoint: the table is missing, or is not the one that was registered.
    """
    if not version.calibration:
        return calibration_of(weights) if version.calibration is None else None
    table = load_table(calibration_path(weights))
    _check_beside("calibration", table, version.calibration, weights, version)
    return table


def verified_validation(weights: Path, version: ModelVersion) -> ValidationRecord | None:
    """Return the validation record beside the weights of a version; arguments and errors as for its calibration."""
    if not version.validation:
        return validation_of(weights) if version.validation is None else None
    record = load_record(validation_path(weights))
    _check_beside("validation record", record, version.validation, weights, version)
    return record


def _check_beside(
    name: str, found: CalibrationTable | ValidationRecord, registered: str, weights: Path, version: ModelVersion
) -> None:
    if found.sha256 != registered or found.weights_sha256 != version.sha256:
        raise InvalidCheckpoint(
            f"The {name} of {version.uri} beside {weights} has SHA-256 {found.sha256}, registered was {registered}: "
            "the file was changed; register the weights again, or choose another version with --model."
        )


def is_whole(weights: Path, version: ModelVersion) -> bool:
    """Return whether the files of a version are there and as they were registered."""
    try:
        verify(weights, version)
        verified_calibration(weights, version)
        verified_validation(weights, version)
    except InvalidCheckpoint:
        return False
    return True
