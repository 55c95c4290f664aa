"""What an evaluation found: errors by kind of pixel and filler, coverage of intervals, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from de_model.calibration import Origin
from de_model.metrics.bootstrap import Interval, difference_interval
from de_model.validation import Figures, Filler, KindRecord, PixelKind, ValidationRecord

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: A block with fewer scored pixels says nothing.
_LEAST_PIXELS = 400
#: What is trivial: none of it is trained.
TRIVIAL_IN_GAPS = (Filler.FLAT, Filler.NORMALISED_CONVOLUTION, Filler.FILLNODATA)
#: Side of a block, pixels.
_SIDE = 64
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Sums over the scored pixels of every block, `(block, 5)`: pixels, absolute error, squared error (means of the
    bands, reflectance), spectral angle (degrees), absolute error of NDVI.
    """

    sums: NDArray[np.float64]

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(np.concatenate([self.sums, other.sums]))

    @property
    def pixels(self) -> int:
        """Scored pixels."""
        return int(self.sums[:, 0].sum())

    def _mean(self, column: int) -> float:
        return float(self.sums[:, column].sum() / self.sums[:, 0].sum())

    @property
    def mae(self) -> float:
        """Mean absolute error, reflectance."""
        return self._mean(1)

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio for a peak of 1, dB."""
        mse = self._mean(2)
        return math.inf if mse == 0 else -10 * math.log10(mse)

    @property
    def sam(self) -> float:
        """Mean spectral angle, degrees."""
        return self._mean(3)

    @property
    def ndvi(self) -> float:
        """Mean absolute error of NDVI."""
        return self._mean(4)

    def mae_interval(self) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval of the MAE over blocks."""
        return _interval(self.sums[:, 1], self.sums[:, 0])


def _interval(values: NDArray[np.float64], pixels: NDArray[np.float64]) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].sum(axis=1) / pixels[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def error_sums(image: FloatArray, truth: FloatArray, where: BoolArray, bands: tuple[str, ...]) -> ErrorSums:
    """Return the errors of an image `(band, y, x)` on the pixels `where` `(y, x)`, block by block."""
    rows, columns = np.nonzero(where)
    block = rows // _SIDE * (where.shape[1] // _SIDE + 1) + columns // _SIDE
    a, b = image[:, where].astype(np.float64), truth[:, where].astype(np.float64)
    figures = np.stack(
        [
            np.ones(len(rows)),
            np.abs(a - b).mean(axis=0),
            np.square(a - b).mean(axis=0),
            _angle(a, b),
            _ndvi(a, b, bands),
        ]
    )
    _, index = np.unique(block, return_inverse=True)
    return ErrorSums(np.stack([np.bincount(index, figure) for figure in figures], axis=1))


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    cosine = (a * b).sum(axis=0) / np.maximum(np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), 1e-9)
    angle: NDArray[np.float64] = np.degrees(np.arccos(cosine.clip(-1, 1)))
    return angle


def _ndvi(a: NDArray[np.float64], b: NDArray[np.float64], bands: tuple[str, ...]) -> NDArray[np.float64]:
    if not {"red", "nir"} <= set(bands):
        return np.full(a.shape[1], np.nan)
    red, nir = bands.index("red"), bands.index("nir")
    one, other = ((x[nir] - x[red]) / np.maximum(x[nir] + x[red], 1e-6) for x in (a, b))
    error: NDArray[np.float64] = np.abs(one.clip(-1, 1) - other.clip(-1, 1))
    return error


@dataclass(frozen=True, slots=True)
class Coverage:
    """How 90 % intervals hold the truth: counts of values (pixels times bands), and sums over them."""

    inside: int = 0
    values: int = 0
    #: Interval score: width, and ten times twice what lies outside (Gneiting and Raftery 2007), summed.
    score: float = 0.0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(self.inside + other.inside, self.values + other.values, self.score + other.score)

    @property
    def share(self) -> float:
        """Share of the values inside; NaN without any."""
        return self.inside / self.values if self.values else float("nan")

    @property
    def mean_score(self) -> float:
        """Mean interval score, reflectance; less is better. NaN without any."""
        return self.score / self.values if self.values else float("nan")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What was measured on one case."""

    name: str
    place: str
    #: By kind of pixel and filler; all fillers of a kind on the same pixels.
    errors: Mapping[PixelKind, Mapping[Filler, ErrorSums]]
    #: All pixels that no other date saw.
    gaps: Mapping[Filler, ErrorSums]
    coverage: Mapping[Origin, Coverage]
    #: Observed pixels that came out other than they were observed.
    changed_pixels: int
    seconds: float
    #: Cloudy scene, model and truth side by side, `(3, y, x)`; None where the model had nothing to do.
    picture: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on many cases."""

    sha256: str
    bands: tuple[str, ...]
    size_bytes: int
    cases: tuple[CaseResult, ...]
    #: SHA-256 over inputs and truths: equal for evaluations that can be compared.
    digest: str

    @property
    def places(self) -> tuple[str, ...]:
        """Cells that were looked at."""
        return tuple(sorted({case.place for case in self.cases}))

    def total(self, kind: PixelKind | None = None) -> dict[Filler, ErrorSums]:
        """Return the errors over all cases, of one kind of pixel or of all gaps."""
        found: dict[Filler, list[ErrorSums]] = {}
        for case in self.cases:
            for filler, sums in (case.gaps if kind is None else case.errors.get(kind, {})).items():
                found.setdefault(filler, []).append(sums)
        return {filler: reduce(add, sums) for filler, sums in found.items()}

    def coverage(self, origin: Origin, place: str | None = None) -> Coverage:
        """Return how intervals of an origin hold the truth, in one place or in all."""
        found = [c.coverage[origin] for c in self.cases if origin in c.coverage and place in (None, c.place)]
        return reduce(add, found, Coverage())

    @property
    def psnr(self) -> float:
        """Mean PSNR over blocks of the gaps, dB; NaN without any."""
        blocks = self.block_psnr(Filler.DE)
        return float(np.mean(blocks)) if len(blocks) else float("nan")

    def block_psnr(self, filler: Filler) -> NDArray[np.float64]:
        """Return the PSNR of every block of the gaps with enough pixels, dB."""
        sums = self.total().get(filler)
        if sums is None:
            return np.zeros(0)
        enough = sums.sums[sums.sums[:, 0] >= _LEAST_PIXELS]
        return np.asarray(-10 * np.log10(np.maximum(enough[:, 2] / enough[:, 0], 1e-12)))

    def best_trivial(self) -> Filler | None:
        """Return the trivial filler with the least error in gaps; None where there is none."""
        totals = self.total()
        known = [filler for filler in TRIVIAL_IN_GAPS if filler in totals]
        return min(known, key=lambda filler: totals[filler].mae) if known else None

    def gain_over(self, filler: Filler, other: Evaluation | None = None) -> Interval:
        """Return the PSNR of the model above a filler of this or of another evaluation, dB, paired by block."""
        return difference_interval(self.block_psnr(Filler.DE), (other or self).block_psnr(filler))

    def record(self) -> ValidationRecord:
        """Return the validation record: means over places, every case of a place counting alike."""
        kinds = {kind: found for kind in PixelKind if (found := self._kind(kind)) is not None}
        about = f"{', '.join(self.places)}: {len(self.cases)} cases"
        return ValidationRecord(self.sha256, self.bands, about, kinds)

    def _kind(self, kind: PixelKind) -> KindRecord | None:
        cases = [case for case in self.cases if case.errors.get(kind)]
        if not cases:
            return None
        places = sorted({case.place for case in cases})
        fillers: dict[Filler, Figures | None] = {}
        for filler in Filler:
            by_place = [
                [sums for case in cases if case.place == place and (sums := case.errors[kind].get(filler)) is not None]
                for place in places
            ]
            known = [sums for sums in by_place if sums]
            fillers[filler] = (
                Figures(
                    float(np.mean([reduce(add, sums).mae for sums in known])),
                    float(np.mean([np.mean([each.psnr for each in sums]) for sums in known])),
                )
                if len(known) == len(places)
                else None
            )
        pixels = sum(next(iter(case.errors[kind].values())).pixels for case in cases)
        return KindRecord(len(cases), len(places), pixels, fillers)
