"""Notebooks and tutorial are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pystac
import pytest

from infra.docs.notebooks import FOLDER, executed
from tests.command import ROOT, Run, unveil

pytestmark = [pytest.mark.integration, pytest.mark.slow]


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


def test_the_page_of_items_names_every_field_of_a_product(tiny_run: Run) -> None:
    text = (ROOT / "docs" / "items.md").read_text("utf-8")
    families = tuple(re.findall(r"`([a-z]+:\w*)\*`", text))
    places = [place for place in tiny_run.root.glob("unveil-cloud-free/*/*.json") if place.name != "metadata.json"]
    assert places
    for item in map(pystac.Item.from_file, places):
        assets = [asset.extra_fields for asset in item.assets.values()]
        bands = [band for fields in assets for band in fields.get("bands", ())]
        found = {*item.properties, *(link.rel for link in item.links)}.union(*assets, *bands) - {"name"}
        assert [name for name in sorted(found) if f"`{name}`" not in text and not name.startswith(families)] == []
