"""What one model showed in a contest: errors by cloud class, honesty of its intervals, faithfulness, time and size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.calibration import CalibrationTable, calibration_of
from de_model.metrics.paper import paper_score
from flows.models.error_sums import ErrorSums, error_sums
from stac.masks.classes import PixelClass
from stac.stack import Stack

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_CLASSES = {"cloud": PixelClass.CLOUD, "thin cloud": PixelClass.THIN_CLOUD, "shadow": PixelClass.SHADOW}


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model that takes part."""

    weights: Path
    #: Of its intervals; None for those of a Gaussian.
    calibration: CalibrationTable | None

    @classmethod
    def of(cls, weights: Path) -> Entrant:
        """Return the model of a weights file with the calibration beside it.

        Raises:
            InvalidCheckpoint: the calibration belongs to other weights.
        """
        return cls(weights, calibration_of(weights))


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Errors over the hidden pixels of one class."""

    pixels: int
    #: Mean absolute error, reflectance.
    mae: float
    #: dB, for a peak reflectance of 1.
    psnr: float
    #: Mean spectral angle, degrees.
    sam: float
    #: Mean absolute error of NDVI; NaN without red and near infrared.
    ndvi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One model and how it did."""

    sha256: str
    size_bytes: int
    #: Mean over blocks, dB.
    psnr: float
    #: Restoring all scenes of the contest.
    seconds: float
    #: Share of the values that lie inside their 90 % interval; NaN where none was compared.
    coverage: float = np.nan
    #: Observed pixels that are not what was observed, bit by bit.
    changed_pixels: int = 0
    #: The `standard` figures by cloud class, `all` together.
    classes: Mapping[str, ClassFigures] = field(default_factory=dict)
    #: PSNR (dB) and SSIM of the `paper` protocol, means over windows; NaN where no window was seen whole.
    paper_psnr: float = np.nan
    paper_ssim: float = np.nan


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of one scene."""

    #: Reflectance `(band, y, x)`.
    image: FloatArray
    #: Half-width of the 90 % interval, same shape and unit.
    half_width: FloatArray
    changed_pixels: int
    seconds: float


class Scorecard:
    """Sums up the answers of one model."""

    def __init__(self) -> None:
        self.seconds, self.changed, self.inside, self.total = 0.0, 0, 0, 0
        self.sums: dict[str, ErrorSums] = {}
        self.paper: list[tuple[float, float]] = []

    def answered(self, answer: Answer) -> None:
        """Count what an answer cost, and what it changed that was to stay."""
        self.seconds += answer.seconds
        self.changed += answer.changed_pixels

    def compared(self, answer: Answer, stack: Stack, target: int, truth: FloatArray, where: BoolArray) -> None:
        """Count the errors of an answer on the pixels `where` `(y, x)` whose truth `(band, y, x)` is known."""
        inside = np.abs(answer.image - truth)[:, where] <= answer.half_width[:, where]
        self.inside, self.total = self.inside + int(inside.sum()), self.total + inside.size
        for name, mask in _masks(stack.classes[target], where):
            sums = error_sums(answer.image, truth, mask, stack.bands)
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums

    def seen_whole(self, image: FloatArray, truth: FloatArray, bands: tuple[str, ...]) -> None:
        """Count a window `(band, y, x)` whose truth is known in every pixel, as the paper counts."""
        scores = paper_score(image, truth, bands)
        self.paper.append((scores.psnr, scores.ssim))

    def result(self, weights: Path, psnr: float) -> Contestant:
        """Return the figures; `psnr` is the mean over blocks, dB."""
        paper = np.mean(self.paper, axis=0) if self.paper else (np.nan, np.nan)
        return Contestant(
            sha256=checkpoint.sha256_of(weights),
            size_bytes=weights.stat().st_size,
            psnr=psnr,
            seconds=self.seconds,
            coverage=self.inside / self.total if self.total else np.nan,
            changed_pixels=self.changed,
            classes={name: ClassFigures(s.pixels, s.mae, s.psnr, s.sam, s.ndvi) for name, s in self.sums.items()},
            paper_psnr=float(paper[0]),
            paper_ssim=float(paper[1]),
        )


def _masks(classes: NDArray[np.uint8], where: BoolArray) -> Iterator[tuple[str, BoolArray]]:
    """Yield name and pixels of every class that is present."""
    for name, mask in [("all", where), *((name, where & (classes == value)) for name, value in _CLASSES.items())]:
        if mask.any():
            yield name, mask
