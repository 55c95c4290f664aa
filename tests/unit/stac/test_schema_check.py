"""Items and collections against the official schemas, by our check and by the validators of the field; no network."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.validation import JsonSchemaSTACValidator
from pystac.validation.local_validator import get_local_schema_cache
from stac_validator.validate import StacValidate

from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import SCHEMAS, schema_paths, schema_problem
from stac.product.item import Extension

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of all schemas by address, those of STAC itself among them."""
    folder = tmp_path_factory.mktemp("core")
    files = {uri: str(path) for uri, path in schema_paths().items()}
    for number, (uri, schema) in enumerate(get_local_schema_cache().items()):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(schema))
        files[uri] = str(path)
    return files


@pytest.fixture
def published(tmp_path: Path, staged: Any) -> Path:
    catalog = StaticCatalog(tmp_path / "catalog")
    catalog.publish(*staged(catalog, "aaaa"))
    return tmp_path / "catalog"


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
    broken = copy.deepcopy(document)
    change(broken)
    problem = schema_problem(broken) or ""
    assert f"extension {name}/" in problem and "\n" not in problem and len(problem) < 500, problem


def test_everything_that_is_published_keeps_all_schemas(published: Path, document: dict[str, Any]) -> None:
    assert schema_problem(document) is None
    assert len(document["stac_extensions"]) == len(BROKEN), "every extension of a product has its test"
    for path in published.rglob("c*.json"):
        assert schema_problem(json.loads(path.read_text())) is None, path


def test_stac_validator_agrees(published: Path, schemas: dict[str, str]) -> None:
    for path in [*published.glob("*/*/*-unveil-aaaa.json"), published / "unveil-cloud-free" / "collection.json"]:
        check = StacValidate(str(path), schema_map=dict(schemas))
        assert check.run(), check.message
        (message,) = check.message
        declared = {schemas[uri] for uri in json.loads(path.read_text())["stac_extensions"]}
        assert declared <= set(message["schema"]), message


def test_pystac_agrees(published: Path, schemas: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    validator = JsonSchemaSTACValidator()
    validator.schema_cache |= {uri: json.loads(Path(path).read_text()) for uri, path in schemas.items()}
    monkeypatch.setattr("pystac.validation.RegisteredValidator._validator", validator)
    assert pystac.Catalog.from_file(str(published / "catalog.json")).validate_all() == 1


def test_an_extension_without_a_schema_and_a_document_without_a_type_are_refused(document: dict[str, Any]) -> None:
    unknown = document | {"stac_extensions": ["https://example.com/v1.0.0/schema.json"]}
    assert schema_problem(unknown) == "extension https://example.com/v1.0.0/schema.json is not known here"
    assert "its type is None" in (schema_problem({"stac_version": "1.1.0"}) or "")


def test_every_extension_has_its_schema_and_each_file_says_where_it_is_from() -> None:
    assert {str(extension) for extension in Extension} <= set(schema_paths())
    for uri, path in schema_paths().items():
        assert json.loads(path.read_text())["$id"].removesuffix("#") == uri
    assert "Apache-2.0" in (SCHEMAS / "README.md").read_text()
