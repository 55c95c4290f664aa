"""Versions of registered models, and the files that each holds: weights, and what is known of them beside."""

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
from de_model.calibration import calibration_of, calibration_path, load_table
from de_model.checkpoint import Knowledge
from de_model.errors import InvalidCheckpoint
from de_model.validation import load_record, validation_of, validation_path
from flows.drift.statistics import baseline_of, baseline_path, load_baseline

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

#: Path of the weights inside the artefacts of a version.
WEIGHTS_FILE = "artifacts/weights.safetensors"


@dataclass(frozen=True, slots=True)
class Companion:
    """A kind of file beside weights."""

    name: str
    #: Where it lies beside a weights file; reads it there, or from that path.
    path: Callable[[Path], Path]
    of: Callable[[Path], Knowledge | None]
    load: Callable[[Path], Knowledge]

    @property
    def tag(self) -> str:
        """Tag of a version with the checksum of what the file says; empty where it has none."""
        return f"{self.name}_sha256"

    @property
    def file(self) -> str:
        """Its path inside the artefacts of a version."""
        return str(self.path(Path(WEIGHTS_FILE)))


CALIBRATION = Companion("calibration", calibration_path, calibration_of, load_table)
VALIDATION = Companion("validation", validation_path, validation_of, load_record)
#: The factors of its intervals; which filler is best for which kind of pixel; what its training set looks like.
COMPANIONS = (CALIBRATION, VALIDATION, Companion("baseline", baseline_path, baseline_of, load_baseline))


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: str
    #: MLflow run that trained it, or registered it.
    run_id: str
    #: When it was registered.
    created: datetime
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @classmethod
    def of(cls, found: MlflowVersion, aliases: Mapping[str, str] | None = None) -> ModelVersion:
        """Return a version as MLflow gives it; a listed one comes without its `aliases`, which are given by version."""
        number = str(found.version)
        named = found.aliases if aliases is None else [alias for alias, version in aliases.items() if version == number]
        created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
        return cls(found.name, number, found.run_id or "", created, tuple(sorted(named)), dict(found.tags))

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`: never an alias, so that it means the same tomorrow."""
        return f"models:/{self.name}/{self.version}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file, 64 hexadecimal digits.

        Raises:
            InvalidCheckpoint: the version was registered without it.
        """
        found = self.tags.get("sha256", "")
        if not re.fullmatch(r"[0-9a-f]{64}", found):
            raise InvalidCheckpoint(
                f"{self.uri} has no tag sha256 with the checksum of its weights; register the weights again."
            )
        return found

    def checksum(self, companion: Companion) -> str:
        """Return the checksum of a file beside the weights; empty where the version has none."""
        return self.tags.get(companion.tag, "")


def local_folder(uri: str) -> Path | None:
    """Return the folder that a `file:` URI or a path means, or None when the artefact is elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return Path(uri) if not parts.scheme else None


def verify(weights: Path, version: ModelVersion) -> None:
    """Raise `InvalidCheckpoint` unless weights and the files beside them are those that were registered."""
    remedy = "register the weights again, or choose another version with --model."
    if not weights.is_file():
        raise InvalidCheckpoint(f"The weights of {version.uri} are missing at {weights}; {remedy}")
    found = [("weights", version.sha256, checkpoint.sha256_of(weights), version.sha256)]
    for companion in COMPANIONS:
        if registered := version.checksum(companion):
            known = companion.load(companion.path(weights))
            found.append((companion.name, registered, known.sha256, known.weights_sha256))
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
