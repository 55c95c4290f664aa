"""From what one date saw to what another would have seen: one robust regression per pair of dates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.harmonisation import repeatability

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


@dataclass(frozen=True, slots=True)
class DonorMap:
    """Target = donor + coefficients x features(donor), band by band, reflectance."""

    item_id: str
    #: `[band][feature]`; zeros where nothing could be fitted.
    coefficients: tuple[tuple[float, ...], ...]
    #: `[band]`: donor reflectance is cut to these before the features are made.
    low: tuple[float, ...]
    high: tuple[float, ...]
    #: `[band]`: median correction over the pixels it was fitted on, reflectance, for people.
    shift: tuple[float, ...]
    #: Pixels it was fitted on.
    n_pixels: int

    def apply(self, image: FloatArray, bands: tuple[str, ...]) -> FloatArray:
        """Return the donor as on the target date, `(band, ...)`, at least 1e-4; NaN stays NaN.

        Summed feature by feature, so that a pixel's value does not depend on how many others there are.
        """
        shape = (-1, *[1] * (image.ndim - 1))
        low, high = (np.array(limit, np.float32).reshape(shape) for limit in (self.low, self.high))
        matched = image.copy()
        for position, feature in enumerate(features(image.clip(low, high), bands)):
            for band, row in enumerate(self.coefficients):
                matched[band] += np.float32(row[position]) * feature
        return np.maximum(matched, np.float32(1e-4))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DonorMap:
        """Read `to_dict` back."""
        rows = tuple(tuple(map(float, row)) for row in values["coefficients"])
        low, high, shift = (tuple(map(float, values[name])) for name in ("low", "high", "shift"))
        return cls(str(values["item_id"]), rows, low, high, shift, int(values["n_pixels"]))


def features(image: FloatArray, bands: tuple[str, ...]) -> list[FloatArray]:
    """Return what the correction is linear in, `(...)` each: 1, all bands and, with red and near infrared, NDVI = v,
    v^2 and v times every band. The angle of view changes vegetation and soil differently; NDVI tells them apart.
    """
    found = [np.ones_like(image[0]), *image]
    if {"red", "nir"} <= set(bands):
        red, nir = image[bands.index("red")], image[bands.index("nir")]
        greenness = (nir - red) / np.maximum(nir + red, np.float32(1e-3))
        found += [greenness, greenness * greenness, *(greenness * band for band in image)]
    return found


def fit_map(item_id: str, donor: FloatArray, target: FloatArray, bands: tuple[str, ...]) -> DonorMap:
    """Fit all features.

    Args:
        item_id: of the donor.
        donor: reflectance `(band, pixel)` of pixels that both dates saw.
        target: the same pixels on the target date.
        bands: common names in channel order.
    """
    if donor.shape[1] < _PIXELS_FOR_MAP:
        return fit_offset(item_id, donor, target, bands)
    low, high = np.quantile(donor, _RANGE, axis=1).astype(np.float32)
    columns = np.stack(features(donor.clip(low[:, None], high[:, None]), bands)).astype(np.float64)
    coefficients = _robust_regression(columns, (target - donor).astype(np.float64))
    return _map(item_id, coefficients, low, high, np.median(coefficients @ columns, axis=1), donor.shape[1])


def fit_offset(item_id: str, donor: FloatArray, target: FloatArray, bands: tuple[str, ...]) -> DonorMap:
    """Fit an offset per band, believed as far as the target agrees with the donor as clear dates usually do.

    For targets whose clear pixels are hazy: more freedom would learn the haze. Arguments as for `fit_map`.
    """
    count = len(features(np.zeros((len(bands), 1), np.float32), bands))
    coefficients = np.zeros((len(bands), count))
    if donor.shape[1] >= _PIXELS_FOR_OFFSET:
        difference = (target - donor).astype(np.float64)
        offset = _robust_regression(np.ones((1, donor.shape[1])), difference)[:, 0]
        found = _robust_deviation(difference - offset[:, None])
        usual = repeatability(np.median(donor, axis=1))
        coefficients[:, 0] = offset * np.minimum(1, (usual / found) ** _DISTRUST)
    return _map(item_id, coefficients, np.zeros(len(bands)), np.ones(len(bands)), coefficients[:, 0], donor.shape[1])


def _map(
    item_id: str, coefficients: Values, low: NDArray[Any], high: NDArray[Any], shift: Values, pixels: int
) -> DonorMap:
    rows = tuple(tuple(map(float, row)) for row in coefficients)
    limits, median = [tuple(map(float, limit)) for limit in (low, high)], tuple(map(float, shift))
    return DonorMap(item_id, rows, limits[0], limits[1], median, pixels)


def _robust_regression(columns: Values, wanted: Values) -> Values:
    """Return coefficients `(band, feature)` by reweighted least squares; a pixel's weight is that of its worst band.

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
        coefficients = np.linalg.solve(weighted @ scaled.T + ridge, weighted @ wanted.T).T
        residual = np.abs(wanted - coefficients @ scaled)
        limit = _HUBER * 1.4826 * np.median(residual, axis=1, keepdims=True).clip(1e-5)
        weight = 1 / np.square(np.maximum(1, (residual / limit).max(axis=0)))
    result: Values = coefficients / scale.T
    return result


def _robust_deviation(residual: Values) -> Values:
    middle = np.median(residual, axis=1, keepdims=True)
    deviation: Values = 1.4826 * np.median(np.abs(residual - middle), axis=1)
    return deviation.clip(1e-6)
