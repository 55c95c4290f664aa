"""A training on disk: what it is, weights of finished stages, and the state of the stage in progress.

A state is one safetensors file whose header holds the numbers as JSON, so it appears whole or not at all. Nothing is
ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint
from de_model.training.stage_run import Snapshot
from de_model.training.stages import Stage

#: Raised when the meaning of a state changes.
_FORMAT = "unveil-training/1"
_IDENTITY = "training.json"


class Store:
    """The folder of one training."""

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        """Open the folder, or begin it.

        Args:
            folder: created when missing.
            identity: everything the weights depend on, by name.

        Raises:
            InvalidCheckpoint: the folder belongs to a training with another identity.
            OSError: the folder cannot be written.
        """
        self.folder, self.identity = folder, dict(identity)
        folder.mkdir(parents=True, exist_ok=True)
        self._check_identity()
        checkpoint.write_whole(folder / _IDENTITY, json.dumps(self.identity, indent=2, sort_keys=True) + "\n")

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
        """Keep the weights after a stage and drop its state."""
        checkpoint.save(enhancer, self.folder / f"{stage}.safetensors")
        self._state(stage).unlink(missing_ok=True)

    def save(self, snapshot: Snapshot) -> None:
        """Keep the state of a stage, whole or not at all, in place of the one before.

        Raises:
            OSError: the folder is full or cannot be written.
        """
        path = self._state(snapshot.stage)
        temporary = path.with_suffix(".partial")
        tensors = {name: value.detach().cpu().contiguous() for name, value in snapshot.tensors.items()}
        save_file(tensors, temporary, metadata={"format": _FORMAT, "state": json.dumps(_numbers(snapshot))})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())  # the bytes are on the disk before their name is
        temporary.replace(path)

    def latest(self, stage: Stage) -> Snapshot | None:
        """Return the state of a stage, or None when there is none that can be read: it begins anew."""
        try:
            with safe_open(self._state(stage), framework="pt") as stream:
                metadata = stream.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    return None
                tensors = {name: stream.get_tensor(name) for name in sorted(stream.keys())}
            numbers = json.loads(metadata["state"])
            return Snapshot(Stage(numbers.pop("stage")), tensors=tensors, **numbers)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return None

    def _state(self, stage: Stage) -> Path:
        return self.folder / f"{stage}.state.safetensors"


def _numbers(snapshot: Snapshot) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in ("stage", "step", "skipped", "skipped_in_row", "updates")}


def _short(value: str | None) -> str:
    """Return a value as it fits into a sentence."""
    text = "absent" if value is None else value
    return text if len(text) <= 60 else f"{text[:57]}..."
