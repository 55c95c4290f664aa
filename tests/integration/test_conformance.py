"""stac-validator, which is not what publishing validates with, accepts what a run publishes and refuses what is broken.

pystac and rio-cogeo judge the catalog of the demo (test_demo), the libraries of STAC Browser its rasters
(test_node_contract). No network is needed: schemas come from pystac and from `stac/schemas`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pystac.validation
import pytest
from stac_validator.validate import StacValidate

import stac

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:.*PyPI package has moved:DeprecationWarning")]


def local_schemas() -> dict[str, str]:
    """Return the file of every schema that is here, by the address it is known under."""
    core = Path(pystac.validation.__file__).parent / "jsonschemas"
    found = {f"https://geojson.org/schema/{path.name}": str(path) for path in core.glob("geojson/*.json")}
    for path in core.glob("stac-spec/v*/*.json"):
        # Not by `$id`: that of common.json is misspelt upstream.
        part = path.stem if path.stem in ("catalog", "collection") else "item"
        found[f"https://schemas.stacspec.org/{path.parent.name}/{part}-spec/json-schema/{path.name}"] = str(path)
    for path in (Path(stac.__file__).parent / "schemas").rglob("*.json"):
        found[str(json.loads(path.read_text("utf-8"))["$id"]).rstrip("#")] = str(path)
    return found


def published(root: Path) -> Iterator[Path]:
    """Yield the root, and every collection, node and item below it, over its links."""
    waiting = [root / "catalog.json"]
    while waiting:
        path = waiting.pop()
        yield path
        links = json.loads(path.read_text("utf-8"))["links"]
        waiting += [(path.parent / link["href"]).resolve() for link in links if link["rel"] in ("child", "item")]


def accepted(path: Path) -> bool:
    """Return whether stac-validator accepts a document and all extensions that it declares."""
    schemas = local_schemas()
    declared = json.loads(path.read_text("utf-8")).get("stac_extensions", [])
    assert all(uri.rstrip("#") in schemas for uri in declared), "`stac/schemas` holds all that we write"
    return bool(StacValidate(str(path), schema_map=schemas).run())


def test_stac_validator_accepts_a_published_catalog_and_refuses_a_broken_item(tiny_run: Any, tmp_path: Path) -> None:
    documents = list(published(tiny_run.root))
    items = [path for path in documents if json.loads(path.read_text("utf-8"))["type"] == "Feature"]
    assert len(items) == 3 and [path for path in documents if not accepted(path)] == []
    broken = json.loads(items[0].read_text("utf-8"))
    del broken["geometry"]
    (tmp_path / "item.json").write_text(json.dumps(broken), encoding="utf-8")
    assert not accepted(tmp_path / "item.json")
