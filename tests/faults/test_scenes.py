"""Which files make a scene: bands, copies, versions and halves; and items that say something odd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.planning.candidates import Candidate, candidates
from flows.settings import RunSettings
from stac.errors import InvalidItem
from stac.grid.cell import cell_of
from stac.load.stack import read_stack
from stac.masks.classes import PixelClass
from stac.search.acquisitions import cloud_cover, group_passes, version_numbers
from tests.faults.world import AS_IS, BANDS, SIDE, World, footprint, ground, truth, write

NUMBERS = ("B02", "B03", "B04", "B08")


@pytest.mark.parametrize("said", ["gsd", "raster:bands", "key", "nothing"])
@pytest.mark.parametrize("order", [(20, 10), (10, 20)], ids=["coarse first", "fine first"])
def test_the_finest_copy_of_a_band_is_read(tmp_path: Path, said: str, order: tuple[int, int]) -> None:
    world = World(tmp_path)
    document = world.scene()
    assets: dict[str, Any] = {}
    for size in order:
        for band, (name, number) in enumerate(zip(BANDS, NUMBERS, strict=True)):
            factor = size // 10
            pixels = (ground(band) + 1000).reshape(SIDE // factor, factor, SIDE // factor, factor).mean(axis=(1, 3))
            write(tmp_path / f"{number}-{size}.tif", pixels.astype(np.uint16), size)
            key = f"{number}_{size}m" if said == "key" else f"{'coarse' if size == 20 else 'fine'}-{number}"
            fields = {"gsd": {"gsd": size}, "raster:bands": {"raster:bands": [{"spatial_resolution": size}]}}.get(
                said, {}
            )
            assets[key] = {
                "href": f"./{number}-{size}.tif", "type": "image/tiff", "roles": ["data"],
                "eo:bands": [{"name": number, "common_name": name}], **fields,
            }  # fmt: skip
    document["assets"] = assets | {"SCL_20m": document["assets"]["scl"]}
    assert np.array_equal(world.read().dn[0], truth())


@pytest.mark.parametrize("names", [("B04", "B03", "B02", "B08"), ("red", "green", "blue", "nir")])
@pytest.mark.parametrize("where", ["item", "file"])
def test_a_band_is_found_inside_a_file_of_several(tmp_path: Path, names: tuple[str, ...], where: str) -> None:
    world = World(tmp_path)
    document = world.scene()
    pixels = (truth()[[2, 1, 0, 3]] + 1000).astype(np.uint16)
    write(tmp_path / "all.tif", pixels, names=names if where == "file" else None, photometric="MINISBLACK")
    asset = {"href": "./all.tif", "type": "image/tiff", "roles": ["data"]}
    if where == "item":
        document["assets"] = {
            "all": asset | {"eo:bands": [{"name": name} for name in names]},
            "scl": document["assets"]["scl"],
        }
    else:
        document["assets"] |= dict.fromkeys(BANDS, asset)
    assert np.array_equal(world.read().dn[0], truth())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"eo:bands": [{"name": "B04", "common_name": "red"}]}, "its band is called"),
        ({"eo:bands": [{"name": "a"}, {"name": "b"}]}, "lists 2 bands, the file has 1"),
    ],
)
def test_two_names_of_one_band_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    world = World(tmp_path)
    world.scene()["assets"]["blue"] |= change
    with pytest.raises(InvalidItem, match=reason):
        world.read()


@pytest.mark.parametrize("name", ["b1", "Band 1", "band_1"])
def test_a_number_says_where_a_band_is_and_not_what(tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    document = world.scene()
    for band, key in enumerate(BANDS):
        document["assets"][key]["eo:bands"] = [{"name": name}]
        write(tmp_path / f"{document['id']}-{key}.tif", (ground(band) + 1000).astype(np.uint16), names=(name,))
    assert np.array_equal(world.read().dn[0], truth())


def test_numbers_do_not_choose_a_band_of_several(tmp_path: Path) -> None:
    """`b1` to `b4` of a tool are not bands 1 to 4 of the sensor."""
    world = World(tmp_path)
    document = world.scene()
    names = ("b1", "b2", "b3", "b4")
    write(tmp_path / "all.tif", (truth() + 1000).astype(np.uint16), names=names, photometric="MINISBLACK")
    whole = {"href": "./all.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": [{"name": n} for n in names]}
    document["assets"] |= dict.fromkeys(BANDS, whole)
    with pytest.raises(InvalidItem):
        world.read()


def test_the_grid_of_a_file_goes_by_the_code_of_its_projection_as_if_the_item_named_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scene()
    silent = cell_of(world.search()[0][0], "blue")
    named = {"proj:code": "EPSG:32633", "proj:shape": [SIDE, SIDE], "proj:transform": list(silent.geobox.affine[:6])}
    world.items[0]["properties"] |= named
    declared = cell_of(world.search()[0][0], "blue")
    assert str(silent.geobox.crs) == str(declared.geobox.crs) == "EPSG:32633"


def test_a_file_that_calls_its_band_otherwise_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    document = world.scene()
    write(tmp_path / f"{document['id']}-red.tif", (ground(0) + 1000).astype(np.uint16), names=("B02",))
    with pytest.raises(InvalidItem, match=r"asset red: the file calls this band 'B02' \(blue\)"):
        world.read()


WHEN, NONE = "2020-02-10T07:30:31Z", {"s2:processing_baseline": None}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"s2:processing_baseline": "05.9"}, {"s2:processing_baseline": "05.10"}),
        ({"s2:processing_baseline": "05.09"}, {"s2:processing_baseline": 5.1}),
        (NONE | {"processing:version": "9.1"}, NONE | {"processing:version": "10.0"}),
        ({"s2:generation_time": "2020-02-10T23:00:00+02:00"}, {"s2:generation_time": "2020-02-10T21:30:00Z"}),
        ({"created": "2020-02-10T12:00:00.5Z"}, {"created": "2020-02-10T12:00:00.75Z"}),
        (
            {"created": "2020-01-01T00:00:00Z", "updated": "2020-03-01T00:00:00Z"},
            {"created": "2020-02-01T00:00:00Z", "updated": "2020-04-01T00:00:00Z"},
        ),
        ({"processing:datetime": "2020-02-10T12:00:00Z"}, {"processing:datetime": "2020-02-11T12:00:00Z"}),
        ({"sentinel:sequence": "9"}, {"sentinel:sequence": "10"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("swapped", [False, True])
def test_the_newest_version_is_used_and_the_other_named(
    tmp_path: Path, older: dict[str, Any], newer: dict[str, Any], swapped: bool
) -> None:
    world = World(tmp_path)
    names = ("a", "b") if swapped else ("b", "a")
    world.scene(names[0], WHEN, properties={"s2:processing_baseline": "02.12", **older}, dn=lambda v: v + 50)
    world.scene(names[1], WHEN, properties={"s2:processing_baseline": "02.12", **newer})
    items, skipped = world.search()
    assert [item.id for item in items] == [names[1]]
    assert [(each.item_id, each.superseded_by) for each in skipped] == [names]


def test_versions_are_numbers() -> None:
    assert version_numbers("05.09") == version_numbers("N0509") == version_numbers(5.09) == (5, 9)
    assert version_numbers("5.10") == version_numbers(5.1) == (5, 10) > version_numbers("5.9")
    assert version_numbers("x") == version_numbers(None) == version_numbers(["1"]) == ()


@pytest.mark.parametrize("known_by", ["footprint", "datastrip", "share", "pixels"])
@pytest.mark.parametrize("first", [0, 1])
def test_both_halves_of_a_square_are_drawn(tmp_path: Path, known_by: str, first: int) -> None:
    """Two datastrips of one pass, each with half of the pixels; the newer is drawn where both have some."""
    world = World(tmp_path)
    rows = ((0, 36), (30, SIDE))
    for number in (first, 1 - first):
        valid = np.zeros((SIDE, SIDE), bool)
        valid[slice(*rows[number])] = True
        properties: dict[str, Any] = {
            "s2:processing_baseline": "02.12",
            "s2:generation_time": f"2020-02-10T1{number}:00:00Z",
        }
        if known_by == "datastrip":
            properties["s2:datastrip_id"] = f"S2A_OPER_MSI_L2A_DS_EPAE_20200210T130912_S20200210T07303{number}_N02.14"
        if known_by == "share":
            properties["s2:nodata_pixel_percentage"] = (44.0, 47.0)[number]
        world.scene(
            f"S2A_33TWM_20200210_{number}_L2A", WHEN, properties=properties,
            dn=lambda v, valid=valid: np.where(valid, v, 0), classes=np.where(valid, 4, 0),
            geometry=footprint(rows[number]) if known_by == "footprint" else None,
        )  # fmt: skip
    items, skipped = world.search()
    assert len(items) == 2 and not skipped
    (date,) = group_passes(items)
    assert date.item_ids[0] == "S2A_33TWM_20200210_1_L2A", "the newest first"
    stack = read_stack([date], cell_of(items[0], "blue"), BANDS, AS_IS)
    assert np.array_equal(stack.dn[0], truth()) and (stack.classes[0] == PixelClass.CLEAR).all()


@pytest.mark.parametrize("value", [None, "N/A", "7.8", -1, 101, True, [5], {}, float("nan"), 1e400])
def test_an_odd_cloud_cover_is_unknown_and_the_others_are_planned(tmp_path: Path, value: object) -> None:
    world = World(tmp_path)
    world.scene()["properties"]["eo:cloud_cover"] = value
    world.scene("S2A_33TWM_20230813_0_L2A", "2023-08-13T10:00:00Z")
    items, _ = world.search()
    assert [cloud_cover(item) for item in items] == [None, 5.0]
    wanted = RunSettings(
        collection="sentinel-2-l2a", datetime="2023-08-01/2023-08-30", min_cloud=1, max_cloud=100, bands=BANDS
    )
    found = list(candidates(items, wanted))
    assert [each.cloud_cover for each in found if isinstance(each, Candidate)] == [100.0, 5.0]


@pytest.mark.parametrize(
    "change",
    [
        {"eo:bands": [3, 2, 1]}, {"eo:bands": None}, {"bands": None}, {"bands": {"a": 1}}, {"raster:bands": None},
        {"proj:transform": None, "proj:shape": None}, {"proj:transform": [10.0, 0.0]}, {"proj:shape": [[1], 2]},
        {"roles": 5}, {"gsd": "fine"},
    ],
    ids=str,
)  # fmt: skip
def test_odd_bands_of_one_item_do_not_stop_the_others(tmp_path: Path, change: dict[str, Any]) -> None:
    world = World(tmp_path)
    world.scene("S2A_33TWM_20230813_0_L2A", "2023-08-13T10:00:00Z")
    for asset in world.scene()["assets"].values():
        asset |= change
    items, skipped = world.search()
    wanted = RunSettings(
        collection="sentinel-2-l2a", datetime="2023-08-01/2023-08-30", min_cloud=1, max_cloud=100, bands=BANDS
    )
    planned = [each.target.id for each in candidates(items, wanted) if isinstance(each, Candidate)]
    assert "S2A_33TWM_20230813_0_L2A" in planned
    assert len(items) + len(skipped) == 2


def test_an_item_linked_twice_is_used_once_in_its_newest_form(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scene(properties={"updated": "2023-08-12T00:00:00Z"})
    old = json.loads(json.dumps(world.items[0]))
    old["properties"] |= {"updated": "2023-08-11T00:00:00Z", "eo:cloud_cover": 50.0}
    world.items.insert(0, old)
    items, skipped = world.search()
    assert [item.properties["eo:cloud_cover"] for item in items] == [5.0]
    assert [each.reason for each in skipped] == [f"Item {old['id']} was delivered twice; it is used once."]


@pytest.mark.parametrize(
    ("on_disk", "href"), [("my data", "my%20data"), ("my data", "my data"), ("a%20b", "a%20b"), ("x", "x.tif?sig=1")]
)
def test_hrefs_with_blanks_and_signatures_are_read_from_disk(tmp_path: Path, on_disk: str, href: str) -> None:
    world = World(tmp_path)
    asset = world.scene()["assets"]["blue"]
    Path(tmp_path / asset["href"]).rename(tmp_path / f"{on_disk}.tif")
    asset["href"] = f"./{href}" if "?" in href else f"./{href}.tif"
    assert np.array_equal(world.read().dn[0], truth())


def test_the_last_half_second_of_a_day_is_inside(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scene(when="2023-08-10T23:59:59.500Z")
    assert len(world.search("2023-08-10/2023-08-10")[0]) == 1
    assert len(world.search("2023-08-11/2023-08-11")[0]) == 0
