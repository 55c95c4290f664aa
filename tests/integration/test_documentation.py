"""Notebooks, tutorial, and the Python of docs/catalog.md against `unveil serve`, run as they stand."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import rasterio

from flows.processing.publishing import keep_mirrors
from flows.settings.loading import load_settings
from infra.docs.notebooks import FOLDER, executed
from stac.product.fields import ItemKind
from tests.command import ROOT, Run, start, unveil
from tests.misbehaving_server import StacApi, web_server
from tests.support.catalogs import kind_of, undocumented

pytestmark = pytest.mark.integration


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample", "own-stack"])
def test_a_notebook_runs_and_shows_what_it_shows_in_the_site(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.ipynb"
    made, kept = executed(path, tmp_path), nbformat.read(path, as_version=4)
    for now, before in zip(made.cells, kept.cells, strict=True):
        kinds = [
            [sorted(output.get("data", {"stream": 0})) for output in cell.get("outputs", ())] for cell in (now, before)
        ]
        assert kinds[0] == kinds[1], f"run `make notebooks` again: {now.source}"


def test_the_commands_and_the_python_of_the_tutorial(
    tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    for line in re.findall(r"^\.venv/bin/unveil (status|catalog check) --out unveil-out$", text, re.MULTILINE):
        assert unveil(*line.split(), "--out", tiny_run.root, home=tmp_path).status == 0
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(block.replace("unveil-out", str(tiny_run.root)), "tutorial", "exec"), {})  # noqa: S102 - our own page
    assert re.search(r"S2._33TW._\S+ \d+% observed 0\.\d+", capsys.readouterr().out)


def test_the_reference_has_every_field_of_the_items_of_a_run(tiny_run: Run) -> None:
    places = [place for place in tiny_run.root.glob("unveil-*/*/*.json") if place.stem == place.parent.name]
    items = [json.loads(place.read_text("utf-8")) for place in places]
    assert {kind_of(item) for item in items} == {ItemKind.PRODUCT, ItemKind.MODEL}
    assert {item["id"]: undocumented(item) for item in items if undocumented(item)} == {}


PAGE = ROOT / "docs" / "catalog.md"
WRITTEN, WRITTEN_API = "http://127.0.0.1:8080", "http://127.0.0.1:8081"


def until_brace(stream: Any) -> str:
    """Read the one JSON document that the command prints while it goes on."""
    lines = []
    for line in stream:
        lines.append(line)
        if line.startswith("}"):
            break
    return "".join(lines)


@pytest.fixture(scope="module")
def address(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a process of its own: GDAL waits for answers without letting other threads run."""
    home = tmp_path_factory.mktemp("serve")
    server = start("serve", "--out", tiny_run.root, "--no-browser", "--port", "0", "--json", home=home)
    try:
        yield json.loads(until_brace(server.stdout))["url"]
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def api(tiny_run: Any) -> Iterator[str]:
    paths = tiny_run.root.glob("unveil-cloud-free/*/*-unveil-*.json")
    # The relative links of a static catalog mean nothing in an API.
    items = [json.loads(path.read_text("utf-8")) | {"links": []} for path in sorted(paths)]
    with web_server(StacApi(items, "unveil-cloud-free")) as url:
        yield url.rstrip("/")


@pytest.fixture(scope="module")
def found(tiny_run: Any, address: str, api: str) -> dict[str, Any]:
    """The names that all snippets of the page leave behind, run one after the other."""
    keep_mirrors(load_settings(overrides={"out": str(tiny_run.root)}))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        text = block.replace(WRITTEN, address).replace(WRITTEN_API, api).replace("unveil-out", str(tiny_run.root))
        exec(compile(text, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names


def pixels(tiny_run: Any, found: dict[str, Any], name: str) -> np.ndarray:
    """Pixels `(band, y, x)` of the first item, from disk."""
    path: Path = tiny_run.root / "unveil-cloud-free" / found["items"][0].id / f"{name}.tif"
    with rasterio.open(path) as file:
        return np.asarray(file.read())


def test_pystac_and_rasterio(tiny_run: Any, found: dict[str, Any], address: str) -> None:
    assert len(found["items"]) == 2 and all(href.startswith(address) for href in found["hrefs"].values())
    np.testing.assert_array_equal(found["blue"], pixels(tiny_run, found, "data")[0])
    provenance = pixels(tiny_run, found, "provenance")[0]
    np.testing.assert_array_equal(found["observed"], provenance == 1)
    classes = found["items"][0].assets["provenance"].extra_fields["classification:classes"]
    for entry in classes:
        hint = tuple(int(entry["color_hint"][i : i + 2], 16) for i in (0, 2, 4))
        assert found["colours"][entry["value"]][:3] == hint


def test_rio_tiler(tiny_run: Any, found: dict[str, Any]) -> None:
    visual = pixels(tiny_run, found, "visual")
    assert (found["info"].count, found["info"].dtype, found["info"].nodata_value) == (3, "uint8", 0)
    assert found["info"].crs.endswith("/32633")
    np.testing.assert_array_equal(found["preview"].data, visual)
    tile = found["tile"]
    assert tile.data.shape == (3, 256, 256) and (tile.mask > 0).sum() > 1000
    seen = np.asarray(tile.data)[:, tile.mask > 0]
    known = visual[:, visual.max(axis=0) > 0]
    np.testing.assert_allclose(seen.mean(axis=1), known.mean(axis=1), atol=10)
    assert found["classes"].startswith(b"\x89PNG")


def test_odc_stac(tiny_run: Any, found: dict[str, Any]) -> None:
    cube = found["cube"]
    assert dict(cube.sizes) == {"time": 2, "y": cube.sizes["y"], "x": cube.sizes["x"]}
    names = found["names"]
    np.testing.assert_array_equal(cube["nir"].values[0], pixels(tiny_run, found, "data")[names.index("nir")])
    np.testing.assert_array_equal(cube["provenance"].values[0], pixels(tiny_run, found, "provenance")[0])
    measured = found["measured"]["red"].values[0]
    np.testing.assert_array_equal(np.isfinite(measured), cube["provenance"].values[0] == 1)


def test_pystac_client_and_geopandas(found: dict[str, Any]) -> None:
    early = [item.id for item in found["items"] if item.datetime.isoformat() < "2023-08-16"]
    assert found["found"] == early and len(early) == 1
    assert sorted(found["table"]["id"]) == sorted(item.id for item in found["items"])
    assert list(found["clearest"]["eo:cloud_cover"]) == sorted(found["clearest"]["eo:cloud_cover"])
