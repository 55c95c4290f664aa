"""The validation record: which filler is best for which kind of pixel, on places that the model never saw."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum, unique
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from de_model.checkpoint import known_of, write_whole
from de_model.errors import InvalidCheckpoint

FORMAT = "unveil-validation/1"
BoolArray = NDArray[np.bool_]

#: A gap's pixels up to here from known ground are near it, pixels.
NEAR_PX = 16
#: A scene with a smaller share of clear pixels has no clear ground.
CLEAR_SHARE = 0.01
#: Fillers whose errors differ by less count as equal; the simpler one is taken.
_TIE = 0.005


@unique
class PixelKind(StrEnum):
    """Kinds of hidden pixels; every pixel has one, the first that fits."""

    #: Another date saw it.
    OTHER_DATES = "other_dates"
    #: Hidden on every date, in a scene without clear ground.
    NO_CLEAR_GROUND = "no_clear_ground"
    #: Below thin cloud, or in shadow.
    THIN_CLOUD = "thin_cloud"
    #: Opaque, near known ground.
    GAP_NEAR = "gap_near"
    #: Opaque, further away.
    GAP_FAR = "gap_far"


class KindCode(IntEnum):
    """Values of a raster of kinds; 0 is a pixel that is not hidden."""

    OTHER_DATES = 1
    NO_CLEAR_GROUND = 2
    THIN_CLOUD = 3
    GAP_NEAR = 4
    GAP_FAR = 5

    @property
    def kind(self) -> PixelKind:
        """The kind by name."""
        return PixelKind[self.name]


@unique
class Filler(StrEnum):
    """Ways to fill, the simplest first."""

    FLAT = "flat"
    NORMALISED_CONVOLUTION = "normalised_convolution"
    FILLNODATA = "fillnodata"
    NEAREST_DATE = "nearest_date"
    LINEAR_MATCH = "linear_match"
    MEAN_LINEAR_MATCHES = "mean_linear_matches"
    COMPOSITE = "composite"
    BLURRED_REFERENCE = "blurred_reference"
    REFERENCE = "reference"
    DE = "de"

    @property
    def of_model(self) -> bool:
        """Whether it needs the weights."""
        return self in (Filler.BLURRED_REFERENCE, Filler.REFERENCE, Filler.DE)


#: What a product can fill gaps with.
GAP_FILLERS = (Filler.FLAT, Filler.NORMALISED_CONVOLUTION, Filler.FILLNODATA, Filler.REFERENCE, Filler.DE)


@dataclass(frozen=True, slots=True)
class Figures:
    """Errors of one filler on the pixels of one kind: means over places, so that no place counts twice."""

    #: Mean absolute error, reflectance.
    mae: float
    #: For a peak of 1, dB.
    psnr_db: float


@dataclass(frozen=True, slots=True)
class KindRecord:
    """What was measured on one kind of pixel."""

    cases: int
    places: int
    pixels: int
    #: None for a filler that does not apply.
    fillers: Mapping[Filler, Figures | None]

    @property
    def best(self) -> Filler:
        """The filler with the least error; of equals the simplest."""
        return self.best_of(tuple(Filler))

    def best_of(self, allowed: tuple[Filler, ...]) -> Filler:
        """Return the best of some fillers, of equals the simplest; `Filler.DE` where none was measured."""
        errors = {f: found.mae for f in allowed if (found := self.fillers.get(f)) is not None and found.mae >= 0}
        if not errors:
            return Filler.DE
        limit = min(errors.values()) * (1 + _TIE)
        return next(filler for filler in Filler if errors.get(filler, math.inf) <= limit)


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """What a model was found to be worth beside trivial fillers."""

    weights_sha256: str
    bands: tuple[str, ...]
    #: Places and cases in words.
    measured_on: str
    kinds: Mapping[PixelKind, KindRecord] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Checksum of what the record says."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def gap_filler(self, kind: PixelKind) -> Filler:
        """Return what fills the pixels of a kind that no other date saw."""
        found = self.kinds.get(kind)
        return UNVALIDATED[kind] if found is None else found.best_of(GAP_FILLERS)

    def _text(self) -> str:
        kinds = {
            str(kind): {"cases": r.cases, "places": r.places, "pixels": r.pixels, "best": str(r.best)}
            | {"fillers": {str(name): None if f is None else asdict(f) for name, f in r.fillers.items()}}
            for kind, r in self.kinds.items()
        }
        document = {
            "format": FORMAT,
            "weights_sha256": self.weights_sha256,
            "bands": list(self.bands),
            "measured_on": self.measured_on,
            "kinds": kinds,
        }
        return json.dumps(document, indent=2, sort_keys=True) + "\n"

    def save(self, path: Path) -> None:
        """Write the record as JSON.

        Raises:
            OSError: the folder is not writable or full.
        """
        write_whole(path, self._text())


#: Fillers of gaps for weights without a record: nothing has shown that they beat the ground around. Where there is no
#: ground around there is only the model.
UNVALIDATED: Mapping[PixelKind, Filler] = {
    PixelKind.NO_CLEAR_GROUND: Filler.DE,
    PixelKind.THIN_CLOUD: Filler.NORMALISED_CONVOLUTION,
    PixelKind.GAP_NEAR: Filler.NORMALISED_CONVOLUTION,
    PixelKind.GAP_FAR: Filler.NORMALISED_CONVOLUTION,
}


def fillers_of(record: ValidationRecord | None) -> dict[PixelKind, Filler]:
    """Return the filler of every kind of gap by a record, or without one."""
    if record is None:
        return dict(UNVALIDATED)
    return {kind: record.gap_filler(kind) for kind in UNVALIDATED}


def kinds_of_gaps(needed: BoolArray, thin: BoolArray, known: BoolArray, *, clear_ground: bool) -> NDArray[np.uint8]:
    """Return the `KindCode` of every pixel `(y, x)`, 0 where nothing is needed.

    A window that reaches `NEAR_PX` further gives what the whole image gives.

    Args:
        needed: hidden on every date.
        thin: below thin cloud, or in shadow.
        known: observed, or filled from other dates.
        clear_ground: whether the scene has any.
    """
    kinds = np.zeros(needed.shape, np.uint8)
    if not clear_ground:
        kinds[needed] = KindCode.NO_CLEAR_GROUND
        return kinds
    near = distance_transform_edt(~known) <= NEAR_PX if known.any() else np.zeros(needed.shape, bool)
    kinds[needed & ~near] = KindCode.GAP_FAR
    kinds[needed & near] = KindCode.GAP_NEAR
    kinds[needed & thin] = KindCode.THIN_CLOUD
    return kinds


def validation_path(weights: Path) -> Path:
    """Return where the record of a weights file is kept: beside it."""
    return weights.with_suffix(".validation.json")


def validation_of(weights: Path) -> ValidationRecord | None:
    """Return the record of a weights file, or of the shipped weights when it is a copy of them; None without one.

    Raises:
        InvalidCheckpoint: a record beside the weights cannot be read, or belongs to other weights.
    """
    return known_of(weights, validation_path, load_record, "unveil evaluate --record")


def load_record(path: Path) -> ValidationRecord:
    """Read a record.

    Raises:
        InvalidCheckpoint: the file is missing or not a validation record.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, expected {FORMAT}")
        kinds = {}
        for name, found in values["kinds"].items():
            fillers = {
                Filler(filler): None if f is None else Figures(float(f["mae"]), float(f["psnr_db"]))
                for filler, f in found["fillers"].items()
            }
            counts = {count: int(found[count]) for count in ("cases", "places", "pixels")}
            kinds[PixelKind(name)] = KindRecord(fillers=fillers, **counts)
        about = str(values["weights_sha256"]), tuple(map(str, values["bands"])), str(values["measured_on"])
        return ValidationRecord(*about, kinds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpoint(
            f"{path} is not a validation record ({error}); run unveil evaluate --record."
        ) from error
