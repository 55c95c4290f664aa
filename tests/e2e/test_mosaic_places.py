"""`unveil mosaic` on the border of two UTM zones, across the antimeridian, and over open sea."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.warp import transform

from stac.product.layers import Provenance
from tests.command import TINY_SETTINGS, unveil
from tests.faults.world import SENTINEL2, write
from tests.support.catalogs import problems_in

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]
BANDS = ("blue", "green", "red", "nir")
LEVELS = np.array([500, 800, 700, 3000])[:, None, None]
DAYS = ("2023-08-05", "2023-08-10", "2023-08-15")
SIDE, PIXEL = 160, 120.0


def ground(longitude: NDArray[np.float64], latitude: NDArray[np.float64], sea: bool) -> NDArray[np.uint16]:
    """Return digital numbers `(band, y, x)` that follow from the place alone, in whatever projection it is drawn."""
    if sea:
        return np.broadcast_to(LEVELS // 10, (4, *longitude.shape)).astype(np.uint16)
    waves = 1 + 0.2 * np.sin(longitude * 150) * np.cos(latitude * 150)
    return np.rint(LEVELS * waves).astype(np.uint16)


class Place:
    """A catalog of one place: three dates, each drawn in the projection of both zones; the second is half cloudy."""

    def __init__(self, folder: Path, longitude: float, latitude: float, zones: tuple[int, int], sea: bool) -> None:
        self.folder, self.sea = folder, sea
        folder.mkdir()
        links = []
        for zone in zones:
            for number, day in enumerate(DAYS):
                name = self.scene(zone, day, longitude, latitude, cloudy=number == 1)
                links.append({"rel": "item", "href": f"./{name}.json"})
        extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
        root = {"type": "Collection", "stac_version": "1.0.0", "id": "sentinel-2-l2a", "description": "-"}
        root |= {"license": "CC0-1.0", "extent": extent, "links": links}
        (folder / "catalog.json").write_text(json.dumps(root))

    def scene(self, zone: int, day: str, longitude: float, latitude: float, *, cloudy: bool) -> str:
        name, crs = f"S2A_{zone:02}XXX_{day.replace('-', '')}_0_L2A", f"EPSG:326{zone:02}"
        to_grid = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        x, y = to_grid.transform(longitude, latitude)
        left, top = (round(edge / PIXEL) * PIXEL for edge in (x - SIDE / 2 * PIXEL, y + SIDE / 2 * PIXEL))
        affine = rasterio.Affine(PIXEL, 0, left, 0, -PIXEL, top)
        columns, rows = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
        lon, lat = to_grid.transform(*(affine @ (columns, rows)), direction="INVERSE")
        dn, scl = ground(lon, lat, self.sea), np.full((SIDE, SIDE), 6 if self.sea else 4, np.uint8)
        if cloudy:
            dn[:, : SIDE // 2], scl[: SIDE // 2] = 8000, 9
        for band, values in zip(BANDS, dn, strict=True):
            # Files of this processing baseline hold 1000 more.
            write(self.folder / f"{name}-{band}.tif", values + np.uint16(1000), crs=crs, transform=affine)
        write(self.folder / f"{name}-scl.tif", scl, crs=crs, transform=affine)
        edge = [0, SIDE, SIDE, 0, 0], [SIDE, SIDE, 0, 0, SIDE]
        ring_x, ring_y = to_grid.transform(*(affine @ np.array(edge)), direction="INVERSE")
        across = longitude > 179
        ring = [[float(a % 360 if across else a), float(b)] for a, b in zip(ring_x, ring_y, strict=True)]
        assets = {key: {"href": f"./{name}-{key}.tif", "type": "image/tiff"} for key in (*BANDS, "scl")}
        properties = {"datetime": f"{day}T10:00:00Z", "eo:cloud_cover": 30.0 if cloudy else 0.0, **SENTINEL2}
        properties |= {"grid:code": f"MGRS-{zone:02}XXX"}
        document = {"type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name, "links": []}
        document |= {"collection": "sentinel-2-l2a", "properties": properties, "assets": assets}
        document |= {"geometry": {"type": "Polygon", "coordinates": [ring]}}
        document |= {"bbox": [*np.min(ring, axis=0), *np.max(ring, axis=0)]}
        (self.folder / f"{name}.json").write_text(json.dumps(document))
        return name


@pytest.mark.parametrize(
    ("longitude", "latitude", "zones", "box", "sea"),
    [
        pytest.param(18.0, 45.8, (33, 34), "17.95,45.77,18.05,45.83", False, id="two zones"),
        pytest.param(180.0, 66.0, (60, 1), "179.93,65.98,-179.93,66.02", False, id="antimeridian"),
        pytest.param(18.0, 43.0, (33, 34), "17.95,42.97,18.05,43.03", True, id="open sea"),
    ],
)
def test_a_region_of_two_projections_is_one_mosaic(
    longitude: float,
    latitude: float,
    zones: tuple[int, int],
    box: str,
    sea: bool,
    tmp_path: Path,
    services: dict[str, str],
) -> None:
    place, out = Place(tmp_path / "source", longitude, latitude, zones, sea), tmp_path / "out"
    where = ("--source", place.folder / "catalog.json", "--bbox", box, "--name", "place", "--out", out)
    grid = ("--grid", "fixed", "--resolution", "120", "--cell-size", "64")
    when = ("--datetime", "2023-08-01/2023-08-31", "--period", "month")
    made = unveil("mosaic", *where, *grid, *when, "--json", home=tmp_path / "home", extra=TINY_SETTINGS | services)
    assert made.status == 0, made.err
    assert problems_in(out) == []
    items = [json.loads(p.read_text()) for p in (out / "unveil-mosaics").glob("*/place-*.json")]
    cells = [item for item in items if "unveil:cells" not in item["properties"]]
    assert {item["properties"]["proj:code"] for item in cells} == {f"EPSG:326{zone:02}" for zone in zones}
    for item in cells:
        check_pixels(out / "unveil-mosaics" / item["id"], sea)
    (region,) = [item for item in items if "unveil:cells" in item["properties"]]
    listed = json.loads((out / "unveil-mosaics" / region["id"] / "mosaic.json").read_text())
    assert abs(abs(listed["center"][0]) - longitude) < 0.5 and listed["quadkey_zoom"] > 5
    west, _, east, _ = region["bbox"]
    assert (west > east) == (abs(longitude) > 179) and {f"data-epsg326{zone:02}" for zone in zones} <= set(
        region["assets"]
    )


def check_pixels(folder: Path, sea: bool) -> None:
    """Every pixel that the cell owns is the ground of its place; the rest is nodata."""
    with rasterio.open(folder / "data.tif") as source:
        data, crs, affine = source.read(), source.crs, source.transform
    with rasterio.open(folder / "provenance.tif") as source:
        provenance = source.read(1)
    seen = np.isin(provenance, (Provenance.OBSERVED, Provenance.OTHER_DATES))
    assert seen.any()
    rows, columns = np.nonzero(seen)
    xs, ys = affine @ (columns + 0.5, rows + 0.5)
    lon, lat = (np.array(each) for each in transform(crs, "EPSG:4326", list(xs), list(ys)))
    truth = ground(lon[None], lat[None], sea)[:, 0].astype(np.float64)
    error: Any = np.abs(data[:, seen] - truth)
    assert np.percentile(error, 95) < 60, "resampled by half a pixel at most"
    assert (data[:, provenance == Provenance.NODATA] == 0).all()
