"""Sentinel Hub's Process API as a source of pixels."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import numpy as np
import tifffile
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox, GeoboxTiles
from sentinelhub import CRS, BBox, DataCollection, MimeType, ResamplingType, SentinelHubRequest, SHConfig
from sentinelhub.decoding import decode_tar

from stac.errors import InvalidItem, UnreadableAsset, UnsafeHref
from stac.io.http import RetryPolicy
from stac.search.providers import PROVIDERS, Protocol, Provider
from stac.search.sentinel_hub.client import Deployment, HubClient, session_of

#: Our own scheme; `stac.search.hrefs` lets no catalog name it.
_SCHEME = "sentinelhub"
#: The service's limit on one request's side, pixels
#: (https://docs.sentinel-hub.com/api/latest/reference/, `output.width`).
_LARGEST_SIDE = 2500
#: The Catalog gives times in whole seconds; neighbouring squares of a pass are further apart.
_AROUND = timedelta(seconds=1)
_MASK = "mask"
_SCL = "SCL"
_COLLECTIONS = {"sentinel-2-l2a": DataCollection.SENTINEL2_L2A}


@dataclass(frozen=True, slots=True)
class BandAddress:
    """One band of one scene: `sentinelhub://PROVIDER/COLLECTION/BAND?time=INSTANT`."""

    #: Whose service; the host is taken from its record, so that a token is sent nowhere else.
    provider: Provider
    collection: str
    band: str
    #: Acquisition time in UTC.
    instant: datetime

    @property
    def href(self) -> str:
        """The address as text."""
        path = f"{quote(self.collection, safe='')}/{quote(self.band, safe='')}"
        time = self.instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return f"{_SCHEME}://{self.provider.name}/{path}?{urlencode({'time': time})}"

    @classmethod
    def parse(cls, href: str) -> BandAddress:
        """Read an address.

        Raises:
            UnsafeHref: it is none, or names no Sentinel Hub that is known.
        """
        parts = urlsplit(href)
        provider = PROVIDERS.get(parts.netloc)
        steps = parts.path.strip("/").split("/")
        times = parse_qs(parts.query).get("time", [])
        if provider is None or provider.protocol is not Protocol.SENTINEL_HUB or len(steps) != 2 or len(times) != 1:
            raise UnsafeHref(f"{href!r} names no band of a Sentinel Hub.")
        try:
            return cls(provider, steps[0], steps[1], datetime.fromisoformat(times[0]))
        except ValueError as error:
            raise UnsafeHref(f"{href!r} names no acquisition time.") from error


def is_process_href(href: str) -> bool:
    """Return whether an href is answered by the Process API instead of a file."""
    return href.startswith(f"{_SCHEME}://")


def read_band(href: str, geobox: GeoBox, nodata: int, timeout_s: float, *, nearest: bool) -> NDArray[Any]:
    """Return the band at a Process API address on the pixels `(y, x)` of a grid: reflectance * 10 000, or classes.

    Reflectance is harmonised: no offset is left. Pixels outside the scene are `nodata`; a reflectance the service
    rounded to 0 is 1, so that data stay data. A request has at most 2500 pixels a side.

    Args:
        href: the address.
        geobox: grid of the result, north up, in a system with an EPSG code.
        nodata: value outside the scene.
        timeout_s: longest wait for one request, seconds.
        nearest: whether a band coarser than the grid is repeated instead of interpolated.

    Raises:
        UnsafeHref: the address names no band of a service that is known.
        InvalidItem: the collection or the grid is none the service has.
        InvalidQuery, AccessRefused, SourceUnavailable: the service refuses.
        UnreadableAsset: the answer is not what was asked for.
    """
    address = BandAddress.parse(href)
    provider = address.provider
    retry_policy = provider.retry_policy(RetryPolicy(timeout_s=timeout_s))
    session = session_of(Deployment.from_environment(provider), retry_policy)
    pixels = np.empty(geobox.shape, np.uint8 if address.band == _SCL else np.uint16)
    for rows, columns, part in _parts(geobox):
        request = _request(address, part, nearest, session.config)
        # The library would ask the deployment its record of the collection names.
        request.download_list[0].url = f"{session.config.sh_base_url}/api/v1/process"
        client = HubClient(session, retry_policy, provider.requests_per_s)
        [answer] = client.download(request.download_list, max_threads=1, decode_data=False)
        band, mask = _images(answer.content, (address.band, _MASK), part.shape)
        data = band if address.band == _SCL else np.maximum(band, 1)
        pixels[rows, columns] = np.where(mask > 0, data, nodata)
    return pixels


def _parts(geobox: GeoBox) -> Iterator[tuple[slice, slice, GeoBox]]:
    """Yield (rows, columns, grid) of parts no larger than a request may be."""
    tiles = GeoboxTiles(geobox, (_LARGEST_SIDE, _LARGEST_SIDE))
    for at in np.ndindex(*tiles.shape):
        yield *tiles.roi[at], tiles[at]


def _request(address: BandAddress, geobox: GeoBox, nearest: bool, config: SHConfig) -> SentinelHubRequest:
    if address.collection not in _COLLECTIONS:
        raise InvalidItem(
            f"Collection {address.collection!r} is not read through the Process API; use {', '.join(_COLLECTIONS)}."
        )
    if geobox.crs is None or geobox.crs.epsg is None or not geobox.affine.is_rectilinear or geobox.affine.e > 0:
        raise InvalidItem("The Process API needs a north-up grid in a reference system with an EPSG code.")
    box, (height, width) = geobox.boundingbox, geobox.shape
    resampling = ResamplingType.NEAREST if nearest else ResamplingType.BILINEAR
    moment = address.instant.astimezone(UTC)
    scene = SentinelHubRequest.input_data(
        _COLLECTIONS[address.collection],
        time_interval=(moment - _AROUND, moment + _AROUND),
        upsampling=resampling,
        downsampling=resampling,
        other_args={"processing": {"harmonizeValues": True}},
    )
    return SentinelHubRequest(
        evalscript=_evalscript(address.band),
        input_data=[scene],
        responses=[SentinelHubRequest.output_response(name, MimeType.TIFF) for name in (address.band, _MASK)],
        bbox=BBox((box.left, box.bottom, box.right, box.top), CRS(geobox.crs.epsg)),
        size=(width, height),
        config=config,
    )


def _evalscript(band: str) -> str:
    """Return the script that hands a band out as it is, and where there are data."""
    types = {band: "UINT8" if band == _SCL else "UINT16", _MASK: "UINT8"}
    setup = {
        "input": [{"bands": [band, "dataMask"], "units": "DN"}],
        "output": [{"id": name, "bands": 1, "sampleType": kind} for name, kind in types.items()],
    }
    pixel = f"{band}: [sample.{band}], {_MASK}: [sample.dataMask]"
    return (
        "//VERSION=3\n"
        f"function setup() {{ return {json.dumps(setup)}; }}\n"
        f"function evaluatePixel(sample) {{ return {{{pixel}}}; }}\n"
    )


def _images(content: bytes, names: Sequence[str], shape: tuple[int, int]) -> list[NDArray[Any]]:
    """Return the images of an answer; it is read in memory, nothing is unpacked.

    Raises:
        UnreadableAsset: one is missing, of another size, or no TIFF.
    """
    try:
        found = decode_tar(content)
        images = [np.asarray(found[f"{name}.tif"]) for name in names]
    except (tarfile.TarError, tifffile.TiffFileError, KeyError, ValueError, OSError, EOFError) as error:
        raise UnreadableAsset(
            f"The Process API sends no readable image ({type(error).__name__}: {error}); try again."
        ) from error
    for name, image in zip(names, images, strict=True):
        if image.shape != tuple(shape) or image.dtype.kind != "u":
            raise UnreadableAsset(f"The Process API sends {name} as {image.dtype}{image.shape}, expected {shape}.")
    return images
