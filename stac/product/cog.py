"""Writing cloud-optimised GeoTIFFs whose bytes depend on their pixels alone, and checking them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from stac.errors import DiskFull, NotWritable
from stac.io.files import writing

_BLOCK = 256
#: Overviews are made down to this many pixels.
_SMALLEST_OVERVIEW = 128
#: A raster up to this side can be drawn without overviews, pixels.
_DRAWN_WHOLE = 4096
#: Larger rasters are put together on disk.
_IN_MEMORY_BYTES = 64 * 2**20
#: GDAL does not say that a disk is full; with less than this left it is taken to be.
_LITTLE_ROOM_BYTES = 16 * 2**20
#: From here on compression is spread over the processors.
_THREADED_PIXELS = 4_000_000


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


class CogWriter:
    """Takes a raster window by window and makes a COG with overviews of it; the same pixels give the same bytes.

    Small rasters are put together in memory, large ones in a scratch file beside the COG. Use it as a context: what is
    left over when it ends is removed. What cannot be written raises `DiskFull` or `NotWritable`.
    """

    def __init__(self, path: Path, geobox: GeoBox, count: int, dtype: str, spec: RasterSpec) -> None:
        self.path, self._spec = path, spec
        size = count * geobox.shape[0] * geobox.shape[1] * np.dtype(dtype).itemsize
        self._scratch = None if size <= _IN_MEMORY_BYTES else path.with_name(f".{path.name}.scratch")
        self._memory = MemoryFile() if self._scratch is None else None
        self._target: Any = None
        profile = _profile(geobox, count, dtype, spec)
        with self._translated():
            if self._memory is not None:
                self._target = self._memory.open(**profile)
            else:
                # By band: overviews of single bands are made in half the time.
                side = 2 * _BLOCK
                tiled = {"tiled": True, "blockxsize": side, "blockysize": side, "interleave": "band"}
                tiled["bigtiff"] = "IF_SAFER"
                self._target = rasterio.open(self._scratch, "w", **profile, **tiled)
            _describe(self._target, count, spec)

    def __enter__(self) -> CogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RasterioError):
            if self._target is not None:
                self._target.close()
        if self._memory is not None:
            self._memory.close()
        if self._scratch is not None:
            self._scratch.unlink(missing_ok=True)

    def write(self, pixels: NDArray[Any], row: int = 0, column: int = 0) -> None:
        """Put `pixels` `(band, y, x)` where their first pixel is at (`row`, `column`)."""
        height, width = pixels.shape[1:]
        window = Window.from_slices((row, row + height), (column, column + width))
        with self._translated():
            self._target.write(pixels, window=window)

    def finish(self) -> None:
        """Write the COG."""
        with self._translated():
            # Of the raster as it is: the COG driver would compress overviews, read them back and compress them again.
            if factors := overview_factors(self._target.shape):
                self._target.build_overviews(factors, Resampling[self._spec.overviews])
            self._target.close()
            # In memory first: GDAL reports a full disk late and in words of its own, writing bytes does not.
            if self._memory is not None:
                content = cog_bytes(self._memory, self._spec.overviews)
            else:
                with rasterio.open(self._scratch) as source:
                    _copy_as_cog(source, str(self.path), self._spec.overviews)
        if self._memory is not None:
            with writing(self.path):
                self.path.write_bytes(content)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RasterioError as error:
            folder = self.path.parent
            if folder.is_dir() and shutil.disk_usage(folder).free < _LITTLE_ROOM_BYTES:
                raise DiskFull(f"No room to write {self.path}; free some space or choose another folder.") from error
            raise NotWritable(
                f"{self.path} cannot be made ({error}); report this with the product's metadata."
            ) from error


def write_cog(path: Path, pixels: NDArray[Any], geobox: GeoBox, spec: RasterSpec) -> None:
    """Write `pixels` `(band, y, x)` as a COG with overviews."""
    with CogWriter(path, geobox, len(pixels), str(pixels.dtype), spec) as cog:
        cog.write(pixels)
        cog.finish()


def _profile(geobox: GeoBox, count: int, dtype: str, spec: RasterSpec) -> dict[str, Any]:
    profile = {
        "driver": "GTiff",
        "dtype": dtype,
        "count": count,
        "height": geobox.shape[0],
        "width": geobox.shape[1],
        "crs": geobox.crs.to_wkt(),
        "transform": geobox.affine,
        "nodata": spec.nodata,
    }
    return profile | ({"photometric": "RGB"} if spec.rgb else {})


def cog_bytes(plain: MemoryFile, overviews: str) -> bytes:
    """Return a GeoTIFF in memory as a COG with overviews, losslessly compressed, its metadata kept.

    Args:
        plain: the GeoTIFF, closed.
        overviews: how they are resampled, `average` or `nearest`.

    Raises:
        RasterioError: GDAL cannot convert it.
    """
    with plain.open() as source, MemoryFile() as cog:
        _copy_as_cog(source, cog.name, overviews)
        return bytes(cog.read())


def _copy_as_cog(source: Any, destination: str, overviews: str) -> None:
    factors = overview_factors(source.shape)
    options = {
        "COMPRESS": "DEFLATE",
        # Others take up to twice as long for files that are hardly smaller, of reflectance even larger.
        "LEVEL": "1",
        "PREDICTOR": "3" if np.dtype(source.dtypes[0]).kind == "f" else "2",
        "BLOCKSIZE": str(_BLOCK),
        "OVERVIEW_RESAMPLING": overviews.upper(),
        "OVERVIEWS": "AUTO" if factors else "NONE",
        "OVERVIEW_COUNT": str(len(factors)),
        "NUM_THREADS": "1" if source.width * source.height < _THREADED_PIXELS else "ALL_CPUS",
        "BIGTIFF": "IF_SAFER",
    }
    rasterio.shutil.copy(source, destination, driver="COG", **options)


def overview_factors(shape: tuple[int, ...]) -> list[int]:
    """Return by how much a raster is thinned, again and again until its longer side is small.

    Where sides are not whole multiples, pixels of an overview are not square, and OpenLayers, which draws the maps of
    STAC Browser, reads its tiles with a wrong stride. Such overviews are left out, but for a raster that is too large
    to be drawn without any.

    Args:
        shape: height and width, pixels.
    """
    height, width = shape
    factors: list[int] = []
    while max(shape) > _SMALLEST_OVERVIEW * 2 ** len(factors):
        factors.append(2 ** (len(factors) + 1))
    square = [by for by in factors if -(-height // by) * width == -(-width // by) * height]
    return factors if not square and max(shape) > _DRAWN_WHOLE else square


def _describe(target: Any, count: int, spec: RasterSpec) -> None:
    if spec.descriptions:
        target.descriptions = tuple(spec.descriptions)
    if spec.scale != 1.0:
        target.scales = (spec.scale,) * count
    if spec.colors:
        target.write_colormap(1, {value: (*rgb, 255) for value, rgb in spec.colors.items()})


def cog_problem(path: Path) -> str:
    """Return why a file is not a valid COG without warnings, no full stop; empty where it is.

    A raster that can be drawn whole may be without overviews (`overview_factors`).
    """
    try:
        _, problems, warnings = cog_validate(str(path), quiet=True)
        with rasterio.open(path) as source:
            whole = max(source.shape) <= _DRAWN_WHOLE
    except (RasterioError, OSError) as error:
        return f"is not a readable raster ({error})"
    found = [*problems, *(each for each in warnings if not (whole and "overviews" in each))]
    return f"is not a valid cloud-optimised GeoTIFF ({'; '.join(found)})" if found else ""


def rgb_of(color: str) -> tuple[int, int, int]:
    """Return red, green, blue 0-255 of six hexadecimal digits."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (0, 2, 4))
    return red, green, blue
