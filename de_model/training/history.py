"""The loss curve of a training on disk: one JSON object a line, exact to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from de_model.training.stages import Stage


@dataclass(frozen=True, slots=True)
class Entry:
    """What was measured at a step of a stage: losses of the step, or scores of a validation after it."""

    stage: Stage
    step: int
    values: dict[str, float]
    validation: bool = False


class History:
    """Appends entries; after a stop it is cut back to the state the training goes on from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entry: Entry) -> None:
        """Append an entry; it survives the end of the process."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(entry))

    def entries(self) -> list[Entry]:
        """Return all entries; a last line that was cut off by a stop is left out."""
        return list(self._read())

    def _read(self) -> Iterator[Entry]:
        if not self.path.is_file():
            return
        for line in self.path.read_text("utf-8").splitlines():
            try:
                yield _entry(json.loads(line))
            except (ValueError, KeyError):
                return

    def cut(self, stage: Stage, step: int) -> None:
        """Drop what was noted after `step` of `stage`, which will be done again."""
        order = list(Stage)
        position = (order.index(stage), step)
        kept = [e for e in self.entries() if (order.index(e.stage), e.step) <= position]
        temporary = self.path.with_suffix(".partial")
        temporary.write_text("".join(map(_line, kept)), "utf-8")
        temporary.replace(self.path)


def _line(entry: Entry) -> str:
    record = {"stage": entry.stage, "step": entry.step, "validation": entry.validation, "values": entry.values}
    return json.dumps(record) + "\n"


def _entry(record: Mapping[str, Any]) -> Entry:
    return Entry(Stage(record["stage"]), record["step"], record["values"], record["validation"])
