"""Independent validators accept what a run publishes, and refuse it when it is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.load.conformance import by_pystac, by_rio_cogeo, by_stac_validator, page, published

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:.*PyPI package has moved:DeprecationWarning")]


def items_among(documents: Iterable[Path]) -> list[Path]:
    return [path for path in documents if json.loads(path.read_text("utf-8"))["type"] == "Feature"]


def test_validators_accept_a_published_catalog(tiny_run: Any) -> None:
    documents = list(published(tiny_run.root))
    assert len(items_among(documents)) == 3
    rasters = list(tiny_run.root.glob("unveil-*/*/*.tif"))
    rows = [by_stac_validator(documents), by_pystac(documents), by_rio_cogeo(rasters)]
    assert [row.refused for row in rows] == [(), (), ()]
    assert [row.checked for row in rows] == [len(documents), len(documents), len(rasters)]
    assert page(rows).count("| 100 % |") == 3


def test_validators_refuse_what_is_broken(tiny_run: Any, tmp_path: Path) -> None:
    item = next(item for item in items_among(published(tiny_run.root)) if (item.parent / "thumbnail.png").is_file())
    broken = json.loads(item.read_text("utf-8"))
    del broken["geometry"]
    path = tmp_path / "item.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    raster = tmp_path / "visual.tif"
    shutil.copyfile(item.parent / "thumbnail.png", raster)
    rows = [by_stac_validator([path]), by_pystac([path]), by_rio_cogeo([raster])]
    assert [len(row.refused) for row in rows] == [1, 1, 1]
    assert page(rows).count("| 0 % |") == 3
