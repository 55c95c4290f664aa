"""Items of models in the words of MLM, held against its official schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import check_id, schema_problem, validate_item
from stac.errors import InvalidProduct
from stac.product.assets import file_info
from stac.product.model_item import (
    CARD_FILE,
    MODELS_COLLECTION,
    TABLE_FILE,
    WEIGHTS_FILE,
    ModelRecord,
    build_model_item,
    model_item_href,
    model_item_id,
)
from tests.support.catalogs import problems_in

RECORD = ModelRecord(
    name="unveil-de",
    version="3",
    sha256="0123456789abcdef" * 4,
    bands=("blue", "green", "red", "nir"),
    gsd_m=10,
    architecture="Diffusion Enhancement",
    parameters=3_012_796,
    memory_bytes=12_051_184,
    framework_version="2.13.0+cpu",
    software_version="0.1.0",
    companding="sqrt[0,1]",
    hyperparameters={"eta": 0.3, "training.seed": 0},
    trained_on="sentinel-2-l2a 2023-08-10/2023-08-20",
    created=datetime(2026, 11, 27, tzinfo=UTC),
    trained_between=(datetime(2023, 8, 10, tzinfo=UTC), datetime(2023, 8, 20, tzinfo=UTC)),
)


def fill(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, CARD_FILE, TABLE_FILE):
        (folder / name).write_text(json.dumps({"file": name}))
    return folder


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    catalog = StaticCatalog(tmp_path / "catalog", MODELS_COLLECTION)
    staging = fill(catalog.staging("model"))
    place = catalog.publish(staging, build_model_item(RECORD, staging))
    assert problems_in(tmp_path / "catalog") == []
    return dict(json.loads(Path(str(place)).read_text()))


def test_a_model_item_says_what_goes_in_and_what_comes_out(document: dict[str, Any]) -> None:
    validate_item(document)
    properties = document["properties"]
    scene, needed = properties["mlm:input"]
    assert scene["bands"] == list(RECORD.bands) == [band["name"] for band in properties["bands"]]
    assert scene["input"] == {
        "shape": [-1, 4, -1, -1],
        "dim_order": ["batch", "band", "y", "x"],
        "data_type": "float32",
    }
    assert needed["input"]["dim_order"] == ["batch", "y", "x"]
    assert [out["name"] for out in properties["mlm:output"]] == ["image", "spread", "reference_weight"]
    assert properties["mlm:total_parameters"] == RECORD.parameters and properties["license"] == "Apache-2.0"
    assert (properties["start_datetime"][:10], properties["end_datetime"][:10]) == ("2023-08-10", "2023-08-20")
    assert "cite-as" in {link["rel"] for link in document["links"]}


def test_its_files_have_roles_sizes_and_checksums(tmp_path: Path, document: dict[str, Any]) -> None:
    folder = tmp_path / "catalog" / MODELS_COLLECTION / document["id"]
    assert set(document["assets"]) == {"weights", "card", "calibration"}
    assert document["assets"]["weights"]["roles"][0] == "mlm:model"
    for asset in document["assets"].values():
        found = file_info(folder / asset["href"])
        assert found == {name: asset[name] for name in found}


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "task": (lambda d: d["properties"].update({"mlm:tasks": ["cloud-removal"]}), "mlm/v1.4.0"),
    "input": (lambda d: d["properties"]["mlm:input"][0].pop("input"), "mlm/v1.4.0"),
    "name": (lambda d: d["properties"].update({"mlm:name": "_"}), "mlm/v1.4.0"),
    "artifact type": (lambda d: d["assets"]["weights"].pop("mlm:artifact_type"), "mlm/v1.4.0"),
    "bands": (lambda d: d["properties"].pop("bands"), "property bands is missing"),
    "framework version": (lambda d: d["properties"].update({"mlm:framework_version": "two"}), "mlm/v1.4.0"),
    "no card": (lambda d: d["assets"].pop("card"), "asset card is missing"),
    "no parameters": (lambda d: d["properties"].pop("mlm:total_parameters"), "mlm:total_parameters is missing"),
    "no checksum": (lambda d: d["assets"]["weights"].pop("file:checksum"), "weights has no size or SHA2-256"),
    "undeclared": (lambda d: d["stac_extensions"].pop(0), "mlm/v1.4.0/schema.json is not declared"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_item_that_breaks_a_rule_is_refused(document: dict[str, Any], name: str) -> None:
    change, says = BROKEN[name]
    change(document)
    with pytest.raises(InvalidProduct, match=says):
        validate_item(document)


@given(name=st.text("aZ09_. -", max_size=12).map(lambda middle: f"m{middle}9"))
def test_a_model_of_any_name_has_a_place_of_its_own(name: str) -> None:
    item_id = model_item_id(name, RECORD.sha256)
    if ".." not in name:
        assert check_id(item_id) == item_id and item_id.endswith(RECORD.sha256[:12])
    assert model_item_href(name, RECORD.sha256) == f"../../unveil-models/{item_id}/{item_id}.json"


def test_little_known_is_a_valid_item_too(tmp_path: Path) -> None:
    bare = replace(RECORD, trained_on="", trained_between=None, bands=("rededge1",))
    (fill(tmp_path) / TABLE_FILE).unlink()
    document = build_model_item(bare, tmp_path).to_dict(include_self_link=False, transform_hrefs=False)
    assert schema_problem(document) is None and set(document["assets"]) == {"weights", "card"}
