"""The training set of a model: which scenes, of what content, in which version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from de_model.data.archive import Scene
from flows.errors import InvalidSettings
from stac.io.files import write_json

_PREFIX = "training-set-"


class TrainingSet(BaseModel):
    """A version of the set. It is never changed; new scenes make a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    created: str
    cells: tuple[str, ...]
    #: SHA-256 over pixels and classes, by name of the scene.
    scenes: dict[str, str]

    def new_since(self, before: TrainingSet | None) -> int:
        """Return how many scenes an earlier version does not hold, or holds with other content."""
        return len(self.scenes.items() - (before.scenes.items() if before is not None else set()))


def latest(folder: Path) -> TrainingSet | None:
    """Return the newest version in a folder, None where there is none.

    Raises:
        InvalidSettings: it cannot be read.
    """
    paths = sorted(folder.glob(f"{_PREFIX}*.json"))
    return read(paths[-1]) if paths else None


def read(path: Path) -> TrainingSet:
    """Return the version kept in a file.

    Raises:
        InvalidSettings: it is not a training set.
    """
    try:
        return TrainingSet.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidSettings(f"{path} is not a training set ({reason}); restore it or move it away.") from error


def describe(scenes: Sequence[Scene], cells: tuple[str, ...], before: TrainingSet | None) -> TrainingSet:
    """Return the version that these scenes make; the one before, when nothing changed."""
    found = {
        scene.info.name: hashlib.sha256(scene.image.tobytes() + scene.classes.tobytes()).hexdigest()
        for scene in sorted(scenes, key=lambda scene: scene.info.name)
    }
    if before is not None and before.scenes == found:
        return before
    version, now = 1 if before is None else before.version + 1, datetime.now(UTC).isoformat(timespec="seconds")
    return TrainingSet(version=version, created=now, cells=cells, scenes=found)


def path_of(version: int, folder: Path) -> Path:
    """Return where a version is kept."""
    return folder / f"{_PREFIX}{version:05d}.json"


def write(training_set: TrainingSet, folder: Path) -> Path:
    """Keep a version; return its path.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(training_set.version, folder)
    if not path.exists():
        write_json(path, training_set.model_dump())
    return path
