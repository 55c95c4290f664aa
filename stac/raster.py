"""Writing cloud-optimised GeoTIFFs whose bytes depend on their pixels alone, and checking them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rio_cogeo.cogeo import cog_validate

from stac.errors import InvalidProduct, NotWritable
from stac.storage import writing

_BLOCK = 256
#: Overviews are made down to this many pixels.
_SMALLEST_OVERVIEW = 128


@dataclass(frozen=True, slots=True)
class RasterSpec:
    """How a layer is stored."""

    nodata: float
    #: `average` for quantities, `nearest` for classes and dates.
    overviews: str = "average"
    #: One name per band.
    descriptions: Sequence[str] = ()
    #: Value = stored * scale.
    scale: float = 1.0
    #: Value -> (red, green, blue), for classes.
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    #: True stores red, green, blue as such.
    rgb: bool = False


def write_cog(path: Path, pixels: NDArray[Any], geobox: GeoBox, spec: RasterSpec) -> None:
    """Write `pixels` `(band, y, x)` as a COG with overviews; the same pixels give the same bytes.

    Raises:
        DiskFull: there is no room.
        NotWritable: the file cannot be written for another reason.
    """
    profile = {
        "driver": "GTiff",
        "dtype": pixels.dtype,
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "crs": geobox.crs.to_wkt(),
        "transform": geobox.affine,
        "nodata": spec.nodata,
    }
    if spec.rgb:
        profile["photometric"] = "RGB"
    # In memory first: GDAL reports a full disk late and in words of its own, writing bytes does not.
    try:
        with MemoryFile() as plain:
            with plain.open(**profile) as target:
                _fill(target, pixels, spec)
            content = cog_bytes(plain, spec.overviews)
    except RasterioError as error:
        raise NotWritable(f"{path} cannot be made ({error}); report this with the product's metadata.") from error
    with writing(path):
        path.write_bytes(content)


def cog_bytes(plain: MemoryFile, overviews: str) -> bytes:
    """Return a GeoTIFF in memory as a COG with overviews, losslessly compressed, its metadata kept.

    Args:
        plain: the GeoTIFF, closed.
        overviews: how they are resampled, `average` or `nearest`.

    Raises:
        RasterioError: GDAL cannot convert it.
    """
    with plain.open() as source, MemoryFile() as cog:
        options = {
            "COMPRESS": "DEFLATE",
            "PREDICTOR": "3" if np.dtype(source.dtypes[0]).kind == "f" else "2",
            "BLOCKSIZE": str(_BLOCK),
            "OVERVIEW_RESAMPLING": overviews.upper(),
            "OVERVIEW_COUNT": str(_overview_count(source.shape)),
            "NUM_THREADS": "1",
        }
        rasterio.shutil.copy(source, cog.name, driver="COG", **options)
        return bytes(cog.read())


def _overview_count(shape: tuple[int, ...]) -> int:
    """Return how often a raster is halved until its longer side is small; viewers want one at least."""
    longest, count = max(shape), 0
    while longest > _SMALLEST_OVERVIEW:
        longest, count = (longest + 1) // 2, count + 1
    return count


def _fill(target: Any, pixels: NDArray[Any], spec: RasterSpec) -> None:
    target.write(pixels)
    if spec.descriptions:
        target.descriptions = tuple(spec.descriptions)
    if spec.scale != 1.0:
        target.scales = (spec.scale,) * pixels.shape[0]
    if spec.colors:
        target.write_colormap(1, {value: (*rgb, 255) for value, rgb in spec.colors.items()})


def check_cog(path: Path) -> None:
    """Raise unless a file is a valid COG, without warnings.

    Raises:
        InvalidProduct: what is wrong with it.
    """
    try:
        valid, problems, warnings = cog_validate(str(path), strict=True, quiet=True)
    except (RasterioError, OSError) as error:
        raise InvalidProduct(f"{path} is no readable raster ({error}); make the product again.") from error
    if not valid or problems or warnings:
        reasons = "; ".join([*problems, *warnings])
        raise InvalidProduct(f"{path} is no valid cloud-optimised GeoTIFF ({reasons}); make the product again.")


def rgb_of(color: str) -> tuple[int, int, int]:
    """Return red, green, blue 0-255 of six hexadecimal digits."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (0, 2, 4))
    return red, green, blue


def finite_statistics(pixels: NDArray[Any], nodata: float) -> dict[str, float]:
    """Return minimum, maximum, mean, stddev and valid_percent of one band `(y, x)`; only the last when empty."""
    valid = np.isfinite(pixels) if np.isnan(nodata) else pixels != nodata
    percent = {"valid_percent": round(float(valid.mean() * 100), 4)}
    if not valid.any():
        return percent
    values = pixels[valid].astype(np.float64)
    numbers = {"minimum": values.min(), "maximum": values.max(), "mean": values.mean(), "stddev": values.std()}
    return {name: round(float(value), 6) for name, value in numbers.items()} | percent
