"""Opening rasters that a catalog names: with time-outs, few retries, and only formats that name no others."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import rasterio
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
from stac.io.objects import Objects, asking
from stac.io.s3 import BotocoreSession, S3Options, is_s3, s3_location
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
