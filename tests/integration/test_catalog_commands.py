"""`unveil catalog check` and `unveil retract` on a catalog that a run wrote."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.command import unveil
from tests.support.catalogs import problems_in

pytestmark = pytest.mark.integration


@pytest.fixture
def catalog(tiny_run: Any, tmp_path: Path) -> Path:
    root = tmp_path / "catalog"
    shutil.copytree(tiny_run.root, root, ignore=shutil.ignore_patterns(".unveil", ".staging"))
    return root


def items(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("unveil-*/*/*-unveil-*.json"))


def test_a_check_finds_one_changed_byte(catalog: Path, tmp_path: Path) -> None:
    good = unveil("catalog", "check", "--out", catalog, "--json", home=tmp_path / "home")
    assert good.status == 0 and good.document["valid"] and good.document["problems"] == []
    assert good.document["catalog"] == str(catalog / "catalog.json") and good.document["counts"]["items"] == 3
    path = next(catalog.glob("unveil-*/*/data.tif"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bad = unveil("catalog", "check", str(catalog), "--json", home=tmp_path / "home")
    assert bad.status == 1 and not bad.document["valid"]
    (problem,) = bad.document["problems"]
    assert problem == {
        "code": "asset-checksum",
        "place": str(path),
        "message": "asset data differs from its checksum",
    }
    table = unveil("catalog", "check", str(catalog), "--no-checksums", home=tmp_path / "home")
    assert table.status == 0 and "3 items" in table.out and "no problems" in table.out


def test_a_retracted_item_is_gone_and_the_others_stay(catalog: Path, tmp_path: Path) -> None:
    first, *others = items(catalog)
    done = unveil("retract", first, "--out", catalog, "--json", home=tmp_path / "home")
    assert done.status == 0 and done.document == {"retracted": [first]}
    assert items(catalog) == others and problems_in(catalog) == []
    assert not list(catalog.glob(f"unveil-*/{first}"))


def test_nothing_is_retracted_when_one_id_is_wrong(catalog: Path, tmp_path: Path) -> None:
    before = items(catalog)
    refused = unveil("retract", before[0], "no-such-item", "--out", catalog, home=tmp_path / "home")
    assert refused.status == 2 and "no item no-such-item" in refused.sentence
    assert items(catalog) == before
