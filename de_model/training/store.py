"""A training on disk: what it is, its loss curve, weights of finished stages, and the state of the stage in progress.

A state is one safetensors file whose header holds the numbers as JSON, so it appears whole or not at all. Nothing is
ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint
from de_model.training.stage_run import Snapshot
from de_model.training.stages import Stage

#: Raised when the meaning of a state changes.
_FORMAT = "unveil-training/1"
_IDENTITY, _HISTORY = "training.json", "losses.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """What was measured at a step of a stage: losses of the step, or scores of a validation after it."""

    stage: Stage
    step: int
    values: dict[str, float]
    validation: bool = False


class History:
    """The loss curve on disk, one JSON object a line, exact to the last bit.

    After a stop it is cut back to the state that the training goes on from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entry: Entry) -> None:
        """Append an entry; it survives the end of the process."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(entry))

    def entries(self) -> list[Entry]:
        """Return all entries; a last line that was cut off by a stop is left out."""
        found: list[Entry] = []
        with contextlib.suppress(OSError, ValueError, KeyError):
            for line in self.path.read_text("utf-8").splitlines():
                record = json.loads(line)
                found.append(Entry(Stage(record["stage"]), record["step"], record["values"], record["validation"]))
        return found

    def cut(self, stage: Stage, step: int) -> None:
        """Drop what was noted after `step` of `stage`, which will be done again."""
        order = list(Stage)
        position = (order.index(stage), step)
        kept = [e for e in self.entries() if (order.index(e.stage), e.step) <= position]
        temporary = self.path.with_suffix(".partial")
        temporary.write_text("".join(map(_line, kept)), "utf-8")
        temporary.replace(self.path)


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


class Store:
    """The folder of one training."""

    def __init__(self, folder: Path, identity: Mapping[str, str], keep: int = 2) -> None:
        """Open the folder, or begin it.

        Args:
            folder: created when missing.
            identity: everything the weights depend on, by name.
            keep: states kept of the stage in progress.

        Raises:
            InvalidCheckpoint: the folder belongs to a training with another identity.
            OSError: the folder cannot be written.
        """
        self.folder, self.identity, self.keep = folder, dict(identity), max(1, keep)
        folder.mkdir(parents=True, exist_ok=True)
        self._check_identity()
        _write_whole(folder / _IDENTITY, json.dumps(self.identity, indent=2, sort_keys=True) + "\n")
        self.history = History(folder / _HISTORY)

    def _check_identity(self) -> None:
        path = self.folder / _IDENTITY
        if not path.is_file():
            strangers = sorted(p.name for p in self.folder.glob("*.safetensors"))
            if strangers:
                raise InvalidCheckpoint(f"{self.folder} holds {strangers[0]} but no {_IDENTITY}; use an empty folder.")
            return
        try:
            before = dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise InvalidCheckpoint(f"{path} cannot be read ({error}); use an empty folder.") from error
        names = [n for n in sorted({*before, *self.identity}) if before.get(n) != self.identity.get(n)]
        if names:
            changes = "; ".join(f"{n} was {_short(before.get(n))}, now {_short(self.identity.get(n))}" for n in names)
            raise InvalidCheckpoint(
                f"{self.folder} belongs to another training ({changes}); give the same options to continue it, or "
                "choose another --work folder."
            )

    def weights_of(self, stage: Stage) -> Path | None:
        """Return the weights after a stage, or None while it is not finished."""
        path = self.folder / f"{stage}.safetensors"
        return path if path.is_file() else None

    def finish(self, stage: Stage, enhancer: Enhancer) -> None:
        """Keep the weights after a stage and drop its states."""
        checkpoint.save(enhancer, self.folder / f"{stage}.safetensors")
        for path in self._states(stage):
            path.unlink()

    def save(self, snapshot: Snapshot) -> None:
        """Keep the state of a stage, whole or not at all, and drop the oldest beyond `keep`.

        Raises:
            OSError: the folder is full or cannot be written.
        """
        numbers = _numbers(snapshot)
        path = self.folder / f"{snapshot.stage}-{snapshot.step:08d}.state.safetensors"
        temporary = path.with_suffix(".partial")
        tensors = {name: value.detach().cpu().contiguous() for name, value in snapshot.tensors.items()}
        save_file(tensors, temporary, metadata={"format": _FORMAT, "state": json.dumps(numbers)})
        _replace(temporary, path)
        for old in self._states(snapshot.stage)[: -self.keep]:
            old.unlink()

    def latest(self, stage: Stage) -> Snapshot | None:
        """Return the newest readable state of a stage, or None when it has not begun."""
        for path in reversed(self._states(stage)):
            snapshot = _read(path)
            if snapshot is not None:
                return snapshot
        return None

    def _states(self, stage: Stage) -> list[Path]:
        """Return the files with states of a stage, oldest first."""
        return sorted(self.folder.glob(f"{stage}-*.state.safetensors"))


def _numbers(snapshot: Snapshot) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in ("stage", "step", "skipped", "skipped_in_row", "updates")}


def _read(path: Path) -> Snapshot | None:
    """Return a state, or None where the file is damaged: an older one will do."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            if metadata.get("format") != _FORMAT:
                return None
            tensors: dict[str, Tensor] = {n: stream.get_tensor(n) for n in stream.keys()}  # noqa: SIM118 - no mapping
        numbers = json.loads(metadata["state"])
        return Snapshot(Stage(numbers.pop("stage")), tensors=tensors, **numbers)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, "utf-8")
    _replace(temporary, path)


def _replace(temporary: Path, path: Path) -> None:
    """Move a finished file to its place, its bytes being on the disk before its name is."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _short(value: str | None) -> str:
    """Return a value as it fits into a sentence."""
    text = "absent" if value is None else value
    return text if len(text) <= 60 else f"{text[:57]}..."
