"""Items and collections with anything in them: they are used, or left out with a reason; nothing else happens."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pystac
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.planning.candidates import candidates
from flows.settings import GridKind, RunSettings
from stac.errors import StacError
from stac.grid.cell import cell_of
from stac.io.signing import Access
from stac.load.stack import ReadOptions, read_stack
from stac.product.item import public_href
from stac.search.source import Query
from stac.search.static import StaticSource
from tests.faults.world import LEFT, SIDE, TOP, World
from tests.fuzz.mutations import FIXED, values

QUERY = Query.parse("sentinel-2-l2a", "14,45,17,47", "2023-08-01/2023-08-30")
WANTED = {"collection": "sentinel-2-l2a", "datetime": "2023-08-01/2023-08-30", "min_cloud": 0, "max_cloud": 100}
BANDS = ("blue", "nir")

VALUES = values(
    "NaN", "N/A", "-1", "EPSG:0", "EPSG:32633", "2023-08-10T10:00:00Z", "0001-01-01T00:00:00+23:59", "05.10",
    "99999.9", "_N9999_", "L2SP", "sentinel-2a", "landsat-8", "nan", "../x.tif", "\x00", "file:///etc/passwd",
    "https://example.org/a b.tif", "\ud800", "180", 1e308, -0.0, 1e-320, 0, 1,
)  # fmt: skip
#: Fields that are read of an item or its assets, whether the sample has them or not.
FIELDS = (
    "eo:cloud_cover", "platform", "constellation", "datetime", "created", "updated", "grid:code", "proj:epsg",
    "proj:code", "proj:shape", "proj:transform", "proj:wkt2", "proj:projjson", "mgrs:utm_zone", "mgrs:latitude_band",
    "mgrs:grid_square", "s2:mgrs_tile", "s2:processing_baseline", "processing:version", "s2:generation_time",
    "s2:datastrip_id", "s2:sequence", "s2:nodata_pixel_percentage", "landsat:correction", "landsat:collection_number",
    "landsat:wrs_path", "landsat:wrs_row", "earthsearch:boa_offset_applied", "raster:scale", "raster:offset",
    "instruments", "view:sun_azimuth",
)  # fmt: skip
ASSET_FIELDS = (
    "href", "roles", "type", "title", "gsd", "eo:bands", "bands", "raster:bands", "proj:shape", "proj:transform",
    "proj:epsg", "proj:code", "data_type", "nodata", "raster:scale", "raster:offset",
)  # fmt: skip
Edit = tuple[tuple[Any, ...], Any]
edits = st.one_of(
    st.tuples(st.tuples(st.just("properties"), st.sampled_from(FIELDS)), VALUES),
    st.tuples(st.tuples(st.just("assets"), st.sampled_from(("blue", "scl")), st.sampled_from(ASSET_FIELDS)), VALUES),
    st.tuples(
        st.tuples(
            st.just("assets"), st.just("blue"), st.sampled_from(("eo:bands", "raster:bands")), st.just(0),
            st.sampled_from(("name", "common_name", "scale", "offset", "nodata", "data_type", "spatial_resolution")),
        ),
        VALUES,
    ),
    st.tuples(st.sampled_from([
        ("id",), ("geometry",), ("bbox",), ("links",), ("assets",), ("properties",), ("stac_version",), ("type",),
        ("collection",), ("stac_extensions",), ("geometry", "coordinates"), ("geometry", "type"), ("links", 0),
        ("assets", "blue"),
    ]), VALUES),
)  # fmt: skip
collection_edits = st.tuples(
    st.sampled_from([
        ("id",), ("links",), ("links", 0), ("links", 0, "href"), ("links", 0, "rel"), ("type",), ("license",),
        ("providers",), ("extent",), ("keywords",), ("item_assets",), ("stac_version",), ("description",),
    ]),
    VALUES,
)  # fmt: skip


def changed(document: dict[str, Any], changes: list[Edit]) -> dict[str, Any]:
    """Return a document with some values replaced; places that are gone are passed over."""
    document = copy.deepcopy(document)
    for path, value in changes:
        place: Any = document
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    return document


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of two scenes: one stays as it is (1.json), the other is changed (0.json)."""
    world = World(tmp_path_factory.mktemp("catalog"))
    transform = [10.0, 0.0, LEFT, 0.0, -10.0, TOP]
    raster = [{"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -0.1}]
    for day in (10, 13):
        document = world.scene(
            f"S2A_33TWM_202308{day}_0_L2A", f"2023-08-{day}T10:00:00Z", properties={"proj:epsg": 32633}
        )
        document["links"] = [{"rel": "self", "href": "./item.json"}]
        for band in BANDS:
            document["assets"][band] |= {
                "eo:bands": [{"name": band, "common_name": band}], "proj:shape": [SIDE, SIDE],
                "proj:transform": transform, "raster:bands": raster,
            }  # fmt: skip
    world.search()
    return world.folder


def replaced(catalog: Path, name: str, document: dict[str, Any]) -> Path:
    (catalog / name).write_text(json.dumps(document))
    return catalog


def scenes(catalog: Path, changes: list[Edit]) -> tuple[list[pystac.Item], list[str]]:
    """Return what a search finds when one of two items is changed, and why others are left out."""
    original = json.loads((catalog / "0.json").read_text())
    try:
        source = StaticSource(str(replaced(catalog, "0.json", changed(original, changes)) / "catalog.json"))
        return source.search(QUERY), [skipped.reason for skipped in source.skipped]
    finally:
        replaced(catalog, "0.json", original)


@settings(FIXED, max_examples=700)
@given(st.lists(edits, min_size=1, max_size=3), st.sampled_from(GridKind))
def test_an_odd_item_never_stops_what_is_done_to_the_others(catalog: Path, changes: list[Edit], kind: GridKind) -> None:
    found, reasons = scenes(catalog, changes)
    good = {item.id for item in found} & {"S2A_33TWM_20230813_0_L2A"}
    assert good or any("S2A_33TWM_20230813_0_L2A" in reason for reason in reasons)
    assert all(reason.strip() for reason in reasons)
    wanted = RunSettings(**WANTED, grid=kind, bands=BANDS, **({"cell_size": 256} if kind is GridKind.FIXED else {}))
    choices = [getattr(each, "target", None) or each for each in candidates(found, wanted)]
    if good:
        assert choices, "the good scene is a candidate, or it says why not"
    for item in found:
        json.dumps(public_href(item))


@settings(FIXED, max_examples=350)
@given(st.lists(edits, min_size=1, max_size=3))
def test_an_odd_scene_is_read_or_refused(catalog: Path, changes: list[Edit]) -> None:
    found, _ = scenes(catalog, changes)
    cell = cell_of(pystac.Item.from_file(str(catalog / "1.json")), "blue")
    for item in found:
        try:
            stack = read_stack([item], cell, BANDS, ReadOptions(access=Access(timeout_s=1)))
        except StacError as error:
            assert str(error).strip()
        else:
            assert stack.dn.shape == (1, 2, 64, 64)


@settings(FIXED, max_examples=250)
@given(st.lists(collection_edits, min_size=1, max_size=2))
def test_an_odd_collection_is_searched_or_refused(catalog: Path, changes: list[Edit]) -> None:
    original = json.loads((catalog / "catalog.json").read_text())
    replaced(catalog, "catalog.json", changed(original, changes))
    try:
        source = StaticSource(str(catalog / "catalog.json"))
        source.search(QUERY)
        source.collection("sentinel-2-l2a")
    except StacError as error:
        assert str(error).strip()
    finally:
        replaced(catalog, "catalog.json", original)
