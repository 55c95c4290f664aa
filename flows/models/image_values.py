"""Between the stored values of a single image file and reflectance 0-1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.models.image_file import ImageFile, Kind
from stac.errors import InvalidInput
from stac.reflectance import PRODUCT_SCALE

FloatArray = NDArray[np.float32]
PixelArray = NDArray[Any]

#: Largest reflectance of a dark 16-bit image, clouds included: brighter ground is everywhere. Eight-bit values in a
#: 16-bit file stay below it.
_IMPLAUSIBLY_DARK = 0.03
#: More samples than this share above reflectance 1 are no clouds but another scale.
_MOST_SATURATED = 0.5


@dataclass(frozen=True, slots=True)
class ValueScale:
    """Reflectance = stored * scale + offset, per band."""

    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    #: Where it comes from: `given`, `declared by the file` or `default`.
    origin: str

    def columns(self) -> tuple[FloatArray, FloatArray]:
        """Return scales and offsets as `(band, 1, 1)`."""
        scales, offsets = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.scales, self.offsets))
        return scales, offsets


def scale_of(image: ImageFile, given: float | None) -> ValueScale:
    """Return how an image's values become reflectance: as given, else as the file declares, else by its type.

    Defaults: 1/255 for 8 bits, 1e-4 for 16-bit GeoTIFF (the convention of surface reflectance products), 1/65535 for
    16-bit PNG, 1 for floating point.

    Raises:
        InvalidInput: the scale is not a positive number.
    """
    if given is not None:
        _check_scale(given, "--scale")
        return ValueScale((given,) * image.bands, (0.0,) * image.bands, "given")
    if any(scale != 1 for scale in image.scales) or any(image.offsets):
        for scale in image.scales:
            _check_scale(scale, f"The scale declared by {image.path}")
        return ValueScale(image.scales, image.offsets, "declared by the file")
    return ValueScale((_default(image),) * image.bands, (0.0,) * image.bands, "default")


def _default(image: ImageFile) -> float:
    if image.dtype == "uint8":
        return 1 / 255
    if image.dtype.startswith("float"):
        return 1.0
    return PRODUCT_SCALE if image.kind is Kind.GEOTIFF else 1 / 65535


def _check_scale(scale: float, name: str) -> None:
    if not 0 < scale < math.inf:
        raise InvalidInput(f"{name} is {scale}; reflectance = stored value x scale wants a positive number.")


def missing(pixels: PixelArray, image: ImageFile) -> NDArray[np.bool_]:
    """Return `(band, y, x)`, True on samples of the declared nodata value."""
    if image.nodata is None:
        return np.zeros(pixels.shape, dtype=bool)
    return np.asarray(np.isnan(pixels) if math.isnan(image.nodata) else pixels == image.nodata)


def decode(pixels: PixelArray, image: ImageFile, scale: ValueScale) -> FloatArray:
    """Return reflectance `(band, y, x)`, NaN on nodata.

    Raises:
        InvalidInput: a sample is not finite without being nodata, or the values do not fit the scale.
    """
    gaps = missing(pixels, image)
    odd = int((~np.isfinite(pixels) & ~gaps).sum())
    if odd:
        raise InvalidInput(
            f"{image.path} holds {odd} values that are NaN or infinite; declare NaN as its nodata value."
        )
    scales, offsets = scale.columns()
    reflectance = pixels.astype(np.float32) * scales + offsets
    if not gaps.all():
        _check_plausible(reflectance[~gaps], image, scale)
    reflectance[gaps] = np.nan
    return reflectance


def _check_plausible(values: FloatArray, image: ImageFile, scale: ValueScale) -> None:
    """Raise for values that another scale would explain better: restoring them would spoil them silently."""
    used = f"with scale {scale.scales[0]:.4g} ({scale.origin})"
    if (values > 1).mean() > _MOST_SATURATED:
        raise InvalidInput(
            f"{image.path}: {used} most values exceed reflectance 1 (largest {values.max():.4g}); give the right "
            "--scale."
        )
    if scale.origin == "default" and image.dtype in ("uint16", "int16") and values.max() < _IMPLAUSIBLY_DARK:
        raise InvalidInput(
            f"{image.path}: {used} no value exceeds reflectance {values.max():.4g}, as if 8-bit values were stored in "
            f"16 bits; give the right --scale, {1 / 255:.7f} for 0-255."
        )


def encode(
    reflectance: FloatArray, replaced: NDArray[np.bool_], pixels: PixelArray, image: ImageFile, scale: ValueScale
) -> PixelArray:
    """Return stored values `(band, y, x)`: new ones where `replaced`, every other sample bit for bit as it was.

    A missing sample stays missing, and no new one takes the nodata value.

    Args:
        reflectance: `(band, y, x)`, finite where `replaced`.
        replaced: `(y, x)`.
        pixels: the stored values before.
        image: their file.
        scale: how values become reflectance.
    """
    scales, offsets = scale.columns()
    where = replaced & ~missing(pixels, image)
    values = (np.where(where, reflectance, np.float32(0)) - offsets) / scales
    dtype = pixels.dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.rint(values).clip(limits.min, limits.max)
    new = values.astype(dtype)
    if image.nodata is not None and (clash := where & (new == image.nodata)).any():
        new[clash] = _beside(image.nodata, dtype)
    return np.where(where, new, pixels)


def _beside(nodata: float, dtype: np.dtype[Any]) -> Any:
    """Return the nearest value that is not nodata."""
    if dtype.kind == "f":
        return np.nextafter(dtype.type(nodata), dtype.type(1 if nodata < 1 else 0))
    return dtype.type(nodata + 1 if nodata < np.iinfo(dtype).max else nodata - 1)
