"""One entry point for evaluation: a named protocol, figures per image, means over images and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput
from de_model.metrics.bootstrap import Bootstrap, Interval, difference_interval, mean_interval
from de_model.metrics.lpips import Lpips
from de_model.metrics.paper import paper_score, rgb_channels
from de_model.metrics.standard import both_finite, score

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@unique
class Protocol(StrEnum):
    """How figures are computed. Figures of different protocols must not stand in one column."""

    #: As the published evaluation: 8-bit pixels, luma SSIM, LPIPS fed 0..255 (`metrics.paper`).
    PAPER = "paper"
    #: In reflectance, over chosen pixels, LPIPS as defined by its authors (`metrics.standard`).
    STANDARD = "standard"


@unique
class Figure(StrEnum):
    """What is measured; the names are those of `Scores`."""

    PSNR = "psnr"
    SSIM = "ssim"
    LPIPS = "lpips"
    MAE = "mae"
    RMSE = "rmse"
    SAM = "sam"
    NDVI = "ndvi_mae"
    EDGE = "edge"
    SPECTRUM = "spectrum"


_OF_PROTOCOL: Mapping[Protocol, tuple[Figure, ...]] = {
    Protocol.PAPER: (Figure.PSNR, Figure.SSIM, Figure.LPIPS),
    Protocol.STANDARD: tuple(Figure),
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one candidate over a set of images."""

    protocol: Protocol
    bootstrap: Bootstrap
    #: `(image,)` each, in the order of the images; NaN where a figure is not defined or not computed.
    per_image: Mapping[Figure, NDArray[np.float64]]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.per_image[Figure.PSNR])

    def interval(self, figure: Figure) -> Interval | None:
        """Return the mean over images and its bootstrap interval; None when the figure was not computed.

        Every figure, PSNR too, is computed per image and then averaged, in both protocols (DE section 6.3).
        """
        values = self.per_image.get(figure)
        return None if values is None or np.isnan(values).all() else mean_interval(values, self.bootstrap)

    def record(self) -> dict[str, dict[str, float | int | None] | None]:
        """Return all figures as JSON values; null where not computed, not defined or infinite."""
        return {str(figure): _as_record(self.interval(figure)) for figure in _OF_PROTOCOL[self.protocol]}


def evaluate(
    protocol: Protocol,
    images: Iterable[FloatArray],
    truths: Iterable[FloatArray],
    bands: tuple[str, ...],
    *,
    masks: Iterable[BoolArray] | None = None,
    lpips: Lpips | None = None,
    bootstrap: Bootstrap | None = None,
) -> Evaluation:
    """Score restorations against the truth, image by image; iterables are read once, one image at a time.

    Args:
        protocol: how the figures are computed.
        images: restorations, `(band, y, x)` in [0, 1] each: companded or scaled values for the paper's protocol,
            reflectance for the standard one.
        truths: the clear images, in the same order.
        bands: common names in channel order.
        masks: `(y, x)` each, the pixels that count (standard protocol only); all finite pixels when left out. LPIPS,
            which needs whole images, sees the truth outside the mask.
        lpips: the network of `load_lpips`; without it LPIPS is not computed.
        bootstrap: how intervals are made; the defaults when left out.

    Raises:
        InvalidModelInput: there is no image, the numbers of images differ, masks are given for the paper's protocol,
            or an image cannot be scored; the message says which.
    """
    if protocol is Protocol.PAPER and masks is not None:
        raise InvalidModelInput("The paper's protocol scores whole images; leave the masks out or use standard.")
    rows = list(_rows(protocol, images, truths, masks, bands, lpips))
    if not rows:
        raise InvalidModelInput("No image to evaluate; give at least one pair.")
    columns = {f: np.array([row[f] for row in rows], dtype=np.float64) for f in _OF_PROTOCOL[protocol]}
    return Evaluation(protocol, bootstrap or Bootstrap(), columns)


def compare(one: Evaluation, other: Evaluation) -> dict[Figure, Interval]:
    """Return `one - other` of every figure both have, paired over images; the interval options are those of `one`.

    Raises:
        InvalidModelInput: protocols or numbers of images differ.
    """
    if one.protocol is not other.protocol:
        raise InvalidModelInput(f"Protocols {one.protocol} and {other.protocol} cannot be compared.")
    return {
        figure: difference_interval(one.per_image[figure], other.per_image[figure], one.bootstrap)
        for figure in _OF_PROTOCOL[one.protocol]
        if one.interval(figure) is not None and other.interval(figure) is not None
    }


_Row = Mapping[Figure, float]


def _rows(
    protocol: Protocol,
    images: Iterable[FloatArray],
    truths: Iterable[FloatArray],
    masks: Iterable[BoolArray] | None,
    bands: tuple[str, ...],
    lpips: Lpips | None,
) -> Iterator[_Row]:
    """Yield the figures of every image; a failure is told with the image's number, counted from 0."""
    columns = [images, truths] if masks is None else [images, truths, masks]
    for number, (image, truth, *mask) in enumerate(zip_longest(*columns)):
        if any(part is None for part in (image, truth, *mask)):
            raise InvalidModelInput(f"Image {number} lacks a partner; images, truths and masks are scored pairwise.")
        try:
            if protocol is Protocol.PAPER:
                yield _paper(image, truth, bands, lpips)
            else:
                yield _standard(image, truth, mask[0] if mask else both_finite(image, truth), bands, lpips)
        except InvalidModelInput as error:
            raise InvalidModelInput(f"Image {number}: {error}") from error


def _paper(image: FloatArray, truth: FloatArray, bands: tuple[str, ...], lpips: Lpips | None) -> _Row:
    found = paper_score(image, truth, bands, lpips)
    distance = math.nan if found.lpips is None else found.lpips
    return {Figure.PSNR: found.psnr, Figure.SSIM: found.ssim, Figure.LPIPS: distance}


def _standard(
    image: FloatArray, truth: FloatArray, mask: BoolArray, bands: tuple[str, ...], lpips: Lpips | None
) -> _Row:
    found = score(image, truth, mask, bands)
    row = {figure: float(getattr(found, figure)) for figure in Figure if figure is not Figure.LPIPS}
    return row | {Figure.LPIPS: _standard_lpips(image, truth, mask, bands, lpips)}


def _standard_lpips(
    image: FloatArray, truth: FloatArray, mask: BoolArray, bands: tuple[str, ...], lpips: Lpips | None
) -> float:
    """Return LPIPS on the scale [-1, 1], the truth put in outside the mask; NaN where the truth has gaps."""
    if lpips is None or not np.isfinite(truth).all():
        return math.nan
    merged = np.where(mask, image, truth)
    a, b = (torch.from_numpy(np.clip(x, 0, 1).astype(np.float32) * 2 - 1) for x in (merged, truth))
    return lpips.distance(a, b, rgb_channels(bands))


def _as_record(interval: Interval | None) -> dict[str, float | int | None] | None:
    if interval is None:
        return None
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {k: v if math.isfinite(v) else None for k, v in ends.items()} | {"images": interval.images}
