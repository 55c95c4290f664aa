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
        data=np.where(observed, stack.dn[target], 0).astype(np.uint16),
        provenance=np.where(observed, Provenance.OBSERVED, Provenance.NODATA).astype(np.uint8),
        source_date=np.where(observed, stack.days[target], SOURCE_DATE_NODATA).astype(np.int32),
        reference_weight=np.full(observed.shape, np.nan, np.float32),
        uncertainty=np.broadcast_to(known, stack.dn[target].shape).astype(np.float32),
        geobox=stack.cell.geobox,
        bands=stack.bands,
    )


def _fill_from_dates(
    layers: ProductLayers, stack: Stack, composite: TemporalComposite, where: BoolArray, factors: tuple[float, ...]
) -> None:
    """Write the composite into `layers`, in place."""
    # Whole windows are computed and written where they count: faster than picking pixels and putting them back.
    np.copyto(layers.data, to_product_dn(composite.reflectance), where=where)
    layers.provenance[where] = Provenance.OTHER_DATES
    np.copyto(layers.source_date, stack.days[composite.source], where=where)
    np.copyto(layers.uncertainty, _stored(_per_band(factors)[..., None] * composite.spread), where=where)


def _fill_gaps(
    layers: ProductLayers,
    classes: NDArray[np.uint8],
    model: ModelResult,
    where: BoolArray,
    max_spread: float,
    intervals: Intervals,
) -> None:
    """Write what fills gaps into `layers`, in place; leave out what is not finite or too uncertain."""
    around = np.zeros(where.shape, bool) if model.interpolated is None else model.interpolated
    weight = np.where(around, INTERPOLATED_WEIGHT, np.minimum(model.reference_weight, _MOST_WEIGHT))
    drawn = _model_class(classes, weight)
    drawn[around] = Provenance.REFERENCE_FILLED
    layers.provenance[where] = Provenance.NOT_RECOVERABLE
    sure = where & np.isfinite(model.image).all(axis=0) & (around | (model.spread.mean(axis=0) <= max_spread))
    layers.data[:, sure] = to_product_dn(model.image[:, sure])
    layers.provenance[sure] = drawn[sure]
    layers.reference_weight[sure] = weight[sure]
    factors = np.where(
        around[sure], _per_band(intervals.interpolated or (_Z90,) * len(layers.bands)), _per_band(intervals.model)
    )
    # Samples agree more than they are right: they share one model. No interval is narrower than clear dates differ.
    scale = np.hypot(model.spread[:, sure], repeatability(model.image[:, sure]))
    layers.uncertainty[:, sure] = _stored(factors * scale)


def _stored(half_width: FloatArray) -> FloatArray:
    """Return half-widths rounded up to steps below that of the data: their last digits are noise, and fill disks."""
    steps: FloatArray = np.ceil(half_width / _STEP)
    return steps * _STEP


def _per_band(factors: tuple[float, ...]) -> FloatArray:
    return np.array(factors, np.float32)[:, None]


def _model_class(classes: NDArray[np.uint8], weight: FloatArray) -> NDArray[np.uint8]:
    """Return the provenance of pixels that the model restored."""
    drawn = np.where(weight >= _REFERENCE_MAJORITY, Provenance.REFERENCE_FILLED, Provenance.GENERATED)
    return np.where(classes == PixelClass.THIN_CLOUD, Provenance.THIN_CLOUD_CORRECTED, drawn).astype(np.uint8)
