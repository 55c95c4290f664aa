"""What an item says of its pixels is compared with the file: right values, or a reason with both values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from stac.errors import InvalidItem
from stac.grid.cell import Cell, cell_of
from stac.load.resampling import Interpolation
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass
from tests.faults.world import AS_IS, BANDS, LEFT, SIDE, TOP, World, ground, truth, write

OTHER = {"platform": "some-satellite", "constellation": "", "s2:processing_baseline": None}
LANDSAT = {
    "platform": "landsat-8", "constellation": "", "s2:processing_baseline": None, "grid:code": None,
    "landsat:wrs_path": "190", "landsat:wrs_row": "028",
}  # fmt: skip
RIGHT = [10.0, 0.0, LEFT, 0.0, -10.0, TOP]


def landsat_dn(values: Any) -> Any:
    return np.rint((values * 1e-4 + 0.2) / 0.0000275)


def scaled(scale: float, offset: float) -> Any:
    return lambda values: np.rint((values * 1e-4 - offset) / scale)


@pytest.mark.parametrize(
    ("place", "field", "value", "both"),
    [
        ("item", "proj:transform", [10.0, 0.0, LEFT + 5, 0.0, -10.0, TOP - 5], r"540005.*540000"),
        ("item", "proj:transform", [9.84, 0.0, LEFT + 5, 0.0, -9.84, TOP - 5], r"9\.84.*540000"),
        ("item", "proj:transform", [LEFT, 10.0, 0.0, TOP, 0.0, -10.0], r"\[540000.*\[10\.0"),
        ("item", "proj:transform", [10.0, 0.0, LEFT + 20000, 0.0, -10.0, TOP], r"560000.*540000"),
        ("item", "proj:transform", [20.0, 0.0, LEFT, 0.0, -20.0, TOP], r"20\.0.*10\.0"),
        ("asset", "proj:transform", [10.0, 0.0, LEFT + 5, 0.0, -10.0, TOP - 5], r"540005.*540000"),
        ("item", "proj:shape", [SIDE // 2, SIDE], r"\[32, 64\].*\[64, 64\]"),
        ("asset", "proj:shape", [SIDE, SIDE - 1], r"\[64, 63\].*\[64, 64\]"),
        ("item", "proj:epsg", 32634, "EPSG:32634.*EPSG:32633"),
        ("asset", "proj:code", "EPSG:3035", "EPSG:3035.*EPSG:32633"),
        ("asset", "gsd", 60, "gsd 60 m.*pixels of 10"),
        ("asset", "data_type", "int16", "int16.*uint16"),
        ("asset", "nodata", 65535, "nodata 65535.*has 0"),
    ],
)
def test_a_contradicted_field_makes_the_scene_invalid(
    tmp_path: Path, place: str, field: str, value: object, both: str
) -> None:
    world = World(tmp_path)
    document = world.scene(properties={"proj:shape": [SIDE, SIDE], "proj:transform": RIGHT})
    for fields in (document["properties"],) if place == "item" else (document["assets"][b] for b in BANDS):
        fields[field] = value
    with pytest.raises(InvalidItem, match=both):
        world.read()


@pytest.mark.parametrize("field", ["proj:shape", "proj:transform", "proj:epsg", "gsd", "eo:bands", "raster:bands"])
@pytest.mark.parametrize("value", [None, [], ["x"], 5, "x", {}, [[1], [2]], -1, [1.5, True]])
def test_an_odd_field_is_ignored_or_makes_the_scene_invalid(tmp_path: Path, field: str, value: object) -> None:
    world = World(tmp_path)
    for asset in world.scene()["assets"].values():
        asset[field] = value
    try:
        read = world.read()
    except InvalidItem as error:
        assert "20230810" in str(error)
    else:
        assert np.array_equal(read.dn[0], truth())


@pytest.mark.parametrize(
    "file",
    [
        {"scale": 1e-4, "offset": -0.1},
        {"tags": {"scale_factor": "0.0001", "add_offset": "-0.1"}},
        {"scale": 0.0000275, "offset": -0.2},
    ],
    ids=["header", "tags", "landsat-like"],
)
def test_the_file_speaks_where_the_item_is_silent(tmp_path: Path, file: dict[str, Any]) -> None:
    scale, offset = file.get("scale", 1e-4), file.get("offset", -0.1)
    world = World(tmp_path, "ard")
    world.scene("A_20230810", dn=scaled(scale, offset), properties=OTHER, file=file)
    assert np.abs(world.read().dn[0].astype(int) - truth()).max() <= (scale > 1e-4)


@pytest.mark.parametrize(
    ("asset", "file", "reason"),
    [
        ({}, {}, "never guessed"),
        ({}, {"scale": 1, "offset": 0}, "never guessed"),
        ({"raster:bands": [{"offset": -0.1}]}, {}, "never guessed"),
        (
            {"raster:bands": [{"scale": 1e-4, "offset": 0}]},
            {"scale": 1e-4, "offset": -0.1},
            "offset 0, its file has -0.1",
        ),
        ({"raster:bands": [{"scale": 2e-4}]}, {"scale": 1e-4}, "scale 0.0002, its file has 0.0001"),
        ({}, {"scale": 1e-4, "tags": {"scale_factor": "0.001"}}, "in its header and 0.001 in its tags"),
    ],
)
def test_no_scale_is_guessed_and_none_contradicted(
    tmp_path: Path, asset: dict[str, Any], file: dict[str, Any], reason: str
) -> None:
    world = World(tmp_path, "ard")
    world.scene("A_20230810", properties=OTHER, asset=asset, file=file)
    with pytest.raises(InvalidItem, match=reason):
        world.read()


def test_scale_one_of_tools_that_know_nothing_is_undeclared(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scene(asset={"raster:bands": [{"scale": 1.0, "offset": 0.0, "nodata": 0, "data_type": "uint16"}]})
    assert np.array_equal(world.read().dn[0], truth())


def test_a_file_offset_of_zero_does_not_decide_a_baseline_that_adds_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scene(file={"scale": 1e-4, "offset": 0})
    with pytest.raises(InvalidItem, match=r"adds 1000 to every pixel, its file has scale 0\.0001 and offset 0"):
        world.read()


@pytest.mark.parametrize(
    ("name", "collection", "properties"),
    [
        ("LC08_L2SP_190028_20230810_20230818_02_T1", "usgs", {}),
        ("scene-1", "landsat-c2l2-sr", {}),
        ("scene-1", "landsat-8-c2-l2", {"landsat:collection_number": "02"}),
        ("scene-1", "scenes", {"landsat:collection_number": "02", "landsat:processing_level": "L2SP"}),
        ("scene-1", "scenes", {"landsat:product_id": "LC09_L2SR_190028_20230810_20230818_02_T2"}),
        ("scene-1", "scenes", {"landsat:correction": "L2SR"}),
    ],
)
def test_landsat_level_2_is_known_by_any_of_its_names(
    tmp_path: Path, name: str, collection: str, properties: dict[str, Any]
) -> None:
    world = World(tmp_path, collection)
    world.scene(name, dn=landsat_dn, properties=LANDSAT | properties)
    assert np.abs(world.read().dn[0].astype(int) - truth()).max() <= 1


@pytest.mark.parametrize(
    ("name", "properties", "reason"),
    [
        ("scene-1", {}, "Landsat product of unknown level"),
        ("LC08_L1TP_190028_20230810_20230818_02_T1", {}, "Landsat product of unknown level"),
        ("LC08_L1TP_190028_20230810_20230818_02_T1", {"landsat:correction": "L2SP"}, "more than one Landsat level"),
        ("LC08_L2SP_190028_20230810_20230818_02_T1", {"landsat:collection_number": "01"}, "more than one Landsat Coll"),
    ],
)
def test_other_landsat_is_refused(tmp_path: Path, name: str, properties: dict[str, Any], reason: str) -> None:
    world = World(tmp_path, "scenes")
    world.scene(name, dn=landsat_dn, properties=LANDSAT | properties)
    with pytest.raises(InvalidItem, match=reason):
        world.read()


def moved_cell(x: float = 0.0, y: float = 0.0) -> Cell:
    return Cell("moved", GeoBox((SIDE, SIDE), rasterio.Affine(10, 0, LEFT + x, 0, -10, TOP + y), "EPSG:32633"))


@pytest.mark.parametrize("shift", [0.0, 4.0], ids=["own grid", "another grid"])
@pytest.mark.parametrize("how", ["mask", "alpha"])
def test_masked_pixels_are_missing_on_every_grid(tmp_path: Path, shift: float, how: str) -> None:
    """The fill below the mask is bright; the classification calls it clear."""
    valid = np.ones((SIDE, SIDE), bool)
    valid[:, 40:] = False
    world = World(tmp_path)
    document = world.scene(dn=lambda v: np.where(valid, v + 1000, 9000), file={"nodata": None, "mask": valid})
    if how == "alpha":
        for band, key in enumerate(BANDS):
            values = np.where(valid, ground(band) + 1000, 9000).astype(np.uint16)
            both = np.stack([values, np.where(valid, 65535, 0).astype(np.uint16)])
            write(tmp_path / f"{document['id']}-{key}.tif", both, nodata=None, photometric="MINISBLACK", alpha="YES")
    stack = world.read(moved_cell(shift))
    first = 40 if shift == 0 else 39
    assert (stack.classes[0][:, first:] == PixelClass.NODATA).all()
    clear = stack.classes[0] == PixelClass.CLEAR
    assert clear[2:-2, 2:38].all() and stack.dn[0][:, clear].max() < 3000
    if shift == 0:
        assert np.array_equal(stack.dn[0][:, clear], truth()[:, clear])


@pytest.mark.parametrize("scl", [1, 3, 8, 10, 0], ids=["defect", "shadow", "cloud", "cirrus", "missing"])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3035"], ids=["shifted", "turned"])
def test_nothing_but_ground_is_mixed_into_observed_pixels(tmp_path: Path, scl: int, crs: str) -> None:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    spot = (x >= 30) & (x < 34) & (y >= 30) & (y < 34)
    ramp = 1500 + 8 * (x + 0.5) + 4 * (y + 0.5)
    world = World(tmp_path)
    world.scene(dn=lambda _: np.where(spot, 30000, ramp) + 1000, classes=np.where(spot, scl, 4))
    cell = moved_cell(4, -3)
    if crs != "EPSG:32633":
        cell = Cell("turned", GeoBox.from_bbox(cell.geobox.extent.to_crs(crs).boundingbox, crs, resolution=10))
    for resampling in Interpolation:
        stack = world.read(cell, ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0, interpolation=resampling))
        clear = stack.classes[0] == PixelClass.CLEAR
        assert 0.5 < clear.mean() < 1
        assert stack.dn[0, 0][clear].max() <= ramp.max() + 2, "no clear pixel has any of the 30 000"
    rows = slice(20, 45)
    part = read_stack([world.search()[0][0]], cell.window(rows, rows), BANDS, AS_IS)
    whole = world.read(cell)
    assert np.array_equal(part.classes[0], whole.classes[0][rows, rows]), "a window has the mask of the whole"


@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG"])
def test_thinned_classes_are_pixels_and_no_averages(tmp_path: Path, driver: str) -> None:
    random = np.random.default_rng(1)
    cloudy = np.kron(random.random((16, 16)) < 0.4, np.ones((4, 4), bool))
    scl = np.where(np.roll(cloudy, 3, axis=(0, 1)), 9, 4).astype(np.uint8)
    world = World(tmp_path)
    document = world.scene(classes=scl)
    path = tmp_path / f"{document['id']}-scl.{'tif' if driver == 'GTiff' else 'jp2'}"
    if driver == "GTiff":
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4], rasterio.enums.Resampling.average)
    else:
        write(path, scl, nodata=None, driver=driver, QUALITY="100", REVERSIBLE="YES", YCBCR420="NO", RESOLUTIONS=4)
        document["assets"]["scl"]["href"] = f"./{path.name}"
    (item,), _ = world.search()
    for k in (2, 4):
        cell = cell_of(item, "blue")
        stack = read_stack([item], cell, BANDS, AS_IS.overview_of(cell, (SIDE // k) ** 2))
        expected = np.where(scl[k // 2 :: k, k // 2 :: k] == 9, PixelClass.CLOUD, PixelClass.CLEAR)
        assert np.array_equal(stack.classes[0], expected)


def test_a_scene_in_degrees_has_no_cell_of_its_own_and_is_drawn_on_others(tmp_path: Path) -> None:
    size = 1e-4
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(size, 0, 15.51, 0, -size, 45.79)}
    ring = [[15.51, 45.79 - SIDE * size], [15.51 + SIDE * size, 45.79], [15.51, 45.79], [15.51, 45.79 - SIDE * size]]
    world = World(tmp_path)
    world.scene(file=degrees, mask_file=degrees, geometry={"type": "Polygon", "coordinates": [ring]})
    (item,), _ = world.search()
    with pytest.raises(InvalidItem, match=r"counts in degree.*--grid fixed"):
        cell_of(item, "blue")
    inside = GeoBox.from_bbox((539720, 5070260, 540040, 5070740), "EPSG:32633", resolution=40)
    drawn = read_stack([item], Cell("grid", inside), BANDS, AS_IS)
    assert (drawn.classes == PixelClass.CLEAR).all()
    height, width = inside.shape
    grid = {"crs": "EPSG:32633", "transform": inside.affine, "height": height, "width": width}
    red = tmp_path / f"{item.id}-red.tif"
    with rasterio.open(red) as file, WarpedVRT(file, resampling=Resampling.average, **grid) as view:
        means = view.read(1) - 1000.0
    assert np.abs(drawn.dn[0, 2] - means).max() <= 10, "the mean of the pixels below, but for GDAL's approximation"
