"""Have enough new pairs of cloudy and clear dates come in to train on?

Pairs are counted by the cloud cover that scenes declare, without reading a pixel: what is mined of them later may be
a little more or less.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pystac
from filelock import FileLock

from flows.drift.baseline import Baseline
from flows.retraining import training_set
from stac.acquisitions import Acquisition, cloud_cover, group_passes
from stac.grid import grid_code
from stac.storage import write_json, writing

#: Declared cloud cover of a date that is cloudy in part and of one that is clear, percent.
_CLOUDY, _CLEAR = (15.0, 95.0), 15.0
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class NewPairs:
    """The pairs seen since the last training."""

    #: `CLOUDY <- CLEAR`, by the ids of their dates, sorted.
    names: tuple[str, ...]
    #: How many of them have been told already.
    announced: int


def candidate_pairs(items: Iterable[pystac.Item], most_days: int) -> set[str]:
    """Return the names of the pairs that scenes make: one grid square, one date cloudy in part, one clear.

    Args:
        items: scenes with a usable `eo:cloud_cover`; those without make no pair.
        most_days: between both dates.
    """
    squares: dict[str, list[pystac.Item]] = defaultdict(list)
    for item in items:
        if cloud_cover(item) is not None:
            squares[grid_code(item)].append(item)
    return {name for scenes in squares.values() for name in _pairs(group_passes(scenes), most_days)}


def trained_pairs(state: Path, baseline: Baseline | None) -> set[str]:
    """Return the names of the pairs that were trained on: the model's, and those of the newest training set.

    Raises:
        InvalidSettings: the training set cannot be read.
    """
    known = set(baseline.pairs) if baseline else set()
    newest = training_set.latest(state / "retraining")
    return known | ({pair.name for pair in newest.pairs} if newest else set())


def add_pairs(state: Path, names: Collection[str], trained: Collection[str]) -> NewPairs:
    """Add pairs to those seen since the last training, and return them all.

    What was trained on meanwhile is dropped: a training moves the watermark by being there.

    Raises:
        DiskFull, NotWritable: the state folder cannot be written.
    """
    with _locked(state) as path:
        before = _read(path)
        every = tuple(sorted((set(before.names) | set(names)) - set(trained)))
        found = NewPairs(every, min(before.announced, len(every)))
        _write(path, found)
    return found


def announce(state: Path, told: NewPairs) -> None:
    """Remember that pairs were told, so that the same ones are not told again.

    Raises:
        DiskFull, NotWritable: the state folder cannot be written.
    """
    with _locked(state) as path:
        _write(path, NewPairs(_read(path).names, len(told.names)))


def _pairs(dates: Sequence[Acquisition], most_days: int) -> Iterable[str]:
    for cloudy in dates:
        if not _CLOUDY[0] <= _cover(cloudy) <= _CLOUDY[1]:
            continue
        for clear in dates:
            if _cover(clear) <= _CLEAR and abs(cloudy.day - clear.day) <= most_days and clear is not cloudy:
                yield f"{cloudy.id} <- {clear.id}"


def _cover(date: Acquisition) -> float:
    covers = [cover for item in date.items if (cover := cloud_cover(item)) is not None]
    return sum(covers) / len(covers)


@contextmanager
def _locked(state: Path) -> Iterator[Path]:
    """Hold the file of the pairs for one process at a time."""
    path = state / "drift" / "pairs.json"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S):
        yield path


def _read(path: Path) -> NewPairs:
    try:
        values = json.loads(path.read_text("utf-8"))
        return NewPairs(tuple(str(name) for name in values["names"]), int(values["announced"]))
    except (OSError, ValueError, KeyError, TypeError):
        # Nothing was counted yet, or what was is lost: the next runs count anew.
        return NewPairs((), 0)


def _write(path: Path, pairs: NewPairs) -> None:
    write_json(path, {"names": list(pairs.names), "announced": pairs.announced})
