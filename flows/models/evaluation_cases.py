"""Cases of an evaluation, and sums of errors over them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from de_model.data.transplant import transplant
from flows.models.training_pairs import cloudy_and_clear
from flows.planning.search import fullest_window
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.reflectance import to_product_dn

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

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


#: What a window adds to the id of its cell.
_WINDOW_OF = re.compile(r"(-r\d+c\d+h\d+w\d+)+$")


@unique
class Protocol(StrEnum):
    """How the truth is known."""

    TRANSPLANTED = "transplanted clouds"
    REAL_PAIRS = "real pairs"


@dataclass(frozen=True, slots=True)
class Case:
    """One date to restore; its truth is in none of the dates of the stack."""

    protocol: Protocol
    #: Day (`2023-08-18`) of the clouds and of the truth.
    clouds: str
    truth_day: str
    stack: Stack
    target: int
    #: Reflectance `(band, y, x)`.
    truth: FloatArray
    #: `(y, x)`, pixels that are scored: hidden on the target, seen on the truth date.
    where: BoolArray

    @property
    def place(self) -> str:
        """Grid cell that the case is part of."""
        return _WINDOW_OF.sub("", self.stack.cell.id)

    def alone(self, side: int) -> Case:
        """Return the case without other dates, in a window of `side` pixels with hidden ground beside clear one."""
        at = fullest_window(self.where, side, is_observed(self.stack.classes[self.target]))
        kept = self.stack.item_ids[self.target]
        stack = self.stack.without([item for item in self.stack.item_ids if item != kept]).window(*at)
        return replace(self, stack=stack, target=0, truth=self.truth[:, *at], where=self.where[at])

    @property
    def name(self) -> str:
        """The case in one line."""
        sources = "" if len(self.stack.days) > 1 else ", no other date"
        if self.protocol is Protocol.TRANSPLANTED:
            return f"clouds of {self.clouds} on {self.truth_day}{sources}"
        return f"{self.clouds} against {self.truth_day}{sources}"


def day_of(stack: Stack, index: int) -> str:
    """Return the day of a date, `2023-08-18`."""
    return str(np.datetime64(int(stack.days[index]), "D"))


def transplanted_cases(stack: Stack, cloudy: Sequence[int], clear: Sequence[int]) -> Iterator[Case]:
    """Yield every cloudy date's clouds on every clear date, restored from all other dates.

    Outside the clouds the target is what the clear date saw, bit for bit; under them its own pixels are replaced
    by what the transplanted clouds show.
    """
    for truth in clear:
        for clouds in cloudy:
            covered = _covered(stack, clouds, truth)
            where = is_hidden(stack.classes[clouds]) & is_observed(stack.classes[truth])
            days = day_of(stack, clouds), day_of(stack, truth)
            yield Case(Protocol.TRANSPLANTED, *days, covered, truth, stack.reflectance(truth), where)


def real_cases(stack: Stack, cloudy: Sequence[int], clear: Sequence[int]) -> Iterator[Case]:
    """Yield every cloudy date against every clear date, which is taken out of the stack first."""
    for target in cloudy:
        for truth in clear:
            rest = stack.without([stack.item_ids[truth]])
            where = is_hidden(stack.classes[target]) & is_observed(stack.classes[truth])
            days = day_of(stack, target), day_of(stack, truth)
            index = rest.index_of(stack.item_ids[target])
            yield Case(Protocol.REAL_PAIRS, *days, rest, index, stack.reflectance(truth), where)


def cases_of(stacks: Iterable[Stack], side: int) -> Iterator[Case]:
    """Yield the cases that a model is evaluated on: real pairs and transplanted clouds, each alone and with all dates.

    Args:
        stacks: cells with all their dates.
        side: of the window that is restored where no other date helps, pixels.
    """
    for stack in stacks:
        dates = cloudy_and_clear(stack)
        for pair in zip_longest(real_cases(stack, *dates), transplanted_cases(stack, *dates)):
            for case in pair:
                if case is not None and case.where.any():
                    yield case.alone(side)
                    yield case


def _covered(stack: Stack, clouds: int, truth: int) -> Stack:
    """Return the stack with the clouds of one date over another."""
    mask = stack.classes[clouds]
    cloud, shadow = np.isin(mask, (PixelClass.CLOUD, PixelClass.THIN_CLOUD)), mask == PixelClass.SHADOW
    light = transplant(stack.reflectance(clouds), cloud, stack.reflectance(truth), shadow)
    moved = is_hidden(mask) & np.isfinite(light).all(axis=0)
    dn, classes = stack.dn.copy(), stack.classes.copy()
    dn[truth][:, moved] = np.maximum(to_product_dn(light[:, moved]), 1)
    classes[truth][moved] = mask[moved]
    return replace(stack, dn=dn, classes=classes)
