"""Opening rasters that a catalog names, and what a file says about its own pixels: the second witness beside its item.

With time-outs, few retries, and only formats that name no others.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader

from stac.errors import (
    AccessRefused,
    InvalidItem,
    InvalidQuery,
    SourceUnavailable,
    StacError,
    UnreadableAsset,
    UnsafeHref,
)
from stac.io.addresses import gdal_settings, host_of, is_web, pinned
from stac.io.http import RetryPolicy, WebSession
from stac.io.s3 import BotocoreSession, Objects, S3Options, asking, is_s3, s3_location
from stac.io.secrets import login_of, redact, with_query
from stac.io.signing import Access, SignedHref, refused, sign

#: A VRT or a service description could name other files of this machine.
_DRIVERS = ("GTiff", "JP2OpenJPEG")
#: Names of GDAL for files in the clouds, by scheme.
_CLOUDS = {"gs": "/vsigs/", "az": "/vsiaz/"}
#: A block is decoded whole, whatever part of it is wanted; bytes.
_LARGEST_BLOCK = 256 << 20
#: What GDAL says of a server that sends it elsewhere, where it may not go.
_SENT_ELSEWHERE = re.compile(r"response code: 30[12378]\b")
#: A transfer slower than this for the whole time-out is given up, bytes per second.
_SLOWEST = 1_000
#: What GDAL says when a server wants other credentials.
_DENIED = re.compile(r"\b(401|403)\b|AuthenticationFailed|AuthorizationFailure", re.IGNORECASE)
#: Longest wait when S3 is asked why a file cannot be read, seconds.
_ASKING_S = 15.0
_DIRECT = Access()
_SPECTRUM = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir, ColorInterp.coastal)
#: Names under which converters write scale and offset as plain tags (netCDF and HDF conventions).
_SCALE_TAGS, _OFFSET_TAGS = ("scale_factor", "scale"), ("add_offset", "offset")


class _Redacting(logging.Filter):
    """Takes tokens out of what rasterio writes to the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True


for _name in ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base", "rasterio.env", "rasterio"):
    logging.getLogger(_name).addFilter(_Redacting())


def environment(timeout_s: float, s3: S3Options | None = None) -> rasterio.Env:
    """Return GDAL settings with time-outs and few retries, and without listing folders on servers.

    Nothing is remembered about a remote file between two attempts, so that a retry really asks again, and
    no HEAD request is sent, which signed addresses refuse. GDAL's settings belong to a thread.

    Args:
        timeout_s: longest wait for one request, seconds.
        s3: where S3 is and as whom it is asked, when files in S3 are to be read.
    """
    seconds = max(1, round(timeout_s))
    return rasterio.Env(
        BotocoreSession(s3) if s3 is not None else None,
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED=False,
        GDAL_HTTP_TIMEOUT=seconds,
        GDAL_HTTP_CONNECTTIMEOUT=min(seconds, 15),
        # A server that hangs is given up sooner than one that is slow: it is asked several times.
        GDAL_HTTP_LOW_SPEED_TIME=max(1, seconds // 4),
        GDAL_HTTP_LOW_SPEED_LIMIT=_SLOWEST,
        # Each doubles the time of a server that hangs; the whole asset is tried again, too (`stac.load.reading`).
        GDAL_HTTP_MAX_RETRY=1,
        GDAL_HTTP_RETRY_DELAY=1,
        CPL_VSIL_CURL_USE_HEAD=False,
        CPL_VSIL_CURL_NON_CACHED="/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
        **(s3.gdal() if s3 is not None else {}),
    )


@contextmanager
def open_raster(href: str, name: str, access: Access = _DIRECT, collection: str = "") -> Iterator[Any]:
    """Open a raster for reading as a rasterio dataset; errors while it is read are translated too.

    The two drivers that are wanted are named, so that no other one sees a byte. A token that was refused is forgotten,
    so that the next attempt asks for another.

    Args:
        href: path or URL, also `s3://bucket/key`.
        name: what it is, for messages: `Item S2A_..., asset blue`.
        access: how remote bytes are reached: signing, S3, time-out, and hosts that may be inside this network.
        collection: id of the item's collection, which tokens are for.

    Raises:
        InvalidItem: it is of another format, does not say where it lies, or is stored in blocks that are too large.
        UnsafeHref: its host is inside this network and not one that the user named, or its path or key is not plain.
        AccessRefused: a bucket or the token service denies it, or the bucket does not exist.
        SourceUnavailable: the token service does not answer, or the host is not known.
        UnreadableAsset: it is missing, truncated or no raster, or its server does not answer.
    """
    signed = sign(with_query(href), collection, access)
    try:
        with _opened(signed, name, access) as source:
            if source.crs is None:
                raise InvalidItem(f"{name}: {redact(href)} has no projection.")
            _check_blocks(source, f"{name}: {redact(href)}")
            yield source
    except (RasterioError, CRSError) as error:
        raise _unreadable(error, signed, name, access) from _without_secrets(error, signed)


@contextmanager
def _opened(signed: SignedHref, name: str, access: Access) -> Iterator[Any]:
    """Yield an open dataset with GDAL's settings for it, both until the end of a `with` statement."""
    if not is_web(signed.address):
        with _dataset(_local_or_bucket(signed, name), _settings(signed.plain, name, access)) as source:
            yield source
        return
    named = access.hosts if access.hosts is not None else {host_of(signed.plain)}
    with ExitStack() as stack:
        try:
            source = stack.enter_context(_from_web(signed.address, named, access.timeout_s))
        except RasterioError as error:
            if not any(_SENT_ELSEWHERE.search(text) for text in _chain(error)):
                raise
            last = _last_address(signed.address, named, access.timeout_s)
            source = stack.enter_context(_from_web(last, named, access.timeout_s))
        yield source


def _from_web(url: str, named: Collection[str], timeout_s: float) -> AbstractContextManager[Any]:
    address, headers = pinned(url, named)
    settings = environment(timeout_s)
    if login := login_of(url):
        settings.options.update({"GDAL_HTTP_AUTH": "BASIC", "GDAL_HTTP_USERPWD": ":".join(login)})
    settings.options.update(gdal_settings(address) | ({"GDAL_HTTP_HEADERS": headers} if headers else {}))
    return _dataset(f"/vsicurl/{address}", settings)


@contextmanager
def _dataset(path: str, settings: rasterio.Env) -> Iterator[Any]:
    with settings, DatasetReader(path, driver=list(_DRIVERS), sharing=False) as source:
        yield source


def _last_address(url: str, named: Collection[str], timeout_s: float) -> str:
    """Return where a server's redirections end, each of them checked: GDAL is kept from following any.

    Raises:
        UnsafeHref: one leads into this network.
        UnreadableAsset: there is no end, or no answer.
    """
    with WebSession(RetryPolicy(timeout_s, timeout_s, 0), named=named) as session:
        try:
            return session.get(url, headers={"Range": "bytes=0-15", "Accept-Encoding": "identity"}).url
        except SourceUnavailable as error:
            raise UnreadableAsset(str(error)) from None


def _check_blocks(source: Any, what: str) -> None:
    """Raise `InvalidItem` where a single block, which is always decoded whole, would fill the memory."""
    for (height, width), dtype in zip(source.block_shapes, source.dtypes, strict=True):
        together = source.count if source.profile.get("interleave") == "pixel" else 1
        size = height * width * np.dtype(dtype).itemsize * together
        if size > _LARGEST_BLOCK:
            raise InvalidItem(
                f"{what} is stored in blocks of {width} x {height} pixels, {size >> 20} MiB each; more than "
                f"{_LARGEST_BLOCK >> 20} MiB are not read. Store it in tiles of 512 pixels."
            )


def _settings(href: str, name: str, access: Access) -> rasterio.Env:
    """Return the GDAL settings for an href; AWS is asked for credentials only where S3 is read."""
    if not is_s3(href):
        return environment(access.timeout_s)
    try:
        with asking(s3_location(href), access.s3):
            return environment(access.timeout_s, access.s3)
    except AccessRefused as error:
        raise AccessRefused(f"{name}: {error}") from error


def _local_or_bucket(signed: SignedHref, name: str) -> str:
    """Return what GDAL opens.

    Raises:
        UnsafeHref: it is a virtual path of GDAL, of an unknown scheme, or its S3 key is not plain.
    """
    href = signed.address
    if is_s3(href):
        try:
            return s3_location(href).gdal_path
        except InvalidQuery as error:
            raise UnsafeHref(f"{name}: {error}") from error
    scheme, separator, rest = href.partition("://")
    if separator and scheme.lower() in _CLOUDS and ".." not in rest and rest.isprintable():
        return f"{_CLOUDS[scheme.lower()]}{rest}"
    path = os.path.abspath(unquote(urlsplit(href).path) if scheme.lower() == "file" else href)  # noqa: PTH100
    if (separator and scheme.lower() != "file") or path.lstrip("/").startswith("vsi"):
        raise UnsafeHref(f"{name}: {redact(href)} is neither a file nor an address; name the file itself.")
    return path


def _unreadable(error: Exception, signed: SignedHref, name: str, access: Access) -> StacError:
    """Return what a failed reading means. GDAL says little about why S3 refuses, so S3 is asked once more."""
    denied = any(_DENIED.search(text) for text in _chain(error))
    if signed.signed and denied:
        refused(signed, access.signing)
    reason = redact(str(error)).splitlines()[0] if str(error) else type(error).__name__
    if is_s3(signed.plain):
        try:
            Objects(access.s3, min(access.timeout_s, _ASKING_S)).probe(s3_location(signed.plain))
        except AccessRefused as refusal:
            return AccessRefused(f"{name}: {refusal}")
        except SourceUnavailable as silent:
            return UnreadableAsset(f"{name}: {silent}")
    remedy = "fetch the file again or leave the scene out"
    if denied:
        remedy = "access is denied: the signature in the address may have expired, search again for a new one"
    return UnreadableAsset(f"{name}: {redact(signed.plain)} cannot be read ({reason}); {remedy}.")


def _chain(error: BaseException | None) -> Iterator[str]:
    """Yield the messages of an error and its causes, GDAL's among them."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _without_secrets(error: Exception, signed: SignedHref) -> Exception | None:
    """Return the cause to show in a traceback: none when it may hold a token."""
    return None if "?" in signed.address else error


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


def epsg_code(crs: CRS) -> str:
    """Return the EPSG code of a projection, as `EPSG:32633`; empty where it has none.

    Codes are looked up by likeness: one that is not the same is not its code.
    """
    code = crs.to_epsg()
    return f"EPSG:{code}" if code is not None and CRS(f"EPSG:{code}") == crs else ""


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
        """The file's pixel grid; its projection goes by the EPSG code that it has, as in an item that names it."""
        crs = CRS(self.crs_wkt)
        return GeoBox(self.shape, Affine(*self.transform), epsg_code(crs) or crs)

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
