"""How restorations fail, in numbers that need no truth: residual cloud, blur, shifted colour.

These are the weaknesses that users and later papers name of Diffusion Enhancement (DE section 8). Restored pixels are
compared with the observed ground around them (the *surroundings*: within `RING_PX` of a restored pixel, not restored,
finite) and, where a truth exists, with the truth at the same pixels.

Let `r` be what a pixel is compared with: the median of the surroundings per band, or the truth at that pixel.
Deviations are `d = image - r`; `m` and `s` are the median of `d` over the surroundings and its robust standard
deviation 1.4826 x MAD (Rousseeuw and Croux 1993), not less than `LEAST_SIGMA`. With a truth, `m` is the general
difference between the two dates, which is not a fault of the restoration, and `s` what changes between them anyway.

| signature | formula | perfect | failing |
|---|---|---|---|
| `excess` | mean of `max(d - m, 0)` over restored pixels minus over the surroundings, haze band | 0 | above 0: haze |
| `bright_share` | share of restored pixels with `d - m > 3 s`, in the haze band | `expected_bright_share` | towards 1 |
| `gradient_ratio` | mean gradient magnitude, restored over compared | 1 | towards 0: blur; above 1: noise, seams |
| `detail_ratio` | mean squared Laplacian, restored over compared | 1 | the same, finer detail |
| `shift` | per band, mean of `d` over restored minus over compared surroundings, reflectance | 0 | either sign |
| `colour_shift` | root mean square over bands of `shift / s` | 0 | 1 and more: visible |

The haze band is blue, else the shortest visible band there is: scattering by haze falls with wavelength (Chavez 1988).
Over surroundings that differ from the ground under the cloud (a field beside a lake) the figures without truth are not
exactly neutral for a perfect restoration; over many images they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, laplace, minimum_filter, sobel

from de_model.errors import InvalidModelInput

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Width of the surroundings, pixels.
RING_PX = 16
#: Floor of the robust standard deviation, reflectance: the constant part of the accuracy asked of surface reflectance,
#: 0.005 + 0.05 rho (Vermote and Kotchenova 2008); smaller differences cannot be distinguished from noise.
LEAST_SIGMA = 0.005
#: Beyond this many deviations a pixel is bright; 0.1 % of a normal distribution is.
_BRIGHT_SIGMAS = 3.0
_MAD_TO_SIGMA = 1.4826
_HAZE_BANDS = ("blue", "green", "red")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Restored pixels against something; NaN where a figure is not defined."""

    #: Mean excess brightness of restored pixels in the haze band, reflectance, -1..1; a shadow does not make up for a
    #: cloud. NaN without a visible band.
    excess: float
    #: Share of restored pixels that are brighter than the ground explains, 0..1.
    bright_share: float
    #: The same share over the surroundings, where no cloud is left: what `bright_share` is without a fault, 0..1.
    expected_bright_share: float
    #: Mean gradient magnitude, restored over compared, 0 and more. NaN when the compared pixels are flat.
    gradient_ratio: float
    #: Mean squared Laplacian, restored over compared, 0 and more. NaN when the compared pixels are flat.
    detail_ratio: float
    #: Mean difference per band, reflectance, -1..1.
    shift: tuple[float, ...]
    #: Root mean square over bands of the shift in robust standard deviations, 0 and more.
    colour_shift: float


@dataclass(frozen=True, slots=True)
class Signatures:
    """Failure signatures of one restored image."""

    #: Against the observed ground around the restored pixels; None when there is none.
    surroundings: Comparison | None
    #: Against the truth; None without one.
    truth: Comparison | None


def signatures(
    image: FloatArray, restored: BoolArray, bands: tuple[str, ...], truth: FloatArray | None = None
) -> Signatures:
    """Return the failure signatures of a restored image.

    Args:
        image: the product, `(band, y, x)` reflectance, NaN at nodata: restored pixels inside `restored`, observed
            ones outside.
        restored: `(y, x)`, True where the model made the pixel.
        bands: common names in channel order.
        truth: the clear image, `(band, y, x)`, NaN where unknown; production has none.

    Raises:
        InvalidModelInput: shapes differ, nothing was restored, or a restored pixel is not finite.
    """
    _check(image, restored, bands, truth)
    seen = np.asarray(np.isfinite(image).all(axis=0))
    if not seen[restored].all():
        raise InvalidModelInput("A restored pixel is not finite; narrow the mask to what the model made.")
    ring = surroundings(restored, seen)
    haze = next((name for name in _HAZE_BANDS if name in bands), None)
    haze_index = None if haze is None else bands.index(haze)
    around = None
    if ring.any():
        around = _against_surroundings(image, restored, ring, haze_index)
    against = None if truth is None else _against_truth(image, restored, ring, truth, haze_index)
    return Signatures(around, against)


def surroundings(restored: BoolArray, seen: BoolArray, width: int = RING_PX) -> BoolArray:
    """Return `(y, x)`, True on observed pixels within `width` pixels of a restored one."""
    if not restored.any():
        return np.zeros_like(restored)
    return ~restored & seen & (distance_transform_edt(~restored) <= width)


def _check(image: FloatArray, restored: BoolArray, bands: tuple[str, ...], truth: FloatArray | None) -> None:
    if image.ndim != 3 or restored.shape != image.shape[1:] or len(bands) != len(image):
        raise InvalidModelInput(
            f"Image {image.shape} and mask {restored.shape} do not fit each other and the bands {', '.join(bands)}."
        )
    if truth is not None and truth.shape != image.shape:
        raise InvalidModelInput(f"Shapes differ: image {image.shape}, truth {truth.shape}.")
    if not restored.any():
        raise InvalidModelInput("Nothing was restored: the mask is empty.")


def _against_surroundings(image: FloatArray, restored: BoolArray, ring: BoolArray, haze: int | None) -> Comparison:
    level = np.median(image[:, ring], axis=1)
    deviation = image.astype(np.float64) - level[:, None, None]
    detail = _Detail.of(image)
    return _compare(deviation, restored, ring, haze, detail.ratios(detail, restored, ring))


def _against_truth(
    image: FloatArray, restored: BoolArray, ring: BoolArray, truth: FloatArray, haze: int | None
) -> Comparison | None:
    known = np.isfinite(truth).all(axis=0)
    where, around = restored & known, ring & known
    if not where.any():
        return None
    deviation = image.astype(np.float64) - truth
    return _compare(deviation, where, around, haze, _Detail.of(image).ratios(_Detail.of(truth), where, where))


def _compare(
    deviation: DoubleArray, where: BoolArray, around: BoolArray, haze: int | None, ratios: tuple[float, float]
) -> Comparison:
    """Reduce deviations `(band, y, x)` on restored pixels and their surroundings to the figures."""
    inside, outside = deviation[:, where], deviation[:, around]
    middle, sigma = _robust(outside)
    # Without surroundings (all restored) the general difference between the dates is not known and taken as 0.
    general = outside.mean(axis=1) if outside.size else np.zeros(len(deviation))
    shift = inside.mean(axis=1) - general
    haze_figures = (math.nan, math.nan, math.nan)
    if haze is not None:
        on, around_it = (values[haze] - middle[haze] for values in (inside, outside))
        haze_figures = _excess(on, around_it, _BRIGHT_SIGMAS * sigma[haze])
    return Comparison(
        *haze_figures,
        gradient_ratio=ratios[0],
        detail_ratio=ratios[1],
        shift=tuple(float(value) for value in shift),
        colour_shift=float(np.sqrt(np.mean(np.square(shift / sigma)))),
    )


def _excess(inside: DoubleArray, outside: DoubleArray, threshold: float) -> tuple[float, float, float]:
    """Return excess, bright share and expected bright share from `d - m` `(pixel,)` on and around restored pixels."""
    excess, bright = inside.clip(0).mean(), (inside > threshold).mean()
    if not outside.size:
        return float(excess), float(bright), math.nan
    return float(excess - outside.clip(0).mean()), float(bright), float((outside > threshold).mean())


def _robust(values: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Return median and robust standard deviation per band of `(band, pixel)`; 0 and the floor without a pixel."""
    if not values.size:
        return np.zeros(len(values)), np.full(len(values), LEAST_SIGMA)
    middle = np.median(values, axis=1)
    spread = _MAD_TO_SIGMA * np.median(np.abs(values - middle[:, None]), axis=1)
    return middle, spread.clip(LEAST_SIGMA)


@dataclass(frozen=True, slots=True)
class _Detail:
    """Gradients and finest detail of an image, `(band, y, x)` each."""

    gradient: DoubleArray
    fine: DoubleArray

    @classmethod
    def of(cls, image: FloatArray) -> _Detail:
        """Return Sobel / 8 and the squared five-point Laplacian of every band."""
        bands = np.nan_to_num(image.astype(np.float64))
        rows, columns = (np.stack([sobel(band, axis=axis) for band in bands]) / 8 for axis in (0, 1))
        return cls(np.hypot(rows, columns), np.square(np.stack([laplace(band) for band in bands])))

    def ratios(self, other: _Detail, mine: BoolArray, theirs: BoolArray) -> tuple[float, float]:
        """Return gradient and detail here over those there, on pixels whose neighbours lie in the same region.

        The step at the edge of a restored area is in neither.
        """
        own, compared = (minimum_filter(part, size=3, mode="constant", cval=False) for part in (mine, theirs))
        return _ratio(self.gradient, own, other.gradient, compared), _ratio(self.fine, own, other.fine, compared)


def _ratio(top: DoubleArray, own: BoolArray, bottom: DoubleArray, compared: BoolArray) -> float:
    if not (own.any() and compared.any()):
        return math.nan
    whole = float(bottom[:, compared].mean())
    return float(top[:, own].mean()) / whole if whole > 0 else math.nan
