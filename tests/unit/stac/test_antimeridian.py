"""Real scenes on both sides of 180 degrees, whose catalog writes their box as -180..180."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pystac
import pytest
from shapely.geometry import box, mapping

from stac.errors import InvalidItem
from stac.grid.cell import cell_of, native_geobox
from stac.grid.fixed import GridSpec, outline_of_cell
from stac.grid.footprint import box_around, cut, grown, outline_of_grid, outline_of_item, share_covered
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass
from stac.product.item import footprint
from stac.search.acquisitions import group_passes

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
