"""Opening rasters that a catalog names: with time-outs, few retries, and only formats that name no others."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.errors import CRSError, RasterioError

from stac.access import Access
from stac.access.locations import is_s3, s3_location
from stac.access.objects import Objects, asking
from stac.access.redaction import redact
from stac.access.s3 import BotocoreSession, S3Options
from stac.access.signing import SignedHref, refused, sign
from stac.errors import (
    AccessRefused,
    InvalidItem,
    InvalidQuery,
    SourceUnavailable,
    StacError,
    UnreadableAsset,
    UnsafeHref,
)

#: A VRT or a service description could name other files of this machine.
_DRIVERS = ("GTiff", "JP2OpenJPEG")
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
        GDAL_HTTP_LOW_SPEED_TIME=seconds,
        GDAL_HTTP_LOW_SPEED_LIMIT=_SLOWEST,
        GDAL_HTTP_MAX_RETRY=3,
        GDAL_HTTP_RETRY_DELAY=1,
        CPL_VSIL_CURL_USE_HEAD=False,
        CPL_VSIL_CURL_NON_CACHED="/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",
        **(s3.gdal() if s3 is not None else {}),
    )


@contextmanager
def open_raster(
    href: str, name: str, timeout_s: float, access: Access = _DIRECT, collection: str = ""
) -> Iterator[Any]:
    """Open a raster for reading as a rasterio dataset; errors while it is read are translated too.

    A token that was refused is forgotten, so that the next attempt asks for another.

    Args:
        href: path or URL, also `s3://bucket/key`.
        name: what it is, for messages: `Item S2A_..., asset blue`.
        timeout_s: longest wait for one request, seconds.
        access: how remote bytes are reached: signing and S3.
        collection: id of the item's collection, which tokens are for.

    Raises:
        InvalidItem: it is of another format, or does not say where it lies.
        UnsafeHref: its S3 key is not plain.
        AccessRefused: a bucket or the token service denies it, or the bucket does not exist.
        SourceUnavailable: the token service does not answer.
        UnreadableAsset: it is missing, truncated or no raster, or its server does not answer.
    """
    signed = sign(href, collection, access.signing, timeout_s)
    path, settings = _gdal_path(signed, name), _settings(href, name, timeout_s, access)
    try:
        with settings, rasterio.open(path) as source:
            if source.driver not in _DRIVERS:
                raise InvalidItem(
                    f"{name}: {redact(href)} is of kind {source.driver}; only GeoTIFF and JPEG 2000 files are read."
                )
            if source.crs is None:
                raise InvalidItem(f"{name}: {redact(href)} has no projection.")
            yield source
    except (RasterioError, CRSError) as error:
        raise _unreadable(error, signed, name, timeout_s, access) from _without_secrets(error, signed)


def _settings(href: str, name: str, timeout_s: float, access: Access) -> rasterio.Env:
    """Return the GDAL settings for an href; AWS is asked for credentials only where S3 is read."""
    if not is_s3(href):
        return environment(timeout_s)
    try:
        with asking(s3_location(href), access.s3):
            return environment(timeout_s, access.s3)
    except AccessRefused as error:
        raise AccessRefused(f"{name}: {error}") from error


def _gdal_path(signed: SignedHref, name: str) -> str:
    """Return what GDAL opens.

    rasterio would look for a session of its own behind `s3://`; `/vsis3/` takes the settings of `environment`.
    """
    if not is_s3(signed.plain):
        return signed.address
    try:
        return s3_location(signed.plain).gdal_path
    except InvalidQuery as error:
        raise UnsafeHref(f"{name}: {error}") from error


def _unreadable(error: Exception, signed: SignedHref, name: str, timeout_s: float, access: Access) -> StacError:
    """Return what a failed reading means. GDAL says little about why S3 refuses, so S3 is asked once more."""
    if signed.signed and any(_DENIED.search(text) for text in _chain(error)):
        refused(signed, access.signing)
    reason = redact(str(error)).splitlines()[0] if str(error) else type(error).__name__
    if is_s3(signed.plain):
        try:
            Objects(access.s3, min(timeout_s, _ASKING_S)).probe(s3_location(signed.plain))
        except AccessRefused as denied:
            return AccessRefused(f"{name}: {denied}")
        except SourceUnavailable as silent:
            return UnreadableAsset(f"{name}: {silent}")
    return UnreadableAsset(
        f"{name}: {redact(signed.plain)} cannot be read ({reason}); fetch the file again or leave the scene out."
    )


def _chain(error: BaseException | None) -> Iterator[str]:
    """Yield the messages of an error and its causes, GDAL's among them."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _without_secrets(error: Exception, signed: SignedHref) -> Exception | None:
    """Return the cause to show in a traceback: none when it may hold a token."""
    return None if "?" in signed.address else error
