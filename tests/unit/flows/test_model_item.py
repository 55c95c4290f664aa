"""The shipped model as an item of a catalog: what its card and its weights tell, once per catalog."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from de_model import checkpoint
from flows.models.model_item import ensure_model_item
from flows.planning.workunit import ModelRef
from stac.catalog.publish import StaticCatalog
from stac.errors import PublishError
from tests.support.catalogs import problems_in


@pytest.fixture
def shipped() -> ModelRef:
    weights = checkpoint.shipped_weights()
    return ModelRef("unveil-de", "1", checkpoint.sha256_of(weights), str(weights))


def test_a_model_is_published_once_however_many_runs_ask(tmp_path: Path, shipped: ModelRef) -> None:
    root = tmp_path / "catalog"
    with ThreadPoolExecutor(3) as pool:
        places = set(pool.map(lambda _: str(ensure_model_item(StaticCatalog(root), shipped)), range(3)))
    (place,) = places
    assert problems_in(root) == [] and not list((root / ".staging").glob("*"))
    assert len(list(root.glob("unveil-models/*/*.safetensors"))) == 1
    document = json.loads(Path(place).read_text())
    assert document["assets"]["weights"]["file:checksum"] == f"1220{shipped.sha256}"
    told = document["properties"]
    assert told["mlm:total_parameters"] == 3_363_012 and told["datetime"] is not None
    assert told["mlm:hyperparameters"]["preset"] == "small"
    collection = json.loads((root / "unveil-models" / "collection.json").read_text())
    assert collection["title"] == "Models" and collection["license"] == "Apache-2.0"


def test_a_model_that_a_killed_run_left_without_a_link_is_linked(tmp_path: Path, shipped: ModelRef) -> None:
    root = tmp_path / "catalog"
    ensure_model_item(StaticCatalog(root), shipped)
    (root / "unveil-models" / "collection.json").unlink()
    ensure_model_item(StaticCatalog(root), shipped)
    assert json.loads((root / "unveil-models" / "collection.json").read_text())["id"] == "unveil-models"
    assert problems_in(root) == []


def test_a_model_that_cannot_be_published_leaves_no_copy_of_its_weights(tmp_path: Path, shipped: ModelRef) -> None:
    (tmp_path / "unveil-models").touch()  # where its collection would be
    with pytest.raises(PublishError):
        ensure_model_item(StaticCatalog(tmp_path), shipped)
    assert not list(tmp_path.glob(".staging/*"))
