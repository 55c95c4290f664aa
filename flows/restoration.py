"""Restoring one date of a stack: prior first, then the model where no date saw the ground. No Prefect."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique

from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, Sampling, restore
from flows.errors import InvalidSettings
from stac.assembly import ModelResult, assemble, best_known, unseen
from stac.composite import TemporalPrior, matched_median
from stac.layers import ProductLayers
from stac.stack import Stack


@unique
class Prior(StrEnum):
    """What is used before the model."""

    #: The median of other dates, matched to the target date.
    TEMPORAL = "temporal"
    #: Nothing: the model restores every hidden pixel from the target date alone.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RestorationOptions:
    """How a date is restored."""

    sampling: Sampling
    prior: Prior = Prior.TEMPORAL
    #: Dates further away than this are not used.
    prior_days: int = 15
    #: Pixels whose samples deviate more than this (reflectance, mean over bands) are not recoverable.
    max_spread: float = 0.25


@dataclass(frozen=True, slots=True)
class Restored:
    """The product of one date, in memory, and how it came about."""

    layers: ProductLayers
    prior: TemporalPrior | None
    #: Model tiles run.
    tiles: int
    prior_seconds: float
    model_seconds: float


def restore_date(
    stack: Stack,
    target: int,
    enhancer: Enhancer,
    options: RestorationOptions,
    on_tile: Callable[[int, int], None] | None = None,
) -> Restored:
    """Restore the hidden pixels of one date.

    Args:
        stack: all dates of the cell; bands in the model's order.
        target: index of the date.
        enhancer: the model.
        options: prior and sampling.
        on_tile: told (tiles done, tiles in all).

    Raises:
        InvalidSettings: the stack's bands are not the model's.
    """
    if stack.bands != enhancer.card.bands:
        raise InvalidSettings(
            f"Bands {stack.bands} were read, the model restores {enhancer.card.bands}; set bands to these."
        )
    began = time.monotonic()
    prior = None
    if options.prior is Prior.TEMPORAL:
        prior = matched_median(stack, target, max_days=options.prior_days)
    between = time.monotonic()
    needed = unseen(stack, target, prior)
    found = None
    if needed.any():
        found = restore(
            enhancer, best_known(stack, target, prior), needed, options.sampling, on_tile, stack.cell.origin
        )
    layers = assemble(stack, target, prior, _model_result(found), max_spread=options.max_spread)
    tiles = found.tiles if found else 0
    return Restored(layers, prior, tiles, between - began, time.monotonic() - between)


def _model_result(found: Restoration | None) -> ModelResult | None:
    return None if found is None else ModelResult(found.image, found.reference_weight, found.spread)
