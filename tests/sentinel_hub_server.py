"""A Sentinel Hub on loopback: tokens, Catalog and Process API, answered from the shipped sample."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import rasterio
import shapely
import tifffile
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT
from shapely.geometry import shape

from stac.search.static import sample_catalog
from tests.misbehaving_server import Asked, Reply, web_server

CLIENT_ID, CLIENT_SECRET = "client-of-the-test", "secret-of-the-test"
_CATALOG = "/api/v1/catalog/1.0.0"
#: Tiles of the sample on Sentinel-2's own 10 m grid: west, south, east, north.
_TILES = {"33TWL": (499980, 4990200, 609780, 5100000), "33TWM": (499980, 5090220, 609780, 5200020)}


def units_of(width: int, height: int, bands: int) -> float:
    """Return what a request of 16-bit pixels costs: a unit buys 512 x 512 pixels of three bands.

    https://docs.sentinel-hub.com/api/latest/api/overview/processing-unit/.
    """
    return max(0.005, max(0.01, width * height / (512 * 512)) * bands / 3)


@dataclass(slots=True)
class SentinelHub:
    """Answers requests of clients that hold a valid token."""

    #: What goes wrong: one for each request of that kind, first come, first served.
    token_troubles: list[Reply] = field(default_factory=list)
    search_troubles: list[Reply] = field(default_factory=list)
    process_troubles: list[Reply] = field(default_factory=list)
    expires_in: float = 3600
    tokens: list[str] = field(default_factory=list)
    #: Tokens that end before they should.
    revoked: set[str] = field(default_factory=set)
    searches: list[dict[str, Any]] = field(default_factory=list)
    processed: list[dict[str, Any]] = field(default_factory=list)
    #: Answer every page with the same `next`.
    circles: bool = False

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/oauth/token":
            return self._token(asked)
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens or token in self.revoked:
            return Reply(401, {"error": {"status": 401, "message": "Token is expired or invalid"}})
        if asked.path.startswith(_CATALOG):
            return self._catalog(asked)
        if asked.path == "/api/v1/process":
            return self._process(asked)
        return Reply(404, {"error": {"status": 404, "message": "Not Found"}})

    def _token(self, asked: Asked) -> Reply:
        if self.token_troubles:
            return self.token_troubles.pop(0)
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        if form != {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}:
            return Reply(401, {"error": "invalid_client"})
        self.tokens.append(f"token-{len(self.tokens)}")
        return Reply(content={"access_token": self.tokens[-1], "token_type": "bearer", "expires_in": self.expires_in})

    def _catalog(self, asked: Asked) -> Reply:
        rest = asked.path.removeprefix(_CATALOG)
        described = {"type": "Collection", "id": "sentinel-2-l2a", "title": "Sentinel 2 L2A", "license": "other"}
        if rest == "/collections":
            return Reply(content={"collections": [described, {**described, "id": "sentinel-1-grd"}]})
        if rest != "/search":
            known = rest == "/collections/sentinel-2-l2a"
            return Reply(content=described) if known else Reply(404, {"code": 404, "description": "Not Found"})
        if self.search_troubles:
            return self.search_troubles.pop(0)
        return self._search(asked.json())

    def _search(self, query: dict[str, Any]) -> Reply:
        self.searches.append(query)
        start, end = (datetime.fromisoformat(moment) for moment in query["datetime"].split("/"))
        found = [feature for feature in features() if start <= _time(feature) <= end]
        if "bbox" in query:
            area = shapely.box(*query["bbox"])
            found = [feature for feature in found if shape(feature["geometry"]).intersects(area)]
        first, limit = query.get("next", 0), query["limit"]
        page = found[first : first + limit]
        context: dict[str, Any] = {"limit": limit, "returned": len(page)}
        if first + limit < len(found):
            context["next"] = 0 if self.circles else first + limit
        return Reply(content={"type": "FeatureCollection", "features": page, "links": [], "context": context})

    def _process(self, asked: Asked) -> Reply:
        if self.process_troubles:
            return self.process_troubles.pop(0)
        request = asked.json()
        self.processed.append(request)
        bands = [response["identifier"] for response in request["output"]["responses"]]
        width, height = request["output"]["width"], request["output"]["height"]
        if max(width, height) > 2500:
            return Reply(400, {"error": {"status": 400, "message": "width and height must be at most 2500"}})
        units = units_of(width, height, len(bands) - 1)
        return Reply(
            content=_tar(request, bands),
            headers={"Content-Type": "application/x-tar", "X-ProcessingUnits-Spent": str(units)},
        )


def sample_items() -> dict[str, dict[str, Any]]:
    paths = sorted(sample_catalog().parent.glob("S2*/*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def product_name(item: dict[str, Any]) -> str:
    """The scene's name in the archive of ESA, which is its id in the Catalog."""
    return str(item["properties"]["s2:product_uri"]).removesuffix(".SAFE")


def features() -> list[dict[str, Any]]:
    """The sample as the Catalog describes it."""
    found = []
    for item in sample_items().values():
        tile = item["properties"]["grid:code"].removeprefix("MGRS-")
        found.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": product_name(item),
                "collection": "sentinel-2-l2a",
                "geometry": item["geometry"],
                "bbox": item["bbox"],
                "properties": {
                    "datetime": _time(item).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "platform": item["properties"]["platform"],
                    "constellation": "sentinel-2",
                    "eo:cloud_cover": item["properties"]["eo:cloud_cover"],
                    "gsd": 10,
                    "proj:epsg": 32633,
                    "proj:bbox": list(_TILES[tile]),
                },
                "links": [],
                "assets": {"data": {"href": f"s3://sentinel-s2-l2a/tiles/{tile}", "title": "s3"}},
            }
        )
    return sorted(found, key=lambda feature: str(feature["id"]))


def _time(document: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(document["properties"]["datetime"]).replace(microsecond=0)


def _tar(request: dict[str, Any], bands: list[str]) -> bytes:
    images = {band: _pixels(request, band) for band in bands if band != "mask"}
    # dataMask: 0 where a band has no data (https://docs.sentinel-hub.com/api/latest/user-guides/datamask/)
    images["mask"] = np.all([image > 0 for image in images.values()], axis=0).astype(np.uint8)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for band in bands:
            image = io.BytesIO()
            tifffile.imwrite(image, images[band])
            member = tarfile.TarInfo(f"{band}.tif")
            member.size = image.tell()
            image.seek(0)
            archive.addfile(member, image)
    return out.getvalue()


def _pixels(request: dict[str, Any], band: str) -> np.ndarray:
    """What the script of the request hands out for one of its outputs, on the grid it asks for."""
    assert re.search(rf'"id": "{band}"', request["evalscript"]) and "dataMask" in request["evalscript"]
    [scene] = request["input"]["data"]
    span = scene["dataFilter"]["timeRange"]
    start, end = datetime.fromisoformat(span["from"]), datetime.fromisoformat(span["to"])
    width, height = request["output"]["width"], request["output"]["height"]
    bounds = request["input"]["bounds"]
    resampling = Resampling[scene["processing"]["upsampling"].lower()]
    pixels = np.zeros((height, width), np.uint8 if band == "SCL" else np.uint16)
    for name, item in sample_items().items():
        if not start <= _time(item) <= end:
            continue
        path = Path(sample_catalog().parent, name, f"{band}.tif")
        grid = {
            "crs": f"EPSG:{bounds['properties']['crs'].rsplit('/', 1)[1]}",
            "transform": from_bounds(*bounds["bbox"], width, height),
            "width": width,
            "height": height,
        }
        with rasterio.open(path) as file, WarpedVRT(file, resampling=resampling, **grid) as warped:
            found = warped.read(1)
        pixels = np.where(found > 0, found, pixels).astype(pixels.dtype)
    return pixels


@contextmanager
def sentinel_hub(service: SentinelHub) -> Iterator[str]:
    """Serve while the context is open; yields the base address."""
    with web_server(service) as url:
        yield url.rstrip("/")
