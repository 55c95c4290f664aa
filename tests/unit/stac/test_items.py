"""Items of products: the rules of STAC 1.1 and ours, checked without a network."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odc.geo.crs import CRS
from shapely.geometry import shape

from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import check_id, validate_item
from stac.errors import InvalidProduct
from stac.product.assets import file_info
from stac.product.item import Extension, footprint, projection
from stac.product.layers import ProductLayers
from stac.product.writer import ProductSummary

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def document(tmp_path: Path, staged: Any) -> dict[str, Any]:
    """A published item."""
    catalog = StaticCatalog(tmp_path / "catalog")
    found: dict[str, Any] = json.loads(catalog.publish(*staged(catalog, "aaaa")).read_text())
    return found


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
    broken = copy.deepcopy(document)
    change(broken)
    with pytest.raises(InvalidProduct, match=says) as caught:
        validate_item(broken)
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


def test_checksums_are_sha256_multihashes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert file_info(tmp_path / "file") == {"file:size": 3, "file:checksum": f"1220{digest}"}


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", "a..b", "", " ", "ä", "a b", "-a", "a\n"])
def test_ids_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidProduct):
        check_id(name)
    assert check_id("S2A_33TWL_20230818_0_L2A-unveil-aa44923a.v1")


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
