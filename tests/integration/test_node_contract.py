"""What stac-js and ol-stac, the libraries of STAC Browser, make of every raster that a run publishes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.ops.serve.app import utm_definitions
from tests.installed import require_node
from tests.support.serving import running

# The first run installs the packages.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
SCRIPTS = Path(__file__).parents[1] / "node"
RASTERS = ("visual", "data", "provenance", "source_date", "reference_weight", "uncertainty")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the script said of a catalog."""

    status: int
    report: dict[str, Any]

    def failed(self, item_id: str) -> set[tuple[str | None, str]]:
        """(asset, check) of what failed for an item."""
        return {(each["asset"], each["check"]) for each in self.report["failures"] if each["item"] == item_id}


def verdict_on(catalog: Path, folder: Path) -> Verdict:
    definitions = folder / "utm.json"
    definitions.write_text(json.dumps(utm_definitions()), encoding="utf-8")
    with running(catalog, None) as url:
        command = [
            require_node(SCRIPTS),
            str(SCRIPTS / "contract.mjs"),
            f"{url}/catalog/catalog.json",
            str(definitions),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL, check=False
        )
    assert done.stdout, done.stderr
    return Verdict(done.returncode, json.loads(done.stdout))


def test_every_raster_passes(tiny_run: Any, tmp_path: Path) -> None:
    verdict = verdict_on(tiny_run.root, tmp_path)
    assert verdict.report["failures"] == [] and verdict.status == 0
    rasters = list(tiny_run.root.glob("unveil-*/*/*.tif"))
    assert (verdict.report["items"], verdict.report["rasters"]) == (3, len(rasters))


def asset(key: str, change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda item: change(item["assets"][key])


def as_stac_1_0(data: dict[str, Any]) -> None:
    """Write bands as most tools still do, which the Browser ignores in items of STAC 1.1."""
    data["eo:bands"] = data.pop("bands")


def shift(data: dict[str, Any]) -> None:
    data["proj:transform"][2] += 10_000


#: How an item is broken, and the checks that must notice.
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], set[tuple[str | None, str]]]] = {
    "old-bands": (
        asset("data", as_stac_1_0),
        {("data", "bands"), ("data", "red, green and blue")},  # its stretch still comes from the item's renders
    ),
    "plain-tiff": (
        asset("visual", lambda a: a.update(type="image/tiff; application=geotiff")),
        {(None, "default raster"), ("visual", "media type")},
    ),
    "no-range": (
        asset("uncertainty", lambda a: a["bands"][0].pop("statistics")),
        {("uncertainty", "range of blue")},
    ),
    "no-colour": (
        asset("provenance", lambda a: a["bands"][0]["classification:classes"][1].pop("color_hint")),
        {("provenance", "class 1")},
    ),
    "untyped-thumbnail": (asset("thumbnail", lambda a: a.pop("type")), {(None, "thumbnail")}),
    "displaced": (asset("visual", shift), {("visual", "extent")}),
    "another-zone": (
        lambda item: item["properties"].update({"proj:code": "EPSG:32601"}),
        {(key, check) for key in RASTERS for check in ("layer projection", "place")},
    ),
    "no-file": (asset("source_date", lambda a: a.update(href="./none.tif")), {("source_date", "layer")}),
}


@pytest.fixture(scope="module")
def broken(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """One catalog with a copy of an item for every way to break it."""
    folder = tmp_path_factory.mktemp("broken")
    above = folder / "c"
    first = next(path for path in sorted(tiny_run.root.glob("unveil-*/*/*.json")) if path.stem == path.parent.name)
    links = []
    for name, (change, _) in BROKEN.items():
        shutil.copytree(first.parent, above / name)
        item = json.loads(first.read_text("utf-8")) | {"id": name}
        change(item)
        (above / name / "item.json").write_text(json.dumps(item), encoding="utf-8")
        links.append({"rel": "item", "href": f"./c/{name}/item.json", "title": name})
    root = {"type": "Catalog", "stac_version": "1.1.0", "id": "broken", "description": "Broken items", "links": links}
    (folder / "catalog.json").write_text(json.dumps(root), encoding="utf-8")
    return verdict_on(folder, folder)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_item_fails_where_it_is_broken(broken: Verdict, name: str) -> None:
    assert broken.status == 1
    assert broken.failed(name) == BROKEN[name][1]
