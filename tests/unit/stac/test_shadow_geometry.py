"""Where clouds throw their shadows, and what the temporal check makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from stac.masks.classes import PixelClass
from stac.masks.shadow_geometry import Sun, cast, sun_at
from stac.masks.temporal import Near, suspicious
from tests.unit.stac.test_temporal_mask import BANDS, DAYS, PATCH, field

GRID = GeoBox((200, 200), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")
PLACE = (15.01, 45.14)


def test_the_sun_stands_where_the_scenes_say(twl: list[pystac.Item]) -> None:
    for item in twl:
        assert item.datetime is not None and item.bbox is not None
        west, south, east, north = item.bbox
        sun = sun_at(item.datetime, (west + east) / 2, (south + north) / 2)
        # Scenes give the mean of the whole tile, of which this is a part.
        assert sun.azimuth == pytest.approx(item.properties["view:sun_azimuth"], abs=1.0)
        assert sun.elevation == pytest.approx(item.properties["view:sun_elevation"], abs=0.5)


@pytest.mark.parametrize(
    ("instant", "place", "azimuth", "elevation"),
    [
        (datetime(2024, 6, 20, 20, 51, tzinfo=UTC), (0.0, 90.0), None, 23.44),  # solstice at the pole
        (datetime(2024, 3, 20, 12, 7, 30, tzinfo=UTC), (0.0, 0.0), None, 89.9),  # equinox, noon at the equator
        (datetime(2024, 12, 21, 12, 0, tzinfo=UTC), (0.0, 51.48), 180.5, 15.1),  # winter noon at Greenwich
        (datetime(2024, 12, 21, 0, 0, tzinfo=UTC), (179.0, -17.0), 178.0, 83.5),  # summer noon in Fiji, to the south
    ],
)
def test_the_sun_at_known_moments(
    instant: datetime, place: tuple[float, float], azimuth: float | None, elevation: float
) -> None:
    sun = sun_at(instant, *place)
    assert sun.elevation == pytest.approx(elevation, abs=0.3)
    if azimuth is not None:
        assert sun.azimuth == pytest.approx(azimuth, abs=3.0)


def test_a_shadow_falls_away_from_the_sun_as_far_as_heights_reach() -> None:
    cloud = np.zeros(GRID.shape, bool)
    cloud[150, 150] = True
    shaded = cast(cloud, GRID, Sun(135.0, 45.0), PLACE)  # sun in the south-east: shadow to the north-west
    rows, columns = np.nonzero(shaded)
    far = np.hypot(rows - 150, columns - 150) * 10
    assert (rows < 150).all() and (columns < 150).all() and np.abs(rows - columns).max() <= 3
    assert far.min() == pytest.approx(200, abs=15) and far.max() > 2000
    degrees = GeoBox((200, 200), Affine(1e-4, 0, 15.0, 0, -1e-4, 45.15), "EPSG:4326")
    assert cast(cloud, degrees, Sun(180.0, 45.0), PLACE)[:150, 150].any(), "grids in degrees have directions, too"


def test_a_low_sun_casts_nothing_and_clouds_beyond_the_edge_no_error() -> None:
    cloud = np.ones(GRID.shape, bool)
    assert not cast(cloud, GRID, Sun(135.0, 5.0), PLACE).any()
    assert cast(cloud, GRID, Sun(90.0, 12.0), PLACE).any()


@pytest.mark.parametrize(
    ("near", "factor", "added", "kind"),
    [(Near.SHADOW, 0.72, 0, PixelClass.SHADOW), (Near.CLOUD, 0.95, 270, PixelClass.CLOUD)],
    ids=["shadow", "haze"],
)
def test_near_a_cloud_less_is_enough(near: Near, factor: float, added: int, kind: PixelClass) -> None:
    dn, classes = field()
    dn[2][:, *PATCH] = dn[2][:, *PATCH] * factor + added
    likely = np.zeros_like(classes)
    likely[2] = near
    assert not suspicious(dn, classes, DAYS, BANDS).any()
    found = suspicious(dn, classes, DAYS, BANDS, likely)
    assert (found[2][PATCH] == kind).mean() > 0.9
    found[2][PATCH] = 0
    assert not found.any(), "ground near a cloud is ground"


def test_a_harvest_in_the_strip_of_a_shadow_is_ground() -> None:
    dn, classes = field()
    dn[2:][:, :, *PATCH] = np.array([1300, 1450, 1800, 2100])[:, None, None]
    likely = np.full_like(classes, Near.SHADOW)
    assert not suspicious(dn, classes, DAYS, BANDS, likely).any()
