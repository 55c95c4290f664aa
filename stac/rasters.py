"""Opening rasters that a catalog names: with time-outs, few retries, and only formats that name no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.errors import CRSError, RasterioError

from stac.errors import InvalidItem, UnreadableAsset

#: A VRT or a service description could name other files of this machine.
_DRIVERS = ("GTiff", "JP2OpenJPEG")
#: A transfer slower than this for the whole time-out is given up, bytes per second.
_SLOWEST = 1_000


def environment(timeout_s: float) -> rasterio.Env:
    """Return GDAL settings with time-outs and few retries, and without listing folders on servers.

    Nothing is remembered about a remote file between two attempts, so that a retry really asks again, and
    no HEAD request is sent, which signed addresses refuse. GDAL's settings belong to a thread.

    Args:
        timeout_s: longest wait for one request, seconds.
    """
    seconds = max(1, round(timeout_s))
    return rasterio.Env(
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
    )


@contextmanager
def open_raster(href: str, name: str, timeout_s: float) -> Iterator[Any]:
    """Open a raster for reading as a rasterio dataset; errors while it is read are translated too.

    Args:
        href: path or URL.
        name: what it is, for messages: `Item S2A_..., asset blue`.
        timeout_s: longest wait for one request, seconds.

    Raises:
        InvalidItem: it is of another format, or does not say where it lies.
        UnreadableAsset: it is missing, truncated or no raster.
    """
    try:
        with environment(timeout_s), rasterio.open(href) as source:
            if source.driver not in _DRIVERS:
                raise InvalidItem(
                    f"{name}: {href} is of kind {source.driver}; only GeoTIFF and JPEG 2000 files are read."
                )
            if source.crs is None:
                raise InvalidItem(f"{name}: {href} has no projection.")
            yield source
    except (RasterioError, CRSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableAsset(
            f"{name}: {href} cannot be read ({reason}); fetch the file again or leave the scene out."
        ) from error
