"""One band of a scene: how item and file say it is read, and its pixels on a cell, by window or resampled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pystac
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_exponential_jitter

from stac.errors import InvalidItem, UnreadableAsset
from stac.grid.assets import band_index
from stac.grid.cell import Cell, native_geobox
from stac.grid.georeference import UNDECLARED, Declared, require_as_declared
from stac.io.raster import FileFacts, facts_of, file_facts, is_masked, open_raster, thinned
from stac.io.signing import Access
from stac.load.resampling import reach_of, warped
from stac.load.scaling import Decision, decide
from stac.search.sentinel_hub.process import is_process_href

_ATTEMPTS = 3
#: So many time-outs long nothing more is asked of an asset whose server did not answer.
_SILENT_TIMEOUTS = 5
#: Assets in flight, of all dates and work units of this process: they wait for the network, not for the processor.
_ASSETS_AT_ONCE = 20
_P = ParamSpec("_P")
_Pixels = TypeVar("_Pixels")
_Asset = TypeVar("_Asset")
_Found = TypeVar("_Found")
#: Rows of a classification that are read at once.
_STRIP = 1024


@dataclass(frozen=True, slots=True)
class AssetRequest:
    """One asset to read."""

    item_id: str
    #: The band's name, for messages.
    band: str
    href: str
    #: Value outside the acquisition.
    nodata: int
    #: How pixels are drawn when the file is on another grid.
    resampling: Resampling
    #: What the item says about the file's grid.
    declared: Declared = UNDECLARED
    #: Id of the item's collection, which tokens are for.
    collection: str = ""
    #: Position of the band in the file, from 1.
    index: int = 1
    #: Values of a classification, which overviews may have averaged.
    classes: bool = False

    @property
    def name(self) -> str:
        """The asset in words."""
        return f"Item {self.item_id}, asset {self.band}"

    @classmethod
    def of(
        cls,
        item: pystac.Item,
        band: str,
        asset: pystac.Asset,
        nodata: int,
        resampling: Resampling,
        *,
        index: int = 1,
        classes: bool = False,
    ) -> AssetRequest:
        """Return the request for an asset of an item."""
        href, collection = asset.get_absolute_href() or asset.href, item.collection_id or ""
        return cls(item.id, band, href, nodata, resampling, Declared.of(item, asset), collection, index, classes)


@cache
def _readers() -> ThreadPoolExecutor:
    """Return threads that live on: in a new one PROJ opens its database anew, which takes longer than a read."""
    return ThreadPoolExecutor(_ASSETS_AT_ONCE, thread_name_prefix="read")


if hasattr(os, "register_at_fork"):
    # A process that was forked has the threads of none.
    os.register_at_fork(after_in_child=_readers.cache_clear)


def at_once(look: Callable[[_Asset], _Found], assets: Iterable[_Asset]) -> list[_Found]:
    """Return what looking at each of some assets gives, several at a time; `look` itself must not call this."""
    return list(_readers().map(look, assets))


def _within_deadline(
    read: Callable[Concatenate[AssetRequest, Access, _P], _Pixels],
) -> Callable[Concatenate[AssetRequest, Access, _P], _Pixels]:
    """Try a reading function again after errors that may pass, until one time-out is over.

    A server that hangs uses all of it, once: for some time every further reading of the asset fails at once, so that a
    scene with many readings, and the retries of its task, do not multiply the wait.
    """

    @wraps(read)
    def reading(request: AssetRequest, access: Access, /, *args: _P.args, **options: _P.kwargs) -> _Pixels:
        if (silent := _SILENT.get(request.href)) is not None and time.monotonic() < silent.until:
            raise UnreadableAsset(silent.reason)
        timeout_s, began = access.timeout_s, time.monotonic()
        attempts = Retrying(
            retry=retry_if_exception_type(UnreadableAsset),
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(timeout_s),
            wait=wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.5),
            reraise=True,
        )
        try:
            return attempts(read, request, access, *args, **options)
        except UnreadableAsset as error:
            now = time.monotonic()
            if now - began >= timeout_s:
                _SILENT[request.href] = _Silent(now + _SILENT_TIMEOUTS * timeout_s, str(error))
            raise

    return reading


@dataclass(frozen=True, slots=True)
class _Silent:
    """An asset whose server did not answer."""

    #: Monotonic seconds.
    until: float
    reason: str


_SILENT: dict[str, _Silent] = {}


def facts_of_asset(item: pystac.Item, band: str, asset: pystac.Asset, access: Access) -> FileFacts | None:
    """Return what the file of an asset says; None where a service computes its pixels.

    Raises:
        InvalidItem: the file is not what its item declares, or of another format.
        AccessRefused, UnreadableAsset: it cannot be read, also after retries.
    """
    request = AssetRequest.of(item, band, asset, 0, Resampling.nearest)
    if is_process_href(request.href):
        return None
    version = str(item.properties.get("updated", ""))
    facts = _facts(request, access, version)
    require_as_declared(facts, request.declared, request.name)
    return facts


@_within_deadline
def _facts(request: AssetRequest, access: Access, version: str) -> FileFacts:
    return file_facts(request.href, request.name, access, request.collection, version)


@_within_deadline
def read_asset(request: AssetRequest, access: Access, cell: Cell, into: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the first band of an asset on the cell's pixels `(y, x)`, in the file's data type.

    Pixels outside the file are `nodata`.

    Args:
        request: the asset.
        access: how remote bytes are reached; its time-out also is that of all requests while none is answered.
        cell: where.
        into: memory `(y, x)` to use for the result where its data type is the file's. Fresh memory costs as much as
            decoding a block: the pages must be cleared first.

    Raises:
        InvalidItem: the file holds other than integers, does not say where it lies, or lies elsewhere than its
            item says.
        AccessRefused: a bucket or a token service denies it.
        UnreadableAsset: the file is missing, truncated or no raster, also after retries.
    """
    if is_process_href(request.href):
        # The library behind it takes a second to load.
        from stac.search.sentinel_hub.process import read_band

        nearest = request.resampling is Resampling.nearest
        return read_band(request.href, cell.geobox, request.nodata, access.timeout_s, nearest=nearest)
    with open_raster(request.href, request.name, access, request.collection) as source:
        require_as_declared(facts_of(source, request.name), request.declared, request.name)
        _check_type(source.dtypes[request.index - 1], request)
        return _on_grid(source, cell.geobox, request, into)


@_within_deadline
def read_thinned(request: AssetRequest, access: Access, side: int) -> NDArray[Any]:
    """Return a view `(y, x)` of the whole first band, its longest side at most `side` pixels, in the file's data type.

    Overviews are used where the file has them.

    Raises:
        InvalidItem: the file holds other than integers, or does not say where it lies.
        UnreadableAsset: the file is missing, truncated or no raster, also after retries.
    """
    with open_raster(request.href, request.name, access, request.collection) as source:
        _check_type(source.dtypes[request.index - 1], request)
        pixels = thinned(source, request.index, side, request.nodata)
        _unify_nodata(pixels, source, request)
        return pixels


def _check_type(dtype: str, request: AssetRequest) -> None:
    """Raise `InvalidItem` unless the file holds integers that can be the item's nodata."""
    if np.dtype(dtype).kind not in "iu":
        raise InvalidItem(f"{request.name} holds {dtype}; expected integer digital numbers.")
    limits = np.iinfo(dtype)
    if not limits.min <= request.nodata <= limits.max:
        raise InvalidItem(f"{request.name} holds {dtype}, which cannot be the declared nodata {request.nodata}.")


def _unify_nodata(pixels: NDArray[Any], source: Any, request: AssetRequest) -> None:
    """Write the item's nodata where the file has its own, in place: what either calls missing is missing."""
    own = source.nodatavals[request.index - 1]
    if own is not None and own != request.nodata:
        pixels[pixels == own] = request.nodata


def _on_grid(source: Any, geobox: GeoBox, request: AssetRequest, into: NDArray[Any] | None) -> NDArray[Any]:
    """Read by window where the cell has the file's pixels or every k-th of them, else resample."""
    placed = placement(source.crs, source.transform, source.shape, geobox)
    if placed is None or (placed.factor > 1 and request.resampling is not Resampling.nearest):
        return warped(source, geobox, request.resampling, request.nodata, request.index)
    height, width = geobox.shape
    dtype = source.dtypes[request.index - 1]
    fits = into is not None and into.dtype == dtype and into.shape == (height, width)
    pixels = into if into is not None and fits else np.empty((height, width), dtype)
    rows, columns = placed.rows(height, source.height), placed.columns(width, source.width)
    if len(rows) < height or len(columns) < width:
        pixels[...] = request.nodata
    if rows and columns:
        _read_window(source, request, placed, rows, columns, pixels)
    _unify_nodata(pixels, source, request)
    return pixels


def _read_window(
    source: Any, request: AssetRequest, placed: Placement, rows: range, columns: range, pixels: NDArray[Any]
) -> None:
    """Fill in the rows and columns of a cell that the file covers; what the file masks is nodata."""
    part = pixels[rows.start : rows.stop, columns.start : columns.stop]
    masked = is_masked(source, request.index)
    k = placed.factor
    left, width = placed.left + columns.start * k, len(columns) * k
    # A decimated window comes from overviews, which may be averages; the pixels themselves are read for classes.
    whole = request.classes and k > 1
    step = max(1, _STRIP // k) if whole else len(rows)
    for start in range(0, len(rows), step):
        strip = part[start : start + step]
        window = Window(left, placed.top + (rows.start + start) * k, width, len(strip) * k)
        if whole:
            strip[...] = source.read(request.index, window=window)[k // 2 :: k, k // 2 :: k]
        else:
            source.read(request.index, window=window, out=strip)
        if masked:
            mask = source.read_masks(request.index, window=window, out_shape=None if whole else strip.shape)
            strip[(mask[k // 2 :: k, k // 2 :: k] if whole else mask) == 0] = request.nodata


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a cell lies in a file whose pixels it shares, or of which it has every `factor`-th."""

    #: The cell's corner, pixels of the file.
    left: int
    top: int
    factor: int

    def rows(self, height: int, file_height: int) -> range:
        """Return the rows of the cell that the file covers whole."""
        return _covered(self.top, self.factor, height, file_height)

    def columns(self, width: int, file_width: int) -> range:
        """Return the columns of the cell that the file covers whole."""
        return _covered(self.left, self.factor, width, file_width)


def _covered(offset: int, factor: int, length: int, file_length: int) -> range:
    return range(max(0, -(offset // factor)), min(length, (file_length - offset) // factor))


def placement(crs: CRS, transform: Affine, shape: tuple[int, int], geobox: GeoBox) -> Placement | None:
    """Return where a cell lies in a file, None where their pixels do not coincide.

    Args:
        crs: of the file.
        transform: of the file.
        shape: of the file, rows and columns.
        geobox: the cell.
    """
    if crs != CRS.from_wkt(geobox.crs.to_wkt()):
        return None
    cell = geobox.affine
    factor = max(1, round(cell.a / transform.a)) if transform.a else 1
    sides = np.array((transform.a, transform.b, transform.d, transform.e)) * factor
    if not np.allclose(sides, (cell.a, cell.b, cell.d, cell.e), rtol=1e-9, atol=1e-9):
        return None
    offset = np.array(GeoBox(shape, transform, geobox.crs).wld2pix(cell.c, cell.f))
    if not np.allclose(offset, np.rint(offset), rtol=0, atol=1e-4):
        return None
    return Placement(round(offset[0]), round(offset[1]), factor)


def kernel_reach(facts: FileFacts, geobox: GeoBox, resampling: Resampling) -> int:
    """Return how far a pixel of a file reaches when it is drawn for a grid, pixels of the grid; 0 where none mixes."""
    placed = placement(CRS.from_wkt(facts.crs_wkt), Affine(*facts.transform), facts.shape, geobox)
    # A mean of whole pixels mixes nothing else.
    if resampling is Resampling.nearest or placed is not None:
        return 0
    return reach_of(facts.geobox, geobox, resampling)


@dataclass(frozen=True, slots=True)
class Layer:
    """A band that was looked at."""

    request: AssetRequest
    #: How digital numbers become reflectance; None for a classification.
    scaling: Decision | None
    #: Pixel grid of the file.
    grid: GeoBox
    #: None where a service computes the pixels.
    facts: FileFacts | None

    def reach(self, cell: Cell) -> int:
        """Return how far a pixel of the file reaches when it is drawn for a cell, pixels of the cell."""
        return 0 if self.facts is None else kernel_reach(self.facts, cell.geobox, self.request.resampling)


def look_at(
    item: pystac.Item,
    band: str,
    asset: pystac.Asset,
    resampling: Resampling,
    access: Access,
    classes_nodata: int | None = None,
) -> Layer:
    """Open a band's file, compare it with its item, and decide how it is read.

    Args:
        item: the scene.
        band: the band's name.
        asset: where it is.
        resampling: of reflectance; classifications take the nearest pixel.
        access: how remote bytes are reached.
        classes_nodata: value outside a classification; None for reflectance.

    Raises:
        InvalidItem: item and file contradict each other, or leave open what cannot be guessed.
        AccessRefused, UnreadableAsset: the file cannot be read.
    """
    facts = facts_of_asset(item, band, asset, access)
    index = 1 if facts is None else band_index(item, asset, band, facts)
    grid = native_geobox(item, band, access) if facts is None else facts.geobox
    if classes_nodata is not None:
        request = AssetRequest.of(item, band, asset, classes_nodata, Resampling.nearest, index=index, classes=True)
        return Layer(request, None, grid, facts)
    scaling = decide(item, asset, None if facts is None else facts.band(index))
    return Layer(AssetRequest.of(item, band, asset, scaling.nodata, resampling, index=index), scaling, grid, facts)
