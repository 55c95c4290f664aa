"""Cases of an evaluation: dates to restore whose truth is known and withheld."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from de_model.data.transplant import transplant
from flows.planning.search import cloudy_and_clear, fullest_window
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.reflectance import to_product_dn

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Real and transplanted clouds, each alone and with the other dates.
_CASES_OF_A_PAIR = 4
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


def every_second_pair(cases: Iterable[Case], *, later: bool) -> Iterator[Case]:
    """Yield the cases of `cases_of` of every second pair of dates: the first, third and so on, or the `later` ones.

    What is fitted on the ones is judged by the others.
    """
    for number, case in enumerate(cases):
        if number // _CASES_OF_A_PAIR % 2 == later:
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
