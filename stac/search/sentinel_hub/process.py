"""Sentinel Hub's Process API as a source of pixels."""

from __future__ import annotations

import io
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

from stac.errors import InvalidItem, UnreadableAsset, UnsafeHref
from stac.io.http import RetryPolicy
from stac.search.providers import PROVIDERS, Protocol, Provider
from stac.search.sentinel_hub.client import Deployment, HubClient, session_of

#: Our own scheme; `stac.search.hrefs` lets no catalog name it.
_SCHEME = "sentinelhub"


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


#: The service's limit on one request's side, pixels
#: (https://docs.sentinel-hub.com/api/latest/reference/, `output.width`).
_LARGEST_SIDE = 2500
#: The Catalog gives times in whole seconds; neighbouring squares of a pass are further apart.
_AROUND = timedelta(seconds=1)
_MASK = "mask"
_SCL = "SCL"
_COLLECTIONS = {"sentinel-2-l2a": DataCollection.SENTINEL2_L2A}


@dataclass(frozen=True, slots=True)
class SceneBands:
    """Bands of one scene. Arrays share their last two axes `(y, x)`, north first."""

    #: Digital numbers `(band, y, x)`: reflectance * 10 000, harmonised (no offset); classes for SCL.
    dn: NDArray[np.uint16]
    #: Where the scene has data `(y, x)`.
    valid: NDArray[np.bool_]


class ProcessReader:
    """Reads bands of scenes with the credentials of the environment."""

    def __init__(self, provider: Provider, retry_policy: RetryPolicy | None = None) -> None:
        """Set whose service is asked and how it is waited for.

        Raises:
            AccessRefused: the credentials are missing or wrong.
            SourceUnavailable: no access token came in time.
        """
        self._provider = provider
        self._retry_policy = provider.retry_policy(retry_policy or RetryPolicy())
        self._session = session_of(Deployment.from_environment(provider), self._retry_policy)

    def read(
        self, collection: str, instant: datetime, geobox: GeoBox, bands: Sequence[str], *, nearest: bool = False
    ) -> SceneBands:
        """Return bands of what was taken at an instant, in requests of at most 2500 pixels a side.

        Args:
            collection: a collection of the service.
            instant: acquisition time of the scene.
            geobox: grid of the result, north up, in a system with an EPSG code.
            bands: the service's names, such as `B02` or `SCL`.
            nearest: whether a band coarser than the grid is repeated instead of interpolated.

        Raises:
            InvalidItem: the collection or the grid is none the service has.
            InvalidQuery, AccessRefused, SourceUnavailable: the service refuses.
            UnreadableAsset: the answer is not what was asked for.
        """
        height, width = geobox.shape
        dn, valid = np.zeros((len(bands), height, width), np.uint16), np.zeros((height, width), np.bool_)
        for rows, columns, part in _parts(geobox):
            answer = self._read_part(collection, instant, part, bands, nearest)
            dn[:, rows, columns], valid[rows, columns] = answer.dn, answer.valid
        return SceneBands(dn, valid)

    def _read_part(
        self, collection: str, instant: datetime, geobox: GeoBox, bands: Sequence[str], nearest: bool
    ) -> SceneBands:
        request = _request(collection, instant, geobox, bands, nearest, self._session.config)
        # The library would ask the deployment its record of the collection names.
        request.download_list[0].url = f"{self._session.config.sh_base_url}/api/v1/process"
        client = HubClient(self._session, self._retry_policy, self._provider.requests_per_s)
        [answer] = client.download(request.download_list, max_threads=1, decode_data=False)
        images = _images(answer.content, (*bands, _MASK), geobox.shape)
        return SceneBands(np.stack([images[band] for band in bands]).astype(np.uint16), images[_MASK] > 0)


def read_band(href: str, geobox: GeoBox, nodata: int, timeout_s: float, *, nearest: bool) -> NDArray[Any]:
    """Return the band at a Process API address on the pixels `(y, x)` of a grid.

    Pixels outside the scene are `nodata`; a reflectance the service rounded to 0 is 1, so that data stay data.

    Raises:
        StacError: see `ProcessReader.read`.
    """
    address = BandAddress.parse(href)
    reader = ProcessReader(address.provider, RetryPolicy(timeout_s=timeout_s))
    bands = reader.read(address.collection, address.instant, geobox, [address.band], nearest=nearest)
    dn = bands.dn[0] if address.band == _SCL else np.maximum(bands.dn[0], 1)
    return np.where(bands.valid, dn, nodata).astype(np.uint8 if address.band == _SCL else np.uint16)


def _parts(geobox: GeoBox) -> Iterator[tuple[slice, slice, GeoBox]]:
    """Yield (rows, columns, grid) of parts no larger than a request may be."""
    tiles = GeoboxTiles(geobox, (_LARGEST_SIDE, _LARGEST_SIDE))
    for row, column in np.ndindex(*tiles.shape):
        rows, columns = (
            slice(start, min(start + _LARGEST_SIDE, size))
            for start, size in zip((row * _LARGEST_SIDE, column * _LARGEST_SIDE), geobox.shape, strict=True)
        )
        yield rows, columns, tiles[row, column]


def _request(
    collection: str, instant: datetime, geobox: GeoBox, bands: Sequence[str], nearest: bool, config: SHConfig
) -> SentinelHubRequest:
    if collection not in _COLLECTIONS:
        raise InvalidItem(
            f"Collection {collection!r} is not read through the Process API; use {', '.join(_COLLECTIONS)}."
        )
    if geobox.crs is None or geobox.crs.epsg is None or not geobox.affine.is_rectilinear or geobox.affine.e > 0:
        raise InvalidItem("The Process API needs a north-up grid in a reference system with an EPSG code.")
    box, (height, width) = geobox.boundingbox, geobox.shape
    resampling = ResamplingType.NEAREST if nearest else ResamplingType.BILINEAR
    moment = instant.astimezone(UTC)
    scene = SentinelHubRequest.input_data(
        _COLLECTIONS[collection],
        time_interval=(moment - _AROUND, moment + _AROUND),
        upsampling=resampling,
        downsampling=resampling,
        other_args={"processing": {"harmonizeValues": True}},
    )
    return SentinelHubRequest(
        evalscript=_evalscript(bands),
        input_data=[scene],
        responses=[SentinelHubRequest.output_response(name, MimeType.TIFF) for name in (*bands, _MASK)],
        bbox=BBox((box.left, box.bottom, box.right, box.top), CRS(geobox.crs.epsg)),
        size=(width, height),
        config=config,
    )


def _evalscript(bands: Sequence[str]) -> str:
    """Return the script that hands the bands out as they are, and where there are data."""
    setup = {
        "input": [{"bands": [*bands, "dataMask"], "units": "DN"}],
        "output": [
            *({"id": band, "bands": 1, "sampleType": "UINT8" if band == _SCL else "UINT16"} for band in bands),
            {"id": _MASK, "bands": 1, "sampleType": "UINT8"},
        ],
    }
    pixel = ", ".join([*(f"{band}: [sample.{band}]" for band in bands), f"{_MASK}: [sample.dataMask]"])
    return (
        "//VERSION=3\n"
        f"function setup() {{ return {json.dumps(setup)}; }}\n"
        f"function evaluatePixel(sample) {{ return {{{pixel}}}; }}\n"
    )


def _images(content: bytes, names: Sequence[str], shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Return the images of an answer by name.

    Raises:
        UnreadableAsset: one is missing, of another size, or no TIFF.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as answer:
            images = {name: _image(answer, f"{name}.tif") for name in names}
    except (tarfile.TarError, tifffile.TiffFileError, KeyError, ValueError, OSError, EOFError) as error:
        raise UnreadableAsset(
            f"The Process API sends no readable image ({type(error).__name__}: {error}); try again."
        ) from error
    for name, image in images.items():
        if image.shape != tuple(shape) or image.dtype.kind != "u":
            raise UnreadableAsset(f"The Process API sends {name} as {image.dtype}{image.shape}, expected {shape}.")
    return images


def _image(answer: tarfile.TarFile, name: str) -> NDArray[Any]:
    """Return one image of an answer; it is read in memory, nothing is unpacked."""
    file = answer.extractfile(name)
    if file is None:
        raise KeyError(name)
    return np.asarray(tifffile.imread(io.BytesIO(file.read())))
