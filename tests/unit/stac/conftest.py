"""The shipped sample, and a copy of it that a test may break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest

from stac.query import Query
from stac.sample_catalog import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from stac.sources.static import StaticSource

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="session")
def whole_sample() -> Query:
    return Query.parse(SAMPLE_COLLECTION, SAMPLE_BBOX, SAMPLE_INTERVAL)


@pytest.fixture(scope="session")
def sample_items(whole_sample: Query) -> list[pystac.Item]:
    return StaticSource(str(sample_catalog())).search(whole_sample)


@pytest.fixture
def twl(sample_items: list[pystac.Item]) -> list[pystac.Item]:
    return [item.clone() for item in sample_items if "33TWL" in item.id]


@pytest.fixture
def catalog_copy(tmp_path: Path) -> Path:
    """The sample's JSON files without its rasters."""
    target = tmp_path / "catalog"
    shutil.copytree(sample_catalog().parent, target, ignore=shutil.ignore_patterns("*.tif"))
    return target / "catalog.json"


@pytest.fixture
def edit() -> Callable[[Path, Edit], None]:
    def change(path: Path, apply: Edit) -> None:
        document = json.loads(path.read_text())
        apply(document)
        path.write_text(json.dumps(document))

    return change
