"""What a raster file says about its own pixels: the second witness beside its item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags

from stac.errors import InvalidItem
from stac.io.raster import open_raster
from stac.io.signing import Access

_SPECTRUM = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir, ColorInterp.coastal)
#: Names under which converters write scale and offset as plain tags (netCDF and HDF conventions).
_SCALE_TAGS, _OFFSET_TAGS = ("scale_factor", "scale"), ("add_offset", "offset")


@dataclass(frozen=True, slots=True)
class BandFacts:
    """One band of a file, in the words of the file; None and "" where it says nothing."""

    #: Position in the file, from 1.
    index: int
    dtype: str
    scale: float | None
    offset: float | None
    #: Only where the data type can hold it.
    nodata: float | None
    #: Its description.
    description: str
    #: Its colour interpretation, `red` or `nir`; "" for what is of no part of the spectrum.
    colour: str


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file says."""

    crs_wkt: str
    #: Rows, columns.
    shape: tuple[int, int]
    #: Affine coefficients a, b, c, d, e, f.
    transform: tuple[float, ...]
    #: Without alpha bands.
    bands: tuple[BandFacts, ...]

    @property
    def geobox(self) -> GeoBox:
        """The file's pixel grid."""
        return GeoBox(self.shape, Affine(*self.transform), self.crs_wkt)

    def band(self, index: int) -> BandFacts:
        """Return a band by its position in the file, from 1."""
        return next(band for band in self.bands if band.index == index)


def file_facts(href: str, name: str, access: Access, collection: str, version: str) -> FileFacts:
    """Return what a file says; asked once per process.

    Args:
        href: path or URL.
        name: what it is, for messages.
        access: how remote bytes are reached.
        collection: id of the item's collection.
        version: of the item: one that was corrected is looked at anew.

    Raises:
        InvalidItem: it is of another format, does not say where it lies, or contradicts itself.
        UnreadableAsset: it is missing, truncated or not a raster.
    """
    return _asked(href, name, access, collection, f"{version} {_written(href)}")


def _written(href: str) -> str:
    """Return when a local file was last written; empty for others."""
    if "://" in href:
        return ""
    try:
        found = Path(href).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"


@lru_cache(maxsize=4096)
def _asked(href: str, name: str, access: Access, collection: str, version: str) -> FileFacts:
    del version
    with open_raster(href, name, access, collection) as source:
        return facts_of(source, name)


def facts_of(source: Any, name: str) -> FileFacts:
    """Return what an open file says.

    Raises:
        InvalidItem: scale or offset in its tags contradict those of its header.
    """
    colours = _colours(source)
    kept = [index for index in source.indexes if colours[index - 1] is not ColorInterp.alpha]
    shared = source.tags()
    bands = tuple(_band(source, index, colours[index - 1], {**shared, **source.tags(index)}, name) for index in kept)
    return FileFacts(source.crs.to_wkt(), tuple(source.shape), tuple(source.transform)[:6], bands)


def is_masked(source: Any, index: int) -> bool:
    """Return whether an open file says by a mask or an alpha band which pixels of a band are missing."""
    return MaskFlags.per_dataset in source.mask_flag_enums[index - 1]


def valid_pixels(href: str, name: str, side: int, access: Access, collection: str) -> NDArray[np.bool_]:
    """Return which pixels `(y, x)` of a file's first band hold data, thinned to at most `side` along the longest side.

    Without a nodata value 0 is none.

    Raises:
        InvalidItem, AccessRefused, UnreadableAsset: it cannot be read.
    """
    with open_raster(href, name, access, collection) as source:
        missing = 0 if source.nodata is None else source.nodata
        valid: NDArray[np.bool_] = thinned(source, 1, side, missing) != missing
    return valid


def thinned(source: Any, index: int, side: int, missing: float) -> NDArray[Any]:
    """Return a view `(y, x)` of a band of an open file, its longest side at most `side` pixels.

    Overviews are used where the file has them; what its mask says is missing becomes `missing`.
    """
    factor = max(1.0, max(source.shape) / side)
    shape = tuple(max(1, int(n / factor)) for n in source.shape)
    pixels: NDArray[Any] = source.read(index, out_shape=shape)
    if is_masked(source, index):
        pixels[source.read_masks(index, out_shape=shape) == 0] = missing
    return pixels


def _colours(source: Any) -> tuple[Any, ...]:
    try:
        colours: tuple[Any, ...] = tuple(source.colorinterp)
    except ValueError:
        # An interpretation that this rasterio has no name for, such as near infrared.
        return (ColorInterp.undefined,) * int(source.count)
    return colours


def _band(source: Any, index: int, colour: Any, tags: Mapping[str, str], name: str) -> BandFacts:
    at, dtype = index - 1, source.dtypes[index - 1]
    scale, offset = float(source.scales[at]), float(source.offsets[at])
    tagged = (_tag(tags, _SCALE_TAGS), _tag(tags, _OFFSET_TAGS))
    silent = undeclared(scale, offset)
    header = (None, None) if silent else (scale, offset)
    if not silent and undeclared(*tagged):
        tagged = (None, None)
    found = [_one_of(*pair, name) for pair in zip(header, tagged, ("scale", "offset"), strict=True)]
    if undeclared(found[0], found[1]):
        found = [None, None]
    return BandFacts(
        index=index,
        dtype=dtype,
        scale=found[0],
        offset=found[1],
        nodata=_nodata(source.nodatavals[at], dtype),
        description=source.descriptions[at] or "",
        colour=colour.name if colour in _SPECTRUM else "",
    )


def undeclared(scale: float | None, offset: float | None) -> bool:
    """Return whether scale and offset say nothing: 1 and 0 is what GDAL writes where nothing is known."""
    return scale in (None, 1) and offset in (None, 0)


def _one_of(header: float | None, tagged: float | None, word: str, name: str) -> float | None:
    if header is not None and tagged is not None and not math.isclose(header, tagged, rel_tol=1e-6, abs_tol=1e-12):
        raise InvalidItem(f"{name}: the file has {word} {header:g} in its header and {tagged:g} in its tags.")
    return tagged if header is None else header


def _tag(tags: Mapping[str, str], names: Iterable[str]) -> float | None:
    lower = {key.lower(): value for key, value in tags.items()}
    for name in names:
        try:
            value = float(lower[name])
        except (KeyError, ValueError):
            continue
        if math.isfinite(value):
            return value
    return None


def _nodata(value: float | None, dtype: str) -> float | None:
    """Return the nodata value where a pixel can have it."""
    kind = np.dtype(dtype)
    if value is None or kind.kind not in "iu":
        return value
    limits = np.iinfo(kind)
    return value if math.isfinite(value) and float(value).is_integer() and limits.min <= value <= limits.max else None
