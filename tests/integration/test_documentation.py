"""Notebooks and tutorial are run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from infra.docs.notebooks import FOLDER, executed
from stac.product.fields import ItemKind
from tests.command import ROOT, Run, unveil
from tests.support.item_fields import kind_of, undocumented

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


def test_the_reference_has_every_field_of_the_items_of_a_run(tiny_run: Run) -> None:
    places = [place for place in tiny_run.root.glob("unveil-*/*/*.json") if place.stem == place.parent.name]
    items = [json.loads(place.read_text("utf-8")) for place in places]
    assert {kind_of(item) for item in items} == {ItemKind.PRODUCT, ItemKind.MODEL}
    assert {item["id"]: undocumented(item) for item in items if undocumented(item)} == {}
