"""What a model was trained on, in numbers: kept beside its weights, like the table of its intervals."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from de_model.checkpoint import known_of
from de_model.errors import InvalidCheckpoint
from flows.drift.statistics import UnitStatistics
from stac.io.files import write_bytes

NO_BASELINE = "The model has no drift baseline; `unveil drift --baseline` makes one of its training cells."


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

    @property
    def sha256(self) -> str:
        """Checksum of what the baseline says."""
        return hashlib.sha256(_JSON.dump_json(self)).hexdigest()

    def save(self, path: Path) -> None:
        """Write the baseline as JSON.

        Raises:
            DiskFull, NotWritable: it cannot be written.
        """
        write_bytes(path, _JSON.dump_json(self) + b"\n")


_JSON = TypeAdapter(Baseline)


def baseline_path(weights: Path) -> Path:
    """Return where the baseline of a weights file is kept: beside it."""
    return weights.with_suffix(".baseline.json")


def baseline_of(weights: Path) -> Baseline | None:
    """Return the baseline of a weights file, or of the shipped weights when it is a copy of them; None without one.

    Raises:
        InvalidCheckpoint: a baseline beside the weights cannot be read, or belongs to other weights.
    """
    return known_of(weights, baseline_path, load_baseline, "unveil drift --baseline")


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InvalidCheckpoint: the file is missing or no baseline.
    """
    try:
        found = _JSON.validate_json(path.read_bytes())
        if not found.units:
            raise ValueError("it holds no unit")
        return found
    except (OSError, ValueError, InvalidCheckpoint) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise InvalidCheckpoint(f"{path} is not a drift baseline ({reason}); run unveil drift --baseline.") from error
