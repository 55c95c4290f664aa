"""Cells of scenes and of fixed grids, and real scenes on both sides of 180 degrees."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pystac
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from odc.geo.geom import box as wgs_box
from pyproj import Transformer
from shapely import union_all
from shapely.geometry import box, mapping

from stac.errors import InvalidItem, InvalidQuery
from stac.grid.cell import Cell, cell_of, grid_code, native_geobox
from stac.grid.fixed import GridSpec, outline_of_cell
from stac.grid.footprint import around, box_around, cut, grown, outline_of_grid, outline_of_item, share_covered
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass
from stac.product.cog import overview_factors
from stac.product.item import footprint
from stac.search.acquisitions import group_passes

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


@settings(deadline=None, max_examples=40)
@given(LONGITUDES, LONGITUDES, LATITUDES, LATITUDES)
def test_clipping_stays_on_whole_pixels(x0: float, x1: float, y0: float, y1: float) -> None:
    (west, east), (south, north) = sorted((x0, x1)), sorted((y0, y1))
    # A wgs_box without area is refused before it comes here.
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
    wanted = wgs_box(west, south, east, north, "EPSG:4326").to_crs(native.crs, resolution=0.01)
    asked_for = wanted.intersection(native.extent)
    assert asked_for.is_empty or geobox.extent.buffer(1.0).contains(asked_for), "no asked-for pixel is lost"


def test_large_windows_have_overviews_with_square_pixels() -> None:
    path = Path(__file__).parents[2] / "data" / "earth-search-items" / "S2A_12RWT_20240106_0_L2A.json"
    item = pystac.Item.from_file(str(path))
    native = cell_of(item, "blue").geobox
    window = cell_of(item, "blue", (-110.4, 29.1, -110.17, 29.3)).geobox
    column, row = (round(at) for at in native.wld2pix(window.affine.c, window.affine.f))
    assert min(window.shape) > 2000 and {column % 16, row % 16, *(side % 16 for side in window.shape)} == {0}
    assert overview_factors(window.shape)[:4] == [2, 4, 8, 16]


def test_a_large_grid_of_unequal_sides_ends_beyond_its_file_where_overviews_have_square_pixels(
    twl: list[pystac.Item],
) -> None:
    item = twl[0].clone()
    native = cell_of(item, "blue").geobox
    assert native.shape[0] == native.shape[1] or max(native.shape) <= 1024, "such a grid stays as it is"
    for asset in item.assets.values():
        asset.extra_fields["proj:shape"] = [7751, 7641]
    cell = cell_of(item, "blue")
    assert cell.geobox.shape == (7760, 7648) and cell.geobox.affine == native.affine and cell.id == "MGRS-33TWL"
    assert overview_factors(cell.geobox.shape)[:4] == [2, 4, 8, 16]


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


COARSE = GridSpec(resolution_m=500, cell_pixels=64)


def owner(cells: list[Cell], longitude: float, latitude: float) -> list[str]:
    """Return the ids of the cells one of whose own pixels holds a point."""
    found = []
    for cell in cells:
        to_grid = Transformer.from_crs("EPSG:4326", str(cell.geobox.crs), always_xy=True)
        column, row = (int(np.floor(n)) for n in cell.geobox.wld2pix(*to_grid.transform(longitude, latitude)))
        height, width = cell.geobox.shape
        if 0 <= row < height and 0 <= column < width:
            foreign = cell.window(slice(row, row + 1), slice(column, column + 1)).foreign()
            if foreign is None or not foreign[0, 0]:
                found.append(cell.id)
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.floats(-180, 180, exclude_max=True), st.floats(-70, 70), st.floats(0.3, 2), st.floats(0.3, 2), st.data()
)  # fmt: skip
def test_every_point_of_a_box_has_one_cell(
    west: float, south: float, width: float, height: float, draw: st.DataObject
) -> None:
    """No gap and no overlap: at zone borders, at the equator and across the antimeridian, up to a pixel's width."""
    east = (west + width + 180) % 360 - 180
    cells = COARSE.cells((west, south, east, south + height))
    assert len({cell.id for cell in cells}) == len(cells)
    for _ in range(8):
        longitude = west + width * draw.draw(st.floats(0.001, 0.999))
        latitude = south + height * draw.draw(st.floats(0.001, 0.999))
        # Within a pixel of the border of a zone the point and the centre of its pixel may be on two sides.
        pixel_deg = 0.51 * COARSE.resolution_m / 111_000 / np.cos(np.radians(latitude))
        off_zone = abs((longitude + 3) % 6 - 3)
        if off_zone < 1.5 * pixel_deg or abs(latitude) < 1.5 * pixel_deg:
            continue
        assert len(owner(cells, longitude, latitude)) == 1, (longitude, latitude)


@settings(deadline=None, max_examples=25)
@given(st.floats(-180, 179), st.floats(-60, 60), st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0, 0.5))
def test_cells_are_the_same_whatever_the_box(x: float, y: float, width: float, height: float, more: float) -> None:
    small = COARSE.cells((x, y, x + width, y + height))
    west, east = max(x - more, -180), min(x + width + more, 180)
    large = {cell.id: cell for cell in COARSE.cells((west, y - more, east, y + height + more))}
    for cell in small:
        assert large[cell.id] == cell == COARSE.cell(cell.id)


def test_the_cells_along_a_zone_border_share_no_ground() -> None:
    """Counted on the pixels: the own pixels of both zones together are the box, none of them twice."""
    spec = GridSpec(resolution_m=200, cell_pixels=128)
    box = (17.8, 46.0, 18.2, 46.2)
    cells = spec.cells(box)
    assert {cell.id[:6] for cell in cells} == {"utm33n", "utm34n"}
    own = 0.0
    for cell in cells:
        foreign = cell.foreign()
        height, width = cell.geobox.shape
        x, y = cell.geobox.affine @ np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        longitude, latitude = cell.geobox.crs.transformer_to_crs("EPSG:4326")(x, y)
        inside = (longitude >= box[0]) & (longitude < box[2]) & (latitude >= box[1]) & (latitude < box[3])
        if foreign is not None:
            assert foreign.any() and not foreign.all()
            inside &= ~foreign
        own += inside.sum() * 0.04 * np.cos(np.radians(0.0))
    wide, high = 0.4 * 111.32 * np.cos(np.radians(46.1)), 0.2 * 111.2
    assert own == pytest.approx(wide * high, rel=0.01)


def test_ids_show_the_projection_the_pixels_and_the_place() -> None:
    cell = GridSpec().cells((15.4, 45.6, 15.41, 45.61))[0]
    assert cell.id == "utm33n-10m-2048px-r246c25"
    assert cell.geobox.crs.epsg == 32633 and cell.geobox.shape == (2048, 2048) and cell.owned is None
    assert cell.origin == (-247 * 2048, 25 * 2048)
    assert {c.geobox.crs.epsg for c in GridSpec(100, 512, crs=3035).cells((15, 46, 15.2, 46.2))} == {3035}
    shifted = GridSpec(120, 512, origin_m=(60, 0)).cells((15.4, 45.6, 15.41, 45.61))[0]
    assert shifted.id.startswith("utm33n-120m-512px-x60y0-") and shifted.geobox.affine.c % 120 == 60
    assert GridSpec(10, 1024).cells((15.4, -45.61, 15.41, -45.6))[0].geobox.crs.epsg == 32733


@pytest.mark.parametrize(("code", "south", "north"), [(3413, 86, 86.2), (3995, 88, 88.2), (3031, -86.2, -86)])
def test_a_polar_projection_has_cells_beyond_utm(code: int, south: float, north: float) -> None:
    cells = GridSpec(100, 128, crs=code).cells((40, south, 41, north))
    assert cells and {cell.geobox.crs.epsg for cell in cells} == {code}
    assert union_all([outline_of_cell(cell) for cell in cells]).buffer(1e-3).covers(box(40, south, 41, north))


def test_a_box_across_the_antimeridian_has_cells_on_both_sides() -> None:
    cells = GridSpec(60, 512).cells((179.9, 66.9, -179.9, 67.0))
    assert {cell.geobox.crs.epsg for cell in cells} == {32601, 32660}
    for cell in cells:
        assert abs(abs(outline_of_cell(cell).centroid.x) - 180) < 1
        assert around(outline_of_cell(cell), 180.0).bounds[2] - around(outline_of_cell(cell), 180.0).bounds[0] < 2


def test_what_is_not_a_grid_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="not in metres"):
        GridSpec(crs=4326)
    with pytest.raises(InvalidQuery, match="not a known projection"):
        GridSpec(crs=999999)
    with pytest.raises(InvalidQuery, match="no cells"):
        GridSpec(resolution_m=0)
    with pytest.raises(InvalidQuery, match="polar projection"):
        GridSpec().cells((0, 84, 1, 86))
    for name in ("utm33n-10m-2048px-r246", "utm33n-20m-2048px-r246c25", "MGRS-33TWL", "../utm33n-10m-2048px-r1c1"):
        with pytest.raises(InvalidQuery, match="not a cell of the grid"):
            GridSpec().cell(name)


@pytest.mark.parametrize("metres", [1e-300, 1e-9, 0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_a_resolution_beyond_reason_is_refused(metres: float) -> None:
    with pytest.raises(InvalidQuery, match="resolution of"):
        GridSpec(metres)


def test_more_cells_than_can_be_planned_are_refused_at_once() -> None:
    with pytest.raises(InvalidQuery, match="more than 500000 cells"):
        GridSpec(0.01, 64).cells((15, 45, 16, 46))
    for origin in ((float("nan"), 0.0), (0.0, 1e300)):
        with pytest.raises(InvalidQuery, match="outside the world"):
            GridSpec(10, 64, None, origin)


FOLDER = Path(__file__).parents[2] / "data" / "antimeridian"
SPEC = GridSpec(600, 100)


@pytest.fixture
def scenes() -> list[pystac.Item]:
    items = [pystac.Item.from_file(str(path)) for path in sorted(FOLDER.glob("*/*.json"))]
    for item in items:
        item.make_asset_hrefs_absolute()
    return items


def test_the_footprint_is_small_although_the_box_is_the_world(scenes: list[pystac.Item]) -> None:
    for item in scenes:
        assert item.bbox is not None and (item.bbox[0], item.bbox[2]) == (-180, 180)
        west, _, east, _ = outline_of_item(item).bounds
        assert east - west < 4 and (west < 180 < east or west < -180 < east)
        grid = outline_of_grid(native_geobox(item, "red"))
        assert share_covered(grid, [outline_of_item(item)]) > 0.1
        # The scene lies in its grid, up to the simplification of its outline.
        assert share_covered(outline_of_item(item), [grid]) > 0.98


@pytest.mark.parametrize("style", ["parts", "beyond", "jumping", "band"])
def test_however_the_footprint_is_written_it_is_the_same_ground(scenes: list[pystac.Item], style: str) -> None:
    item = scenes[0]
    grid = native_geobox(item, "red")
    expected = outline_of_item(item)
    whole = outline_of_grid(grid)
    ring = [list(point) for point in whole.exterior.coords]
    item.geometry = {
        "parts": mapping(cut(whole)),
        "beyond": {"type": "Polygon", "coordinates": [ring]},
        "jumping": {"type": "Polygon", "coordinates": [[[(x + 180) % 360 - 180, y] for x, y in ring]]},
        "band": mapping(box(-180, 66, 180, 68)),
    }[style]
    found = outline_of_item(item, grid)
    assert share_covered(whole, [found]) > 0.999 and found.area == pytest.approx(whole.area, rel=1e-3)
    assert share_covered(expected, [found]) > 0.98


def test_a_footprint_that_is_none_is_named(scenes: list[pystac.Item]) -> None:
    for wrong in (None, {"type": "Polygon", "coordinates": [[["a", 1]]]}, {"type": "Polygon", "coordinates": []}):
        item = copy.copy(scenes[0])
        item.geometry = wrong
        with pytest.raises(InvalidItem, match=item.id):
            outline_of_item(item)
    scenes[0].geometry = mapping(box(-180, 66, 180, 68))
    with pytest.raises(InvalidItem, match="without area"):
        outline_of_item(scenes[0])


def test_a_box_clips_a_tile_on_both_sides(scenes: list[pystac.Item]) -> None:
    whole, clipped = cell_of(scenes[0], "red"), cell_of(scenes[0], "red", (179.5, 67.1, -179.8, 67.3))
    assert 0 < clipped.pixels < whole.pixels / 2
    west, south, east, north = outline_of_grid(clipped.geobox).bounds
    assert (west + 180) % 360 - 180 < 179.5 < 180 and (east + 180) % 360 - 180 > -179.8
    assert south < 67.1 and north > 67.3


def test_cells_on_both_sides_are_read_from_the_same_pass(scenes: list[pystac.Item]) -> None:
    """Zone 60's cells are warped from zone 1; their pixels and those of zone 1 do not overlap."""
    date = next(date for date in group_passes(scenes) if "20230604" in date.items[0].id)
    assert len(date.items) == 2
    cells = SPEC.cells((179.4, 67.2, -179.6, 67.6))
    assert {cell.geobox.crs.epsg for cell in cells} == {32601, 32660}
    seen = {}
    for cell in cells:
        stack = read_stack([date], cell, ("red",), ReadOptions(0, 0))
        seen[cell.id] = int((stack.classes[0] != PixelClass.NODATA).sum())
        foreign = cell.foreign()
        assert foreign is not None and (stack.classes[0][foreign] == PixelClass.NODATA).all()
        covered = share_covered(outline_of_cell(cell), [outline_of_item(item) for item in date.items])
        own = ~foreign
        assert (stack.classes[0][own] != PixelClass.NODATA).mean() == pytest.approx(covered, abs=0.06)
    assert all(count > 0 for count in seen.values())


def test_a_native_tile_is_read_whole(scenes: list[pystac.Item]) -> None:
    stack = read_stack(scenes[:1], cell_of(scenes[0], "red"), ("red",), ReadOptions(0, 0))
    assert stack.dn.shape == (1, 1, 183, 183) and 0.4 < (stack.dn > 0).mean() < 0.9


def test_a_product_across_the_line_has_a_cut_footprint(scenes: list[pystac.Item]) -> None:
    geometry, bbox = footprint(native_geobox(scenes[0], "red"))
    assert geometry["type"] == "MultiPolygon" and len(geometry["coordinates"]) == 2
    points = np.array([point for part in geometry["coordinates"] for point in part[0]])
    assert np.abs(points[:, 0]).max() == 180
    assert bbox[0] > bbox[2] and bbox[0] > 178 and bbox[2] < -178


def test_boxes_grow_over_the_line() -> None:
    west, south, east, north = grown((179.9, 10, 179.95, 11), 20_000)
    assert west < 179.6 and -180 < east < -179.6 and south < 9.7 and north > 11.3
    assert grown((-180, -90, 180, 90), 1000)[::2] == (-180, 180)
    assert box_around((170, 0, -170, 1), -179).bounds == (-190, 0, -170, 1)


def test_an_outline_that_crosses_and_touches_is_cut_into_areas() -> None:
    """Cells of both zones: one ends at the border, another crosses it."""
    outline = box(179.8, 65, 180, 66).union(box(179.9, 65.2, 180.1, 65.4))
    found = cut(outline)
    assert {part.geom_type for part in found.geoms} == {"Polygon"} and len(found.geoms) == 2
    assert found.area == pytest.approx(outline.area)
