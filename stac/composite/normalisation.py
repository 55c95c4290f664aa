"""Relative radiometric normalisation: map the radiometry of a source date to the target date's, and smooth the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from stac.grid.cell import Cell

BoolArray = NDArray[np.bool_]

FloatArray = NDArray[np.float32]
Values = NDArray[np.float64]

#: Pixels needed to fit all features, and to fit an offset.
_PIXELS_FOR_MAP, _PIXELS_FOR_OFFSET = 300, 50
#: Residuals beyond this many robust standard deviations lose weight with their square.
_HUBER, _ITERATIONS = 2.5, 5
#: Features are only believed within these quantiles of what they were fitted on.
_RANGE = (0.001, 0.999)
#: How fast trust falls once a hazy target agrees worse than clear dates do: (usual / found)^4.
_DISTRUST = 4
#: Most nodes along a side.
_NODES = 64
#: Reach of an observation, metres (standard deviation); at least one node.
_REACH_M = 1920.0
#: Share of observed pixels at which half of the local mean is believed: far from observations the field fades to 0.
_BELIEF = 0.02
#: Residuals are cut at this many robust standard deviations: changed ground is not part of the field.
_CUT = 3.0


@dataclass(frozen=True, slots=True)
class NormalisationFit:
    """How one band of one source date was matched, summed up for people."""

    item_id: str
    band: str
    #: What is added to the source date, reflectance.
    intercept: float
    #: Standard deviation of all residuals (untrimmed), reflectance.
    residual_std: float
    #: Pixels seen on both dates.
    n_pixels: int


def repeatability(reflectance: NDArray[Any]) -> NDArray[Any]:
    """Return how well two clear dates agree at best, reflectance: 0.005 + 5 %, any shape.

    The Sentinel-2 level-2A requirement on surface reflectance (ESA, Sentinel-2 L2A data quality reports).
    """
    return 0.005 + 0.05 * reflectance


def clipped(residual: FloatArray) -> FloatArray:
    """Return residuals `(band, pixel)` that count at most as six robust standard deviations of their band."""
    limit = np.maximum(6 * 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True), 1e-4)
    cut: FloatArray = residual.clip(-limit, limit)
    return cut


@dataclass(frozen=True, slots=True)
class DateMap:
    """Target = source date + coefficients x features(source date), band by band, reflectance."""

    item_id: str
    #: `[band][feature]`; zeros where nothing could be fitted.
    coefficients: tuple[tuple[float, ...], ...]
    #: `[band]`: reflectance of the source date is cut to these before the features are made.
    low: tuple[float, ...]
    high: tuple[float, ...]
    #: `[band]`: median correction over the pixels it was fitted on, reflectance, for people.
    shift: tuple[float, ...]
    #: Pixels it was fitted on.
    n_pixels: int

    def apply(self, image: FloatArray, bands: tuple[str, ...]) -> FloatArray:
        """Return a source date as on the target date, `(band, ...)`, at least 1e-4; NaN stays NaN.

        Summed feature by feature, so that a pixel's value does not depend on how many others there are.
        """
        shape = (-1, *[1] * (image.ndim - 1))
        low, high = (np.array(limit, np.float32).reshape(shape) for limit in (self.low, self.high))
        coefficients = np.array(self.coefficients, np.float32)
        matched: FloatArray = image + coefficients[:, 0].reshape(shape)
        term = np.empty_like(image)
        for factors, feature in zip(coefficients.T[1:], features(image.clip(low, high), bands)[1:], strict=True):
            matched += np.multiply(factors.reshape(shape), feature, out=term)
        return np.maximum(matched, np.float32(1e-4), out=matched)


def summed_up(
    maps: Iterable[DateMap], errors: Iterable[Sequence[float]], bands: Sequence[str]
) -> tuple[NormalisationFit, ...]:
    """Return how dates were matched, per band, for people.

    Args:
        maps: of the dates.
        errors: standard deviation of what is left over `[date][band]`, reflectance.
        bands: common names in channel order.
    """
    return tuple(
        NormalisationFit(m.item_id, band, m.shift[b], error[b], m.n_pixels)
        for m, error in zip(maps, errors, strict=True)
        for b, band in enumerate(bands)
    )


def features(image: FloatArray, bands: tuple[str, ...]) -> list[FloatArray]:
    """Return what the correction is linear in, `(...)` each: 1, all bands and, with red and near infrared, NDVI = v,
    v^2 and v times every band. The angle of view changes vegetation and soil differently; NDVI separates them.
    """
    found = [np.ones_like(image[0]), *image]
    if {"red", "nir"} <= set(bands):
        red, nir = image[bands.index("red")], image[bands.index("nir")]
        greenness = (nir - red) / np.maximum(nir + red, np.float32(1e-3))
        found += [greenness, greenness * greenness, *(greenness * band for band in image)]
    return found


def fit_map(item_id: str, source: FloatArray, target: FloatArray, bands: tuple[str, ...]) -> DateMap:
    """Fit all features.

    Args:
        item_id: of the source date.
        source: reflectance `(band, pixel)` of pixels that both dates saw.
        target: the same pixels on the target date.
        bands: common names in channel order.
    """
    if source.shape[1] < _PIXELS_FOR_MAP:
        return fit_offset(item_id, source, target, bands)
    low, high = np.quantile(source, _RANGE, axis=1).astype(np.float32)
    columns = np.stack(features(source.clip(low[:, None], high[:, None]), bands)).astype(np.float64)
    coefficients = _robust_regression(columns, (target - source).astype(np.float64))
    return _map(item_id, coefficients, low, high, np.median(_applied(coefficients, columns), axis=1), source.shape[1])


def fit_offset(item_id: str, source: FloatArray, target: FloatArray, bands: tuple[str, ...]) -> DateMap:
    """Fit an offset per band, believed as far as the target agrees with the source date as clear dates usually do.

    For targets whose clear pixels are hazy: more freedom would learn the haze. Arguments as for `fit_map`.
    """
    count = len(features(np.zeros((len(bands), 1), np.float32), bands))
    coefficients = np.zeros((len(bands), count))
    if source.shape[1] >= _PIXELS_FOR_OFFSET:
        difference = (target - source).astype(np.float64)
        offset = _robust_regression(np.ones((1, source.shape[1])), difference)[:, 0]
        found = _robust_deviation(difference - offset[:, None])
        usual = repeatability(np.median(source, axis=1))
        coefficients[:, 0] = offset * np.minimum(1, (usual / found) ** _DISTRUST)
    return _map(item_id, coefficients, np.zeros(len(bands)), np.ones(len(bands)), coefficients[:, 0], source.shape[1])


def _map(
    item_id: str, coefficients: Values, low: NDArray[Any], high: NDArray[Any], shift: Values, pixels: int
) -> DateMap:
    rows = tuple(tuple(map(float, row)) for row in coefficients)
    limits, median = [tuple(map(float, limit)) for limit in (low, high)], tuple(map(float, shift))
    return DateMap(item_id, rows, limits[0], limits[1], median, pixels)


def _robust_regression(columns: Values, wanted: Values) -> Values:
    """Return coefficients `(band, feature)` by reweighted least squares; a pixel's weight is that of its worst band.

    Sums over pixels are einsum's: those of BLAS depend on its number of threads in their last bits.

    Args:
        columns: `(feature, pixel)`, the first of them 1.
        wanted: `(band, pixel)`.
    """
    scale = np.sqrt(np.square(columns).mean(axis=1, keepdims=True)).clip(1e-6)
    scaled, weight = columns / scale, np.ones(columns.shape[1])
    # Features of one image are nearly dependent; a trace of ridge keeps their coefficients small.
    ridge = 1e-6 * np.eye(len(columns))
    coefficients = np.zeros((len(wanted), len(columns)))
    for _ in range(_ITERATIONS):
        weighted = scaled * (weight / weight.sum())
        squares, products = (np.einsum("fp,gp->fg", weighted, each) for each in (scaled, wanted))
        coefficients = np.linalg.solve(squares + ridge, products).T
        residual = np.abs(wanted - _applied(coefficients, scaled))
        limit = _HUBER * 1.4826 * np.median(residual, axis=1, keepdims=True).clip(1e-5)
        weight = 1 / np.square(np.maximum(1, (residual / limit).max(axis=0)))
    result: Values = coefficients / scale.T
    return result


def _applied(coefficients: Values, columns: Values) -> Values:
    """Return `(band, pixel)` of coefficients `(band, feature)` and columns `(feature, pixel)`."""
    applied: Values = np.einsum("bf,fp->bp", coefficients, columns)
    return applied


def _robust_deviation(residual: Values) -> Values:
    middle = np.median(residual, axis=1, keepdims=True)
    deviation: Values = 1.4826 * np.median(np.abs(residual - middle), axis=1)
    return deviation.clip(1e-6)


@dataclass(frozen=True, slots=True)
class ResidualField:
    """Offsets on a coarse grid of nodes, between which they are bilinear, beyond which constant."""

    #: `[band][row][column]`, reflectance.
    offsets: tuple[tuple[tuple[float, ...], ...], ...]
    #: Coordinates (x, y) of the first node and steps (x, y) between nodes, in units of the projection.
    first: tuple[float, float]
    step: tuple[float, float]

    def at(self, cell: Cell) -> FloatArray:
        """Return the offsets of a window's pixels `(band, y, x)`, the same for a pixel whatever the window."""
        nodes, affine = np.array(self.offsets, np.float32), cell.geobox.affine
        height, width = (int(n) for n in cell.geobox.shape)
        top, left = cell.origin
        rows = self._nodes(top, height, float(affine.e), axis=1, count=nodes.shape[1])
        columns = self._nodes(left, width, float(affine.a), axis=0, count=nodes.shape[2])
        field: FloatArray = _between(_between(nodes, columns, 2), rows, 1)
        return field

    def _nodes(
        self, start: int, count_px: int, size: float, axis: int, count: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
        """Return for every pixel along an axis the nodes before and behind it, and its way from one to the other."""
        centres = (np.arange(start, start + count_px) + 0.5) * size
        place = ((centres - self.first[axis]) / self.step[axis]).clip(0, count - 1)
        before = np.floor(place).astype(np.intp)
        return before, np.minimum(before + 1, count - 1), (place - before).astype(np.float32)


def _between(nodes: FloatArray, places: tuple[NDArray[np.intp], NDArray[np.intp], FloatArray], axis: int) -> FloatArray:
    before, behind = nodes.take(places[0], axis), nodes.take(places[1], axis)
    behind -= before
    behind *= places[2] if axis == 2 else places[2][:, None]
    before += behind
    return before


def offsets_at(field: ResidualField | None, crs: str, cell: Cell) -> FloatArray | None:
    """Return the offsets of a window's pixels `(band, y, x)`, whatever the projection of the window.

    Args:
        field: offsets on a coarse grid of nodes, or None.
        crs: the projection of the nodes.
        cell: the window.
    """
    if field is None:
        return None
    if str(cell.geobox.crs) == crs:
        return field.at(cell)
    height, width = cell.geobox.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = cell.geobox.crs.transformer_to_crs(crs)(*(cell.geobox.affine @ (columns, rows)))
    nodes = np.array(field.offsets, np.float32)
    places = [(y - field.first[1]) / field.step[1], (x - field.first[0]) / field.step[0]]
    found: FloatArray = np.stack([map_coordinates(band, places, order=1, mode="nearest") for band in nodes])
    return found


def fit_field(residual: FloatArray, where: BoolArray, cell: Cell) -> ResidualField:
    """Return the local mean of residuals, fading to 0 away from observations.

    Args:
        residual: target - composite `(band, y, x)`, reflectance; anything outside `where`.
        where: `(y, x)`, pixels at which the residual is known.
        cell: the grid of both.
    """
    side = max(1, -(-max(where.shape) // _NODES))
    count = _pooled(where[None].astype(np.float32), side)[0] / side**2
    sigma = max(1.0, _REACH_M / (side * cell.gsd_m))
    density = gaussian_filter(count, sigma, mode="constant")
    nodes = []
    for band in residual:
        limit = _CUT * 1.4826 * float(np.median(np.abs(band[where]))) if where.any() else 0.0
        kept = np.where(where, band, 0).clip(-limit, limit).astype(np.float32)
        total = gaussian_filter(_pooled(kept[None], side)[0] / side**2, sigma, mode="constant")
        nodes.append(total / (density + _BELIEF))
    affine, (top, left) = cell.geobox.affine, cell.origin
    size_x, size_y = float(affine.a), float(affine.e)
    first = ((left + side / 2) * size_x, (top + side / 2) * size_y)
    offsets = tuple(tuple(tuple(float(f"{v:.6g}") for v in row) for row in band) for band in nodes)
    return ResidualField(offsets, first, (side * size_x, side * size_y))


def _pooled(values: FloatArray, side: int) -> FloatArray:
    """Return sums over squares of `side` pixels; squares at the edge hold what there is."""
    height, width = values.shape[1:]
    padded = np.pad(values, ((0, 0), (0, -height % side), (0, -width % side)))
    shape = (len(values), padded.shape[1] // side, side, padded.shape[2] // side, side)
    pooled: FloatArray = padded.reshape(shape).sum(axis=(2, 4))
    return pooled
