"""Items of products: the rules of STAC 1.1 and ours, official schemas, and what sources say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from odc.geo.crs import CRS
from shapely.geometry import shape

from stac.catalog.documents import collection_document
from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import schema_problem, validate_item
from stac.errors import InvalidProduct
from stac.product.item import Extension, credit, footprint, may_be_shown, projection, public_href
from stac.product.layers import ProductLayers
from stac.product.writer import ProductSummary

Edit = Callable[[dict[str, Any]], object]


def test_a_published_item_passes(document: dict[str, Any]) -> None:
    validate_item(document)
    assert document["stac_version"] == "1.1.0"


WRONG: dict[str, tuple[Edit, str]] = {
    "STAC 1.0 bands": (
        lambda d: d["assets"]["data"].update({"eo:bands": []}),
        "schema of extension eo/v2.0.0: assets/data: .eo:bands",
    ),
    "STAC 1.0 raster": (lambda d: d["assets"]["data"].update({"raster:bands": []}), "raster/v2.0.0: .*raster:bands"),
    "STAC 1.0 projection": (lambda d: d["properties"].update({"proj:epsg": 32633}), "projection/v2.0.0: .*proj:epsg"),
    "unknown extension": (
        lambda d: d["stac_extensions"].append("https://example.com/x.json"),
        "example.com/x.json is not known",
    ),
    "undeclared extension": (lambda d: d["stac_extensions"].remove(str(Extension.EO)), "eo/v2.0.0/.* is not declared"),
    "neither product nor model": (
        lambda d: d.update({"properties": {k: v for k, v in d["properties"].items() if "unveil" not in k}}),
        "neither a product nor a model",
    ),
    "no projection": (lambda d: d["properties"].pop("proj:code"), "proj:code is missing"),
    "no grid": (lambda d: d["assets"]["data"].pop("proj:shape"), "data has no proj:shape"),
    "no work id": (lambda d: d["properties"].pop("unveil:work_id"), "unveil:work_id is missing"),
    "no provenance": (lambda d: d["assets"].pop("provenance"), "asset provenance is missing"),
    "no checksum": (lambda d: d["assets"]["visual"].pop("file:checksum"), "visual has no size or SHA2-256"),
    "wrong checksum": (lambda d: d["assets"]["visual"].update({"file:checksum": "12"}), "visual has no size"),
    "no title": (lambda d: d["links"][-1].pop("title"), "link has no title"),
    "outside": (lambda d: d["assets"]["data"].update({"href": "./../data.tif"}), "outside the item's folder"),
    "elsewhere": (lambda d: d["assets"]["data"].update({"href": "/tmp/data.tif"}), "outside the item's folder"),  # noqa: S108 - an example
    "no statistics": (lambda d: d["assets"]["data"]["bands"][0].pop("statistics"), "band without"),
    "no geometry": (lambda d: d.pop("geometry"), "breaks the STAC schema"),
    "no instant": (lambda d: d["properties"].update({"datetime": "yesterday"}), "breaks the STAC schema"),
    "no version": (lambda d: d.pop("stac_version"), "is of STAC None"),
    "another version": (lambda d: d.update({"stac_version": "1.0.0"}), "is of STAC 1.0.0"),
    "no id": (lambda d: d.pop("id"), "breaks the STAC schema"),
    "an id that is a path": (lambda d: d.update({"id": "../up"}), "folder name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_item_that_breaks_a_rule_is_refused(document: dict[str, Any], name: str) -> None:
    change, says = WRONG[name]
    change(document)
    with pytest.raises(InvalidProduct, match=says) as caught:
        validate_item(document)
    assert "\n" not in str(caught.value)


def test_everything_a_person_reads_has_a_title(document: dict[str, Any]) -> None:
    assert all(asset.get("title") for asset in document["assets"].values())
    assert all(link.get("title") for link in document["links"])
    assert document["properties"]["title"] == "MGRS-33TWM 2023-08-10, clouds removed"
    assert "provenance" in document["properties"]["description"]


def test_the_item_names_what_it_was_made_of(document: dict[str, Any]) -> None:
    properties, links = document["properties"], document["links"]
    assert properties["unveil:target"] == "S2B_33TWM_20230810_0_L2A"
    assert properties["unveil:model"] == {"name": "unveil-de", "version": "1", "sha256": "a" * 64}
    sources = [link for link in links if link["rel"] == "derived_from"]
    assert [link["title"] for link in sources] == ["S2B_33TWM_20230810_0_L2A", "S2A_33TWM_20230815_0_L2A"]
    assert all(link["href"].startswith("https://earth-search.aws.element84.com/") for link in sources)
    assert [link["rel"] for link in links if link["rel"] == "license"] == ["license"]
    assert properties["datetime"].startswith("2023-08-10T")


def test_statistics_and_areas_leave_nodata_out(
    document: dict[str, Any], layers: ProductLayers, summary: ProductSummary
) -> None:
    band = document["assets"]["data"]["bands"][0]
    known = layers.data[0][layers.data[0] > 0]
    assert band["statistics"]["minimum"] == known.min() and band["statistics"]["maximum"] == known.max()
    assert band["statistics"]["mean"] == pytest.approx(known.mean(), abs=1e-3)
    assert band["statistics"]["stddev"] == pytest.approx(known.std(), abs=1e-3)
    assert band["statistics"]["valid_percent"] == pytest.approx(100 * 5 / 7, abs=1e-3)
    areas = summary.areas_km2
    assert areas["generated"] == pytest.approx(6 * 30 * 0.0144)
    assert sum(areas.values()) == pytest.approx(layers.provenance.size * 0.0144)
    assert document["properties"]["unveil:not_recoverable"] == pytest.approx(100 / 6, abs=1e-3)
    assert document["properties"]["eo:cloud_cover"] == 76.1, "of the target scene, as its source declares it"


def test_the_footprint_is_the_grid_in_degrees(layers: ProductLayers, document: dict[str, Any]) -> None:
    outline = shape(footprint(layers.geobox)[0])
    assert outline.is_valid and outline.exterior.is_ccw
    expected = shape(layers.geobox.geographic_extent.json)
    assert outline.symmetric_difference(expected).area < 1e-4 * expected.area
    assert document["bbox"] == pytest.approx(list(outline.bounds))


def test_numbers_in_the_item_are_plain_json(document: dict[str, Any]) -> None:
    json.dumps(document, allow_nan=False)
    assert document["assets"]["uncertainty"]["nodata"] == "nan" and document["assets"]["data"]["nodata"] == 0
    assert document["assets"]["source_date"]["nodata"] == np.iinfo(np.int32).min


def test_a_projection_without_a_code_is_written_out(document: dict[str, Any]) -> None:
    modis = CRS("+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs")
    named = projection(modis)
    assert named["proj:code"] is None and CRS(named["proj:wkt2"]) == modis
    assert projection(CRS("EPSG:32633")) == {"proj:code": "EPSG:32633"}
    document["properties"] |= named
    validate_item(document)
    del document["properties"]["proj:wkt2"]
    with pytest.raises(InvalidProduct, match="proj:code"):
        validate_item(document)


@pytest.mark.parametrize(
    ("method", "composite", "name"),
    [
        ("fused", "weighted mean of the other dates, each mapped to the target date", "synthesised"),
        ("geomedian", "geometric median of the other dates, as they are", "synthesised"),
        ("nearest", "nearest other date, as it is", "observed_other_date"),
    ],
)
def test_an_item_says_what_was_done(tmp_path: Path, staged: Any, method: str, composite: str, name: str) -> None:
    _, item = staged(StaticCatalog(tmp_path / "catalog"), "aaaa", composite=method)
    made = item.to_dict(transform_hrefs=False)
    assert composite in made["properties"]["processing:lineage"]
    assert composite in made["properties"]["processing:expression"]["expression"]
    classes = made["assets"]["provenance"]["classification:classes"]
    assert [each["name"] for each in classes if each["value"] == 2] == [name]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, staged: Any) -> Path:
    catalog = StaticCatalog(tmp_path_factory.mktemp("items") / "catalog")
    catalog.publish(*staged(catalog, "aaaa"))
    return Path(catalog.root)


@pytest.fixture
def document(published: Path) -> dict[str, Any]:
    return dict(json.loads(next(published.glob("*/*/*-unveil-aaaa.json")).read_text()))


def properties(**changes: Any) -> Edit:
    return lambda d: d["properties"].update(changes)


BROKEN: dict[str, tuple[Extension, Edit]] = {
    "projection": (Extension.PROJECTION, properties(**{"proj:bbox": [1, 2, 3]})),
    "raster": (Extension.RASTER, lambda d: d["assets"]["data"]["bands"][0].update({"raster:scale": "1"})),
    "eo": (Extension.EO, lambda d: d["assets"]["data"]["bands"][0].update({"eo:common_name": "purple"})),
    "file": (Extension.FILE, lambda d: d["assets"]["data"].update({"file:checksum": "XYZ"})),
    "classification": (
        Extension.CLASSIFICATION,
        lambda d: d["assets"]["provenance"]["classification:classes"][0].update({"color_hint": "#000000"}),
    ),
    "processing": (Extension.PROCESSING, properties(**{"processing:expression": {"format": "text"}})),
    "render": (Extension.RENDER, lambda d: d["properties"]["renders"]["visual"].pop("assets")),
    "version": (Extension.VERSION, properties(version=2)),
    "scientific": (Extension.SCIENTIFIC, properties(**{"sci:publications": [{"doi": "https://doi.org/10.1/x"}]})),
    "view": (Extension.VIEW, properties(**{"view:sun_elevation": 91})),
    "grid": (Extension.GRID, properties(**{"grid:code": "33TWM"})),
    "mgrs": (Extension.MGRS, properties(**{"mgrs:utm_zone": "33"})),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_field_is_refused_by_the_schema_of_its_extension(document: dict[str, Any], name: str) -> None:
    extension, change = BROKEN[name]
    assert str(extension) in document["stac_extensions"]
    change(document)
    problem = schema_problem(document) or ""
    assert f"extension {name}/" in problem and "\n" not in problem and len(problem) < 500, problem


def test_everything_that_is_published_keeps_all_schemas(published: Path, document: dict[str, Any]) -> None:
    assert schema_problem(document) is None
    assert len(document["stac_extensions"]) == len(BROKEN), "every extension of a product has its test"
    for path in published.rglob("c*.json"):
        assert schema_problem(json.loads(path.read_text())) is None, path


def test_an_extension_without_a_schema_and_a_document_without_a_type_are_refused(document: dict[str, Any]) -> None:
    unknown = document | {"stac_extensions": ["https://example.com/v1.0.0/schema.json"]}
    assert schema_problem(unknown) == "extension https://example.com/v1.0.0/schema.json is not known here"
    assert "its type is None" in (schema_problem({"stac_version": "1.1.0"}) or "")


BAD = [
    "javascript:alert(1)", "JavaScript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "vbscript:x",
    "data:text/html,<script>alert(1)</script>", "blob:x", "file:///etc/passwd", "//evil.example/x", "./LICENSE",
    "ftp://a.org/x", "http://", "https:///x", "https://me:hush@a.org/x", "https://a.org/x?token=hush",
    "https://a.org/\u202ex", "", None, 7,
]  # fmt: skip


def bare_item() -> pystac.Item:
    return pystac.Item(
        "x", {"type": "Point", "coordinates": [0, 0]}, [0, 0, 0, 0], datetime(2023, 8, 18, tzinfo=UTC), {}
    )


def source_of(href: Any) -> dict[str, Any]:
    return {
        "license": "other",
        "providers": [{"name": "Somebody", "roles": ["host"], "url": href}],
        "links": [{"rel": "license", "href": href}],
    }


@pytest.mark.parametrize("href", BAD)
def test_no_link_but_of_a_web_page_is_published(href: Any) -> None:
    assert not may_be_shown(href)
    product = bare_item()
    credit(product, source_of(href), "1")
    assert product.get_links("license") == []
    assert product.properties["providers"][0] == {"name": "Somebody", "roles": ["host"]}
    collection = collection_document("unveil-cloud-free", None, [], source_of(href), None, "1")
    assert not [link for link in collection["links"] if link["rel"] == "license"]
    assert collection["providers"][0] == {"name": "Somebody", "roles": ["host"]}


def test_links_of_web_pages_are_published() -> None:
    page, product = "https://creativecommons.org/licenses/by/4.0/", bare_item()
    credit(product, source_of(page), "1")
    assert [link.href for link in product.get_links("license")] == [page]
    assert product.properties["providers"][0]["url"] == page
    assert page in json.dumps(collection_document("unveil-cloud-free", None, [], source_of(page), None, "1")["links"])


@pytest.mark.parametrize("href", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
def test_a_canonical_link_of_another_kind_is_passed_over(href: str, tmp_path: Path) -> None:
    found = bare_item()
    found.set_self_href(str(tmp_path / "x.json"))
    found.add_link(pystac.Link("canonical", href))
    assert public_href(found) == str(tmp_path / "x.json")
