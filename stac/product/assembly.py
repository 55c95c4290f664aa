"""Putting a product together: every pixel from the best origin it has, and a note of which that was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stac.composite.normalisation import repeatability
from stac.composite.temporal import TemporalComposite
from stac.errors import InvalidInput
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.product.layers import INTERPOLATED_WEIGHT, SOURCE_DATE_NODATA, ProductLayers, Provenance
from stac.reflectance import to_product_dn

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Half-width of the 90 % interval of a Gaussian, in standard deviations: what uncalibrated intervals are.
_Z90 = 1.645
#: Half-widths are stored in steps of this, reflectance: a power of two, so that files compress well.
_STEP = np.float32(2**-14)
#: From this share on a restored pixel counts as the reference's.
_REFERENCE_MAJORITY = 0.5
#: The most `reference_weight` that a pixel of the model has: interpolated ones have `INTERPOLATED_WEIGHT`.
_MOST_WEIGHT = np.float32(1 - 2**-10)


@dataclass(frozen=True, slots=True)
class Intervals:
    """By how much a standard deviation is multiplied to give the half-width of a 90 % interval, `[band]`."""

    other_dates: tuple[float, ...]
    model: tuple[float, ...]
    #: Of pixels interpolated from the ground around; those of a Gaussian without.
    interpolated: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What fills the pixels that no date saw; NaN or anything elsewhere."""

    #: Reflectance `(band, y, x)`.
    image: FloatArray
    #: Share of the reference `(y, x)`, 0..1.
    reference_weight: FloatArray
    #: Standard deviation over samples, or of the ground around, `(band, y, x)`, reflectance.
    spread: FloatArray
    #: Where `(y, x)` the known ground around was interpolated instead of asking the model; None means nowhere.
    interpolated: BoolArray | None = None


def best_known(stack: Stack, target: int, composite: TemporalComposite | None) -> FloatArray:
    """Return the target's reflectance `(band, y, x)` with everything filled in that another date saw.

    What no date saw stays as observed, clouds included; nodata stays NaN.
    """
    scene = stack.reflectance(target)
    if composite is not None:
        filled = is_hidden(stack.classes[target]) & (composite.source >= 0)
        scene[:, filled] = composite.reflectance[:, filled]
    return scene


def unseen(stack: Stack, target: int, composite: TemporalComposite | None) -> BoolArray:
    """Return where `(y, x)` the target is hidden and no other date helps: the model's share."""
    hidden = is_hidden(stack.classes[target])
    return hidden if composite is None else hidden & (composite.source < 0)


def assemble(
    stack: Stack,
    target: int,
    composite: TemporalComposite | None,
    model: ModelResult | None,
    *,
    max_spread: float = np.inf,
    intervals: Intervals | None = None,
) -> ProductLayers:
    """Return the layers of a product.

    Observed pixels keep their digital numbers bit for bit. Every other pixel that holds data has one of the
    classes of synthetic origin; nodata never becomes data, and data never the value of nodata.

    Args:
        stack: all dates of the cell.
        target: index of the date that is restored.
        composite: what other dates say, or None to leave all hidden pixels to the model.
        model: the model's result, or None where no pixel needs it.
        max_spread: pixels whose mean spread over bands is larger are declared not recoverable.
        intervals: calibrated factors; those of a Gaussian when left out.

    Raises:
        InvalidInput: a pixel needs the model and there is no result.
    """
    classes, need = stack.classes[target], unseen(stack, target, composite)
    if need.any() and model is None:
        raise InvalidInput(f"{stack.item_ids[target]}: {need.sum()} pixels need the model, but it did not run.")
    layers = _observed(stack, target)
    gaussian = (_Z90,) * len(stack.bands)
    intervals = intervals or Intervals(gaussian, gaussian)
    if composite is not None:
        _fill_from_dates(layers, stack, composite, is_hidden(classes) & ~need, intervals.other_dates)
    if model is not None:
        _fill_gaps(layers, classes, model, need, max_spread, intervals)
    return layers


def _observed(stack: Stack, target: int) -> ProductLayers:
    """Return layers that hold what the target date saw and nothing else."""
    observed = is_observed(stack.classes[target])
    known = np.where(observed, np.float32(0), np.float32(np.nan))
    return ProductLayers(
        data=stack.dn[target] * observed,
        provenance=np.where(observed, np.uint8(Provenance.OBSERVED), np.uint8(Provenance.NODATA)),
        source_date=np.where(observed, stack.days[target], np.int32(SOURCE_DATE_NODATA)),
        reference_weight=np.full(observed.shape, np.nan, np.float32),
        uncertainty=np.repeat(known[None], len(stack.bands), axis=0),
        geobox=stack.cell.geobox,
        bands=stack.bands,
    )


def _fill_from_dates(
    layers: ProductLayers, stack: Stack, composite: TemporalComposite, where: BoolArray, factors: tuple[float, ...]
) -> None:
    """Write the composite into `layers`, in place."""
    at = np.flatnonzero(where)
    layers.provenance[where] = Provenance.OTHER_DATES
    layers.source_date.reshape(-1)[at] = stack.days.take(composite.source.take(at))
    # Band by band, which the processor's cache holds.
    for band, factor in enumerate(factors):
        layers.data[band].reshape(-1)[at] = to_product_dn(composite.reflectance[band].take(at))
        layers.uncertainty[band].reshape(-1)[at] = _stored(np.float32(factor) * composite.spread[band].take(at))


def _fill_gaps(
    layers: ProductLayers,
    classes: NDArray[np.uint8],
    model: ModelResult,
    where: BoolArray,
    max_spread: float,
    intervals: Intervals,
) -> None:
    """Write what fills gaps into `layers`, in place; leave out what is not finite or too uncertain."""
    layers.provenance[where] = Provenance.NOT_RECOVERABLE
    around = np.zeros(where.shape, bool) if model.interpolated is None else model.interpolated
    sure = where.copy()
    sure[where] = np.isfinite(model.image[:, where]).all(axis=0)
    sure[where] &= around[where] | (model.spread[:, where].mean(axis=0) <= max_spread)
    image, spread, around = model.image[:, sure], model.spread[:, sure], around[sure]
    weight = np.where(around, INTERPOLATED_WEIGHT, np.minimum(model.reference_weight[sure], _MOST_WEIGHT))
    drawn = _model_class(classes[sure], weight)
    drawn[around] = Provenance.REFERENCE_FILLED
    layers.data[:, sure] = to_product_dn(image)
    layers.provenance[sure] = drawn
    layers.reference_weight[sure] = weight
    factors = np.where(
        around, _per_band(intervals.interpolated or (_Z90,) * len(layers.bands)), _per_band(intervals.model)
    )
    # Samples agree more than they are right: they share one model. No interval is narrower than clear dates differ.
    layers.uncertainty[:, sure] = _stored(factors * np.hypot(spread, repeatability(image)))


def _stored(half_width: FloatArray) -> FloatArray:
    """Return half-widths rounded up to steps below that of the data: their last digits are noise, and fill disks."""
    steps: FloatArray = half_width / _STEP
    np.ceil(steps, out=steps)
    steps *= _STEP
    return steps


def _per_band(factors: tuple[float, ...]) -> FloatArray:
    return np.array(factors, np.float32)[:, None]


def _model_class(classes: NDArray[np.uint8], weight: FloatArray) -> NDArray[np.uint8]:
    """Return the provenance of pixels that the model restored."""
    drawn = np.where(weight >= _REFERENCE_MAJORITY, Provenance.REFERENCE_FILLED, Provenance.GENERATED)
    return np.where(classes == PixelClass.THIN_CLOUD, Provenance.THIN_CLOUD_CORRECTED, drawn).astype(np.uint8)
