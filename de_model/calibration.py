"""How wide an interval must be, learnt from errors on ground whose truth is known: split-conformal calibration."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from de_model.card import ModelCard
from de_model.checkpoint import known_of, read_card, write_whole
from de_model.errors import InvalidCheckpoint, InvalidModelInput

FORMAT = "unveil-calibration/1"
#: Probability with which an interval is to hold the truth.
LEVEL = 0.9


@unique
class Origin(StrEnum):
    """Where a restored pixel comes from; every origin errs in its own way."""

    OTHER_DATES = "other dates"
    MODEL = "model"
    #: Interpolated from the known ground around; a table need not have it.
    SURROUNDINGS = "surroundings"


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """Half-width of the interval = factor x scale, the scale being a pixel's own standard deviation."""

    #: Of the weights that the factors belong to.
    weights_sha256: str
    bands: tuple[str, ...]
    #: `[band]` by origin.
    factors: Mapping[Origin, tuple[float, ...]]
    #: What it was fitted on, for people.
    fitted_on: str = ""
    level: float = LEVEL

    @property
    def sha256(self) -> str:
        """Checksum of what the table says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the table as JSON.

        Raises:
            OSError: the folder is not writable or full.
        """
        write_whole(path, json.dumps({"format": FORMAT} | asdict(self), indent=2, sort_keys=True) + "\n")


def conformal_factor(scores: NDArray[Any], level: float = LEVEL) -> float:
    """Return the smallest factor that covers a new score with probability `level`.

    The ceil((n + 1) level)-th smallest of n scores (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2021,
    arXiv:2107.07511, section 1).

    Args:
        scores: |truth - estimate| / scale `(pixel,)`, finite.
        level: 0..1.

    Raises:
        InvalidModelInput: there are too few scores for the level.
    """
    rank = math.ceil((len(scores) + 1) * level)
    if rank > len(scores):
        raise InvalidModelInput(f"{len(scores)} scores are too few to calibrate intervals of {level:.0%}.")
    return float(np.partition(scores, rank - 1)[rank - 1])


def check_apart(card: ModelCard, table: CalibrationTable) -> None:
    """Raise `InvalidCheckpoint` unless a model was trained and its intervals were calibrated on different ground."""
    require_apart(card, places_in(table.fitted_on))


def require_apart(card: ModelCard, cells: Iterable[str]) -> None:
    """Raise unless a model was trained elsewhere than at some places, as its card says in words.

    Errors on ground that was trained on are smaller than elsewhere, so that intervals would be too narrow.

    Args:
        card: of the model.
        cells: grid squares or places to calibrate on.

    Raises:
        InvalidCheckpoint: the model was trained on one of them; they are named.
    """
    shared = trained_on(card, cells)
    if shared:
        raise InvalidCheckpoint(
            f"Intervals calibrated on {', '.join(sorted(shared))} would be too narrow: the model was trained there "
            f"({card.trained_on}); calibrate on other squares with unveil calibrate --cell."
        )


def places_in(text: str) -> set[str]:
    """Return the places that a text names: grid squares and scenes (`MGRS-33TWM`, `chip_id_2`), and lists of places."""
    listed = re.findall(r"places(?: never trained on)?: ([^;]+)", text)
    names = {name.strip() for each in listed for name in each.split(",")}
    words = re.findall(r"[\w-]{5,}", text)
    return names | {word for word in words if re.search(r"\d", word) and re.search(r"[A-Za-z]", word)}


def trained_on(card: ModelCard, places: Iterable[str]) -> set[str]:
    """Return those of some places that a model was trained on; names may be parts of one another."""
    trained = places_in(card.trained_on)
    return {place for place in places if any(place in other or other in place for other in trained)}


def calibration_path(weights: Path) -> Path:
    """Return where the table of a weights file is kept: beside it."""
    return weights.with_suffix(".calibration.json")


def calibration_of(weights: Path) -> CalibrationTable | None:
    """Return the table of a weights file, or of the shipped weights when it is a copy of them; None without one.

    Raises:
        InvalidCheckpoint: a table beside the weights cannot be read, belongs to other weights, or was calibrated on
            ground that the weights were trained on.
    """
    table = known_of(weights, calibration_path, load_table, "unveil calibrate")
    if table is not None:
        check_apart(read_card(weights), table)
    return table


def load_table(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        InvalidCheckpoint: the file is missing or not a calibration table.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, expected {FORMAT}")
        factors = {Origin(origin): tuple(map(float, row)) for origin, row in values["factors"].items()}
        if not {Origin.OTHER_DATES, Origin.MODEL} <= set(factors) or any(
            not (f > 0 and math.isfinite(f)) for row in factors.values() for f in row
        ):
            raise ValueError("factors must be positive and given for other dates and the model")
        sha256, bands = str(values["weights_sha256"]), tuple(map(str, values["bands"]))
        level = float(values["level"])
        if not 0 < level < 1 or any(len(row) != len(bands) for row in factors.values()):
            raise ValueError("the level must lie between 0 and 1, and every band must have a factor")
        return CalibrationTable(sha256, bands, factors, str(values["fitted_on"]), level)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidCheckpoint(f"{path} is not a calibration table ({error}); run unveil calibrate.") from error
