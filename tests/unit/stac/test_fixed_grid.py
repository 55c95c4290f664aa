"""Cells of a fixed grid: whose every pixel is, and that nothing depends on the box they were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from stac.errors import InvalidQuery
from stac.grid.cell import Cell
from stac.grid.fixed import GridSpec, outline_of_cell
from stac.grid.footprint import around

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
    west: float, south: float, width: float, height: float, draw: object
) -> None:
    """No gap and no overlap: at zone borders, at the equator and across the antimeridian, up to a pixel's width."""
    east = (west + width + 180) % 360 - 180
    cells = COARSE.cells((west, south, east, south + height))
    assert len({cell.id for cell in cells}) == len(cells)
    for _ in range(8):
        longitude = west + width * draw.draw(st.floats(0.001, 0.999))  # type: ignore[attr-defined] # hypothesis' data
        latitude = south + height * draw.draw(st.floats(0.001, 0.999))  # type: ignore[attr-defined]
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
