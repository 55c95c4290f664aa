"""The training set of a model: which scenes, each in which version, and which version of the set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flows.errors import InvalidSettings
from flows.models.training_places import MOST_HIDDEN
from flows.planning.workunit import version_of
from stac.io.files import write_json
from stac.search.acquisitions import Acquisition, cloud_cover

_PREFIX = "training-set-"


class TrainingSet(BaseModel):
    """A version of the set. It is never changed; new scenes make a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    created: str
    cells: tuple[str, ...]
    #: SHA-256 over what distinguishes a reprocessed scene from the one before, by name of the scene.
    scenes: dict[str, str]

    def new_since(self, before: TrainingSet | None) -> int:
        """Return how many scenes an earlier version does not hold, or holds in another version."""
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


def describe(dates: Iterable[Acquisition], cells: tuple[str, ...], before: TrainingSet | None) -> TrainingSet:
    """Return the version that these dates make; the one before, when nothing changed.

    Dates whose items say that they are closed are left out: a training would leave them out, too.
    """
    shown = (date for date in dates if any((cloud_cover(item) or 0) <= 100 * MOST_HIDDEN for item in date.items))
    found = {date.id: _version_of(date) for date in sorted(shown, key=lambda date: date.id)}
    if before is not None and before.scenes == found:
        return before
    version, now = 1 if before is None else before.version + 1, datetime.now(UTC).isoformat(timespec="seconds")
    return TrainingSet(version=version, created=now, cells=cells, scenes=found)


def _version_of(date: Acquisition) -> str:
    return hashlib.sha256(json.dumps([version_of(item) for item in date.items]).encode()).hexdigest()


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
