"""`unveil mosaic` on the border of two real tiles: first without a scene, then with it, as when one comes late."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pytest
import rasterio
from rio_tiler.io import Reader
from rio_tiler.models import ImageData
from rio_tiler.mosaic import mosaic_reader

from flows.settings.loading import load_settings
from stac.grid.cell import cell_of
from stac.load.stack import read_stack
from stac.masks.classes import is_observed
from stac.product.fields import ItemKind
from stac.product.layers import Provenance
from stac.search.acquisitions import group_passes
from stac.search.opening import open_source
from stac.search.static import sample_catalog
from tests.command import TINY_SETTINGS, Outcome, start, unveil
from tests.misbehaving_server import TransactionApi, web_server
from tests.support.catalogs import kind_of, problems_in, undocumented

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]
#: Ground that both tiles hold: each has a cell of its own here.
BORDER = "15.75,46.02,15.83,46.075"
LATE = "S2A_33TWL_20230818_0_L2A"
MADE = ("S2A_33TWL", "S2B_33TWL", "S2A_33TWM", "S2B_33TWM")


class World:
    """A source that gains a scene, and the catalog of its mosaics."""

    def __init__(self, folder: Path, services: dict[str, str]) -> None:
        self.folder, self.out, self.source = folder, folder / "out", folder / "source" / "catalog.json"
        self._services = services
        shutil.copytree(sample_catalog().parent, self.source.parent)

    def list_late_scene(self, listed: bool) -> None:
        path = self.source.parent / "collection.json"
        document = json.loads(path.read_text())
        links = [link for link in document["links"] if LATE not in link["href"]]
        late = {"rel": "item", "href": f"./{LATE}/{LATE}.json", "type": "application/geo+json"}
        path.write_text(json.dumps(document | {"links": [*links, late] if listed else links}))

    @property
    def command(self) -> tuple[str | Path, ...]:
        where = ("--source", self.source, "--bbox", BORDER, "--name", "border", "--out", self.out)
        when = ("--datetime", "2023-08-10/2023-08-20", "--period", "dates")
        return ("mosaic", *where, *when, "--method", "best", "--json")

    def mosaic(self, **environment: str) -> Outcome:
        return unveil(*self.command, home=self.folder / "home", extra=self._services | environment)

    def mosaic_killed_in_a_cell(self) -> None:
        """Start the command and kill all of it as soon as a cell has pixels on disk."""
        process = start(*self.command, home=self.folder / "home", extra=self._services)
        try:
            while not list((self.out / ".staging").rglob("*.tif")):
                assert process.poll() is None, "it ended before a cell was begun"
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def items(self) -> dict[str, Any]:
        found = {}
        for path in (self.out / "unveil-mosaics").glob("border-*/border-*.json"):
            document = json.loads(path.read_text())
            found[document["id"]] = document
        return found

    def layer(self, item_id: str, name: str) -> np.ndarray:
        with rasterio.open(self.out / "unveil-mosaics" / item_id / f"{name}.tif") as source:
            return source.read()


@pytest.fixture(scope="module")
def index() -> Iterator[tuple[TransactionApi, str]]:
    api = TransactionApi()
    with web_server(api) as url:
        yield api, url


@pytest.fixture(scope="module")
def world(
    services: dict[str, str], index: tuple[TransactionApi, str], tmp_path_factory: pytest.TempPathFactory
) -> World:
    world = World(tmp_path_factory.mktemp("mosaic"), services | {"UNVEIL_INDEXES": index[1]})
    world.list_late_scene(False)
    world.mosaic_killed_in_a_cell()
    assert not world.items(), "nothing half made is published"
    first = world.mosaic()
    assert first.status == 0, first.err
    assert [unit["state"] for unit in first.document["units"]] == ["SUCCEEDED"] * 2
    assert len(first.document["regions"]) == 1
    return world


def newest(world: World, part: str) -> dict[str, Any]:
    return next(i for i in world.items().values() if part in i["id"] and not i["properties"].get("deprecated"))


def test_items_say_period_looks_and_sources_and_the_catalog_is_valid(world: World) -> None:
    assert problems_in(world.out) == []
    item = newest(world, "33TWM")
    told = item["properties"]
    assert told["datetime"] is None
    assert (told["start_datetime"], told["end_datetime"]) == ("2023-08-10T00:00:00Z", "2023-08-20T23:59:59Z")
    assert told["unveil:method"] == "best" and "view:sun_azimuth" not in told and "eo:cloud_cover" not in told
    assert sum(link["title"].startswith(MADE) for link in item["links"] if link["rel"] == "derived_from") == 5
    assert {"data", "visual", "count", "provenance", "source_date", "uncertainty"} <= set(item["assets"])
    region = newest(world, "-region-")
    assert region["properties"]["unveil:cells"] == 2
    assert {"overview", "thumbnail", "mosaicjson", "radiometry", "data-epsg32633"} <= set(region["assets"])


def test_the_reference_of_item_fields_has_every_field(world: World) -> None:
    items = list(world.items().values())
    assert {kind_of(item) for item in items} == {ItemKind.MOSAIC, ItemKind.REGION}
    assert {item["id"]: undocumented(item) for item in items if undocumented(item)} == {}


def test_pixels_are_the_references_where_it_saw_and_count_is_how_many_dates_did(world: World) -> None:
    item = newest(world, "33TWM")
    settings = load_settings(None, {"out": world.out})
    found = [i for i in open_source(str(world.source)).search(settings.query) if "33TWM" in i.id]
    cell = cell_of(found[0], "blue", tuple(map(float, BORDER.split(","))))
    stack = read_stack(group_passes(found), cell, settings.bands, settings.reading)
    clear = is_observed(stack.classes)
    assert np.array_equal(world.layer(item["id"], "count")[0], clear.sum(axis=0))
    origin, data = world.layer(item["id"], "provenance")[0], world.layer(item["id"], "data")
    days = world.layer(item["id"], "source_date")[0]
    reference = int(np.unique(days[origin == Provenance.OBSERVED]).item())
    at = list(stack.days).index(reference)
    assert np.array_equal(origin == Provenance.OBSERVED, clear[at])
    assert np.array_equal(data[:, clear[at]], stack.dn[at][:, clear[at]])
    assert (data[:, origin != Provenance.NOT_RECOVERABLE] > 0).all(), "no holes"


def test_the_vrts_show_all_cells_where_they_lie(world: World) -> None:
    region = newest(world, "-region-")
    folder = world.out / "unveil-mosaics" / region["id"]
    mosaic = json.loads((folder / "mosaic.json").read_text())
    listed = {name for names in mosaic["tiles"].values() for name in names}
    assert {(Path(mosaic["asset_prefix"]) / name).is_file() for name in listed} == {True} and len(listed) == 2
    with rasterio.open(folder / "overview.tif") as overview:
        assert {side % 8 for side in overview.shape} == {0}, "its overviews have square pixels, however large it is"
    # At 120 m the two squares are a third of a pixel apart: each has a VRT of its own, and none is moved.
    shown = {}
    for path in folder.glob("data-*.vrt"):
        with rasterio.open(path) as together:
            assert together.count == 4 and together.descriptions == ("blue", "green", "red", "nir")
            shown[path.name] = (together.transform, together.read())
    assert shown.keys() == {"data-epsg32633.vrt", "data-epsg32633-2.vrt"} and shown.keys() < {
        Path(asset["href"]).name for asset in region["assets"].values()
    }
    for name in ("33TWL", "33TWM"):
        with rasterio.open(world.out / "unveil-mosaics" / newest(world, name)["id"] / "data.tif") as part:
            own = part.read()
            assert any(at == part.transform and np.array_equal(pixels, own) for at, pixels in shown.values())


def test_the_mosaicjson_is_drawn_as_titiler_draws_it(world: World) -> None:
    """Titiler's mosaic endpoint looks the files of a tile up by quadkey and gives them to rio-tiler."""
    region = newest(world, "-region-")
    mosaic = json.loads((world.out / "unveil-mosaics" / region["id"] / "mosaic.json").read_text())
    grid = morecantile.tms.get("WebMercatorQuad")
    key = max(mosaic["tiles"], key=lambda key: len(mosaic["tiles"][key]))
    tile = next(t for t in grid.tiles(*mosaic["bounds"], [mosaic["quadkey_zoom"]]) if grid.quadkey(t) == key)

    def read(name: str, x: int, y: int, z: int) -> ImageData:
        with Reader(f"{mosaic['asset_prefix']}{name}") as source:
            return source.tile(x, y, z)

    image, used = mosaic_reader(mosaic["tiles"][key], read, *tile)
    assert len(used) == 2, "the tile at the border of both cells"
    assert image.mask.mean() > 25 and image.data[:, image.mask > 0].std() > 5


def test_a_run_with_nothing_to_make_needs_no_prefect_server_and_repairs_the_index(
    world: World, index: tuple[TransactionApi, str]
) -> None:
    before, copies = world.items(), index[0].items()
    index[0].stored.clear()
    again = world.mosaic(PREFECT_API_URL="http://127.0.0.1:9/api")
    assert again.status == 0, again.err
    assert again.document["units"] == [] and len(again.document["already_done"]) == 2
    assert world.items() == before and len(before) == 3, "two cells and the region, none twice, after a kill, too"
    assert index[0].items() == copies == sorted(before)


def test_the_census_counts_cells_and_region(world: World) -> None:
    def census() -> Outcome:
        return unveil(*world.command, "--census", home=world.folder / "home", extra=world._services)

    complete = census()
    assert complete.status == 0 and complete.document["counts"]["published"] == 3, complete.err
    (place,) = (world.out / "unveil-mosaics").glob("border-*33TWM*/data.tif")
    kept = place.read_bytes()
    place.write_bytes(kept[:100])
    broken = census()
    assert broken.status == 1 and broken.document["counts"]["broken"] == 1 and not broken.document["complete"]
    place.write_bytes(kept)
    world.list_late_scene(True)
    late = census()
    world.list_late_scene(False)
    assert late.status == 0 and late.document["counts"] | {"published": 1, "outdated": 2} == late.document["counts"]
    unknown = unveil(*world.command, "--census", "--name", "other", home=world.folder / "home", extra=world._services)
    assert unknown.status == 1 and unknown.document["counts"]["missing"] == 3


def test_a_late_scene_makes_a_new_version_of_its_cells_and_no_other_in_the_index_too(
    world: World, index: tuple[TransactionApi, str]
) -> None:
    world.list_late_scene(True)
    late = world.mosaic()
    assert late.status == 0, late.err
    (unit,) = late.document["units"]
    assert "33TWL" in unit["target_id"] and len(late.document["already_done"]) == 1
    versions = sorted(i["properties"]["version"] for name, i in world.items().items() if "33TWL" in name)
    assert versions == ["1", "2"] and newest(world, "33TWL")["properties"]["version"] == "2"
    assert newest(world, "-region-")["properties"]["version"] == "2"
    assert problems_in(world.out) == []
    copied = {name: found for name, found in index[0].stored.items() if "/items/" in name}
    assert {found["id"]: found["properties"]["version"] for found in copied.values()} == {
        name: found["properties"]["version"] for name, found in world.items().items()
    }


def test_a_mosaic_that_is_taken_out_gives_its_place_back_to_the_version_before(
    world: World, index: tuple[TransactionApi, str]
) -> None:
    late = newest(world, "33TWL")["id"]
    region = newest(world, "-region-")["id"]
    done = unveil("retract", late, "--out", world.out, "--json", home=world.folder / "home", extra=world._services)
    assert done.status == 0 and done.document == {"retracted": [late, region]}, "no region is left without a cell"
    assert newest(world, "-region-")["properties"]["version"] == "1" and problems_in(world.out) == []
    left = newest(world, "33TWL")
    assert left["id"] != late and left["properties"]["version"] == "1"
    assert index[0].items() == sorted(world.items()) and late not in world.items()
    (copy,) = (found for name, found in index[0].stored.items() if name.endswith(left["id"]))
    assert not copy["properties"].get("deprecated")


def test_what_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    def asked(*more: str | Path) -> Outcome:
        given = ("--source", "sample", "--out", tmp_path / "out", "--json")
        return unveil("mosaic", *given, *more, home=tmp_path / "home", extra=TINY_SETTINGS)

    region = tmp_path / "point.geojson"
    region.write_text('{"type": "Point", "coordinates": [15, 46]}')
    for more, words in (
        (("--period", "fortnight"), "fortnight"),
        (("--region", str(region)), "holds no area"),
        (("--method", "mode"), "method"),
    ):
        found = asked(*more)
        assert found.status == 2 and words in found.document["error"]["message"], found.err
