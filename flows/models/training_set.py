"""The training set of a model: which pairs, of what content, in which version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from de_model.data.pairs import PairData, ScenePair
from flows.errors import InvalidSettings
from stac.io.files import write_json

_PREFIX = "training-set-"


@dataclass(frozen=True, slots=True)
class PairEntry:
    """One pair."""

    #: `CLOUDY <- CLEAR`, by the ids of their scenes.
    name: str
    #: SHA-256 over its pixels and masks.
    sha256: str


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A version of the set. It is never changed; new pairs make a new version."""

    version: int
    created: str
    cells: tuple[str, ...]
    pairs: tuple[PairEntry, ...]

    def new_since(self, before: TrainingSet | None) -> tuple[PairEntry, ...]:
        """Return the pairs that an earlier version does not hold, or holds with other content."""
        known = set() if before is None else set(before.pairs)
        return tuple(pair for pair in self.pairs if pair not in known)


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
        pairs = tuple(PairEntry(**pair) for pair in values.pop("pairs"))
        return TrainingSet(**values | {"pairs": pairs, "cells": tuple(values["cells"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidSettings(f"{path} is not a training set ({error}); restore it or move it away.") from error


def describe(pairs: Sequence[ScenePair], cells: tuple[str, ...], before: TrainingSet | None) -> TrainingSet:
    """Return the version that these pairs make; the one before, when nothing changed.

    Args:
        pairs: all pairs of the cells, known ones included.
        cells: grid squares they are from.
        before: the newest version so far.
    """
    entries = tuple(sorted((PairEntry(p.name, PairData([p]).fingerprint) for p in pairs), key=lambda entry: entry.name))
    if before is not None and before.pairs == entries:
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
