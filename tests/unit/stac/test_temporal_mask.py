"""What all dates together say of a mask: cloud and shadow that it missed."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter

from flows.settings.loading import load_settings
from stac.grid.cell import cell_of
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.masks.shadow_geometry import Sun, cast, sun_at
from stac.masks.temporal import Near, hide, suspicious

BANDS = ("blue", "green", "red", "nir")
SIDE, DATES = 64, 6
PATCH = (slice(20, 40), slice(20, 40))
DAYS = np.arange(DATES, dtype=np.int32) * 5 + 17_000


def field() -> tuple[np.ndarray, np.ndarray]:
    """Vegetation that varies by place and a little by date, all of it called clear."""
    random = np.random.default_rng(3)
    place = 1 + 0.3 * gaussian_filter(random.standard_normal((SIDE, SIDE)), 2)
    dates = 1 + 0.03 * random.standard_normal((DATES, 1, 1, 1))
    noise = 1 + 0.01 * random.standard_normal((DATES, 4, SIDE, SIDE))
    level = np.array([400, 700, 500, 3000])[:, None, None]
    dn = np.rint(level * place * dates * noise).astype(np.uint16)
    return dn, np.full((DATES, SIDE, SIDE), PixelClass.CLEAR, np.uint8)


def test_clear_dates_lose_nothing() -> None:
    dn, classes = field()
    assert not suspicious(dn, classes, DAYS, BANDS).any()


@pytest.mark.parametrize(
    ("factor", "added", "kind"), [(0.6, 1200, PixelClass.CLOUD), (0.4, 0, PixelClass.SHADOW)], ids=["cloud", "shadow"]
)
@pytest.mark.parametrize("date", [0, 2, DATES - 1])
def test_what_is_there_once_and_looks_like_cloud_or_shadow_is_hidden(
    factor: float, added: int, kind: PixelClass, date: int
) -> None:
    dn, classes = field()
    dn[date][:, *PATCH] = dn[date][:, *PATCH] * factor + added
    found = suspicious(dn, classes, DAYS, BANDS)
    assert (found[date][PATCH] == kind).mean() > 0.97
    outside = found.copy()
    outside[date][PATCH] = 0
    assert not outside.any(), "no other date and no other place"
    hidden = hide(classes[date], found[date], 10.0)
    assert (hidden[17:43, 25:35] == kind).all() and (hidden[:14] == PixelClass.CLEAR).all(), "grown by 30 m"


@pytest.mark.parametrize(
    "spectrum", [(1300, 1450, 1800, 2600), (900, 950, 800, 500), (450, 500, 550, 900)], ids=["harvest", "flood", "fire"]
)
@pytest.mark.parametrize("date", [1, 3])
def test_change_that_lasts_is_ground(spectrum: tuple[int, ...], date: int) -> None:
    dn, classes = field()
    dn[date:, :, *PATCH] = np.array(spectrum)[:, None, None]
    assert not suspicious(dn, classes, DAYS, BANDS).any()


def test_snow_and_few_dates_are_left_alone() -> None:
    dn, classes = field()
    dn[2][:, *PATCH] = 7000
    assert (suspicious(dn, classes, DAYS, BANDS)[2][PATCH] == PixelClass.CLOUD).mean() > 0.97
    assert not suspicious(dn[1:3], classes[1:3], DAYS[1:3], BANDS).any(), "two dates prove nothing"
    classes[2][PATCH] = PixelClass.SNOW
    assert not suspicious(dn, classes, DAYS, BANDS).any()


def test_a_window_has_the_mask_of_the_whole(twl: list[pystac.Item]) -> None:
    cell, options = cell_of(twl[0], "blue").window(slice(0, 120), slice(0, 160)), ReadOptions(temporal=True)
    rows, columns = slice(30, 90), slice(50, 131)
    whole = read_stack(twl, cell, BANDS, options)
    part = read_stack(twl, cell.window(rows, columns), BANDS, options)
    assert np.array_equal(part.classes, whole.classes[:, rows, columns]) and np.array_equal(
        part.dn, whole.dn[:, :, rows, columns]
    )
    plain = read_stack(twl, cell, BANDS, ReadOptions())
    seen = is_observed(plain.classes)
    assert np.array_equal(whole.dn, plain.dn) and not (is_observed(whole.classes) & ~seen).any()
    assert 0 < (seen & ~is_observed(whole.classes)).sum() < 0.05 * seen.sum()


def test_real_clear_dates_keep_99_percent_of_their_clear_pixels(twl: list[pystac.Item]) -> None:
    stack = read_stack(twl, cell_of(twl[0], "blue"), BANDS, ReadOptions(0, 0))
    clear = stack.classes == PixelClass.CLEAR
    found = suspicious(stack.dn, stack.classes, stack.days, BANDS) > 0
    shares = {day: found[i].sum() / clear[i].sum() for i, day in enumerate(stack.days) if clear[i].mean() > 0.98}
    assert shares and max(shares.values()) < 0.01, shares


def test_the_check_is_on_unless_masks_are_named_without_it() -> None:
    assert load_settings(None, {}).reading.temporal
    assert not load_settings(None, {"masks": "scl"}).reading.temporal
    assert load_settings(None, {"masks": "scl,temporal"}).reading.temporal


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
