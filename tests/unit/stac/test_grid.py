from __future__ import annotations

import pystac
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from odc.geo.geom import box

from stac.errors import InvalidItem, InvalidQuery
from stac.grid.cell import cell_of, grid_code, same_cell

LONGITUDES = st.floats(15.0, 16.6)
LATITUDES = st.floats(45.3, 46.2)
_KEPT: list[pystac.Item] = []


@pytest.fixture(autouse=True)
def _keep(twl: list[pystac.Item]) -> None:
    _KEPT[:] = twl


def test_the_whole_grid(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue")
    assert cell.id == "MGRS-33TWL"
    assert cell.geobox.shape == (480, 768)
    assert cell.gsd_m == 120
    assert cell.pixels == 480 * 768
    assert (cell.geobox.affine.c, cell.geobox.affine.f) == (517620.0, 5100000.0)
    assert cell.geobox.crs.epsg == 32633


def test_all_dates_share_the_cell(twl: list[pystac.Item]) -> None:
    first, *others = (cell_of(item, "nir", (15.4, 45.6, 15.6, 45.8)) for item in twl)
    assert all(same_cell(first, other) for other in others)


@settings(deadline=None, max_examples=40)
@given(LONGITUDES, LONGITUDES, LATITUDES, LATITUDES)
def test_clipping_stays_on_whole_pixels(x0: float, x1: float, y0: float, y1: float) -> None:
    (west, east), (south, north) = sorted((x0, x1)), sorted((y0, y1))
    # A box without area is refused before it comes here.
    assume(east - west > 1e-6 and north - south > 1e-6)
    native = cell_of(_KEPT[0], "blue").geobox
    try:
        geobox = cell_of(_KEPT[0], "blue", (west, south, east, north)).geobox
    except InvalidQuery:
        return
    column, row = native.wld2pix(geobox.affine.c, geobox.affine.f)
    assert (column, row) == (round(column), round(row))
    assert column >= 0 and row >= 0
    assert column + geobox.shape[1] <= native.shape[1] and row + geobox.shape[0] <= native.shape[0]
    assert geobox.resolution == native.resolution
    wanted = box(west, south, east, north, "EPSG:4326").to_crs(native.crs, resolution=0.01)
    asked_for = wanted.intersection(native.extent)
    assert asked_for.is_empty or geobox.extent.buffer(1.0).contains(asked_for), "no asked-for pixel is lost"


def test_the_name_shows_the_window(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue", (15.4, 45.6, 15.6, 45.8))
    native = cell_of(twl[0], "blue").geobox
    column, row = (round(n) for n in native.wld2pix(cell.geobox.affine.c, cell.geobox.affine.f))
    height, width = cell.geobox.shape
    assert cell.id == f"MGRS-33TWL-r{row}c{column}h{height}w{width}"


def test_a_world_box_is_the_whole_grid(twl: list[pystac.Item]) -> None:
    assert cell_of(twl[0], "blue", (-180, -90, 180, 90)).id == "MGRS-33TWL"


@pytest.mark.parametrize("bbox", [(-100, 30, -99, 31), (15.4, 46.5, 15.6, 46.6), (179, -80, 180, -79)])
def test_a_box_elsewhere_is_refused(twl: list[pystac.Item], bbox: tuple[float, ...]) -> None:
    with pytest.raises(InvalidQuery, match="does not touch scene"):
        cell_of(twl[0], "blue", bbox)


def test_an_unknown_band_lists_what_exists(twl: list[pystac.Item]) -> None:
    with pytest.raises(InvalidItem, match=r"no asset for band swir16.*blue, green"):
        cell_of(twl[0], "swir16")


def test_bands_are_found_by_their_common_name(twl: list[pystac.Item]) -> None:
    expected = cell_of(twl[0], "blue")
    twl[0].assets = {"B02": twl[0].assets["blue"]}
    assert same_cell(cell_of(twl[0], "blue"), expected)


def test_without_projection_fields_the_file_is_asked(twl: list[pystac.Item]) -> None:
    expected = cell_of(twl[0], "blue")
    for name in ("proj:shape", "proj:transform"):
        del twl[0].assets["blue"].extra_fields[name]
    del twl[0].properties["proj:code"]
    found = cell_of(twl[0], "blue")
    assert (found.geobox.shape, found.geobox.affine) == (expected.geobox.shape, expected.geobox.affine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("proj:shape", ["a", 2]),
        ("proj:shape", [1, 2, 3]),
        ("proj:shape", [-1, 5]),
        ("proj:transform", [0, 0, 0, 0, 0, 0]),
        ("proj:transform", [1, 2]),
        ("proj:code", "EPSG:999999"),
    ],
)
def test_contradicting_fields_are_refused(twl: list[pystac.Item], field: str, value: object) -> None:
    twl[0].assets["blue"].extra_fields[field] = value
    with pytest.raises(InvalidItem, match=twl[0].id):
        cell_of(twl[0], "blue")


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"grid:code": "MGRS-33TWL"}, "MGRS-33TWL"),
        ({"mgrs:utm_zone": 1, "mgrs:latitude_band": "W", "mgrs:grid_square": "CQ"}, "MGRS-01WCQ"),
        ({"s2:mgrs_tile": "33TWL"}, "MGRS-33TWL"),
        ({}, "S2B_33TWL_20230810_0_L2A"),
    ],
)
def test_names_of_grids(twl: list[pystac.Item], properties: dict[str, object], code: str) -> None:
    twl[0].properties = properties
    assert grid_code(twl[0]) == code


def test_a_window_lies_where_its_origin_says(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue")
    assert cell.origin == (-42500, 4313)
    window = cell.window(slice(100, 228), slice(64, 9999))
    assert window.origin == (-42400, 4377) and window.geobox.shape == (128, 704)
    assert window.id == "MGRS-33TWL-r100c64h128w704"
    assert window.window(slice(1, 2), slice(2, 5)).origin == (-42399, 4379)
    assert cell.window(slice(None), slice(None)) is cell
    with pytest.raises(InvalidQuery, match="hold no pixel"):
        cell.window(slice(480, 490), slice(0, 1))
