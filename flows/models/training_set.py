"""The training set of a model: which scenes, of what content, in which version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from de_model.data.archive import Scene
from flows.errors import InvalidSettings
from stac.io.files import write_json

_PREFIX = "training-set-"


@dataclass(frozen=True, slots=True)
class SceneEntry:
    """One scene."""

    name: str
    #: SHA-256 over its pixels and classes.
    sha256: str


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A version of the set. It is never changed; new scenes make a new version."""

    version: int
    created: str
    cells: tuple[str, ...]
    scenes: tuple[SceneEntry, ...]

    def new_since(self, before: TrainingSet | None) -> tuple[SceneEntry, ...]:
        """Return the scenes that an earlier version does not hold, or holds with other content."""
        known = set() if before is None else set(before.scenes)
        return tuple(scene for scene in self.scenes if scene not in known)


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
        values = json.loads(path.read_text("utf-8"))
        scenes = tuple(SceneEntry(**scene) for scene in values.pop("scenes"))
        return TrainingSet(**values | {"scenes": scenes, "cells": tuple(values["cells"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidSettings(f"{path} is not a training set ({error}); restore it or move it away.") from error


def describe(scenes: Sequence[Scene], cells: tuple[str, ...], before: TrainingSet | None) -> TrainingSet:
    """Return the version that these scenes make; the one before, when nothing changed.

    Args:
        scenes: all scenes of the cells, known ones included.
        cells: grid squares they are from.
        before: the newest version so far.
    """
    entries = tuple(
        SceneEntry(scene.info.name, hashlib.sha256(scene.image.tobytes() + scene.classes.tobytes()).hexdigest())
        for scene in sorted(scenes, key=lambda scene: scene.info.name)
    )
    if before is not None and before.scenes == entries:
        return before
    version = 1 if before is None else before.version + 1
    return TrainingSet(version, datetime.now(UTC).isoformat(timespec="seconds"), cells, entries)


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
        write_json(path, asdict(training_set))
    return path
