"""What a model was trained on, in numbers: kept beside its weights, like the table of its intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from de_model.checkpoint import sha256_of, shipped_weights
from flows.drift.statistics import UnitStatistics
from flows.errors import InvalidBaseline
from stac.io.files import write_bytes

FORMAT = "unveil-drift-baseline/1"


@dataclass(frozen=True, slots=True)
class Baseline:
    """The statistics of a training set, part by part: how far the parts lie apart says what is usual."""

    #: Of the weights that were trained on it.
    weights_sha256: str
    #: What it was made of, for people.
    made_of: str
    #: Names of the pairs that were trained on.
    pairs: tuple[str, ...]
    units: tuple[UnitStatistics, ...]

    def save(self, path: Path) -> None:
        """Write the baseline as JSON, one unit a line.

        Raises:
            DiskFull, NotWritable: it cannot be written.
        """
        head = {
            "format": FORMAT,
            "weights_sha256": self.weights_sha256,
            "made_of": self.made_of,
            "pairs": list(self.pairs),
        }
        lines = [_compact(unit.document(summaries=False)) for unit in self.units]
        text = _compact(head)[:-1] + ',"units":[\n' + ",\n".join(lines) + "\n]}\n"
        write_bytes(path, text.encode())


def baseline_path(weights: Path) -> Path:
    """Return where the baseline of a weights file is kept: beside it."""
    return weights.with_suffix(".baseline.json")


def baseline_of(weights: Path) -> Baseline | None:
    """Return the baseline of a weights file, or of the shipped weights when it is a copy of them; None without one.

    Raises:
        InvalidBaseline: a baseline beside the weights cannot be read, or belongs to other weights.
    """
    own, shipped = baseline_path(weights), baseline_path(shipped_weights())
    digest = sha256_of(weights)
    if own.is_file():
        found = load_baseline(own)
        if found.weights_sha256 != digest:
            raise InvalidBaseline(
                f"{own.name} belongs to other weights than {weights.name}; run unveil drift --baseline."
            )
        return found
    if not shipped.is_file():
        return None
    found = load_baseline(shipped)
    return found if found.weights_sha256 == digest else None


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InvalidBaseline: the file is missing or no baseline.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, expected {FORMAT}")
        units = tuple(UnitStatistics.from_document(unit) for unit in values["units"])
        if not units:
            raise ValueError("it holds no unit")
        sha256, made_of = str(values["weights_sha256"]), str(values["made_of"])
        return Baseline(sha256, made_of, _names(values["pairs"]), units)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidBaseline) as error:
        raise InvalidBaseline(f"{path} is not a drift baseline ({error}); run unveil drift --baseline.") from error


def _names(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(name) for name in values)


def _compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
