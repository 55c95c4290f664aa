"""Reports: whatever a catalog says, it stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flows.report import data_uri, run_markdown, unit_table, warnings_of, write_report
from stac.errors import NotWritable
from stac.provenance import Provenance

EVIL = '<script>alert("x")</script>'


@pytest.fixture
def metadata() -> dict[str, Any]:
    return {
        "unit": {"target_id": EVIL},
        "model": {"name": EVIL, "version": "1", "sha256": "a" * 64},
        "parameters": {"eta": 0.3, EVIL: EVIL},
        "sources": [{"id": EVIL, "date": "2023-08-10"}],
        "dropped": [EVIL],
        "areas_km2": {p.name.lower(): 1.0 for p in Provenance},
        "figures": {"valid_km2": 6.0, "cloudy_km2": 5.5, "model_km2": 3.0, "not_recoverable_km2": 1.0},
        "harmonisation": [{"band": EVIL, "intercept": 0.001, "residual_std": 0.01, "n_pixels": 5}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "quicklook.png")
    return tmp_path


def test_nothing_from_a_catalog_becomes_markup(folder: Path, metadata: dict[str, Any]) -> None:
    page = write_report(folder, EVIL, metadata).read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") >= 9


def test_the_page_needs_no_other_file(folder: Path, metadata: dict[str, Any]) -> None:
    page = write_report(folder, "item", metadata).read_text("utf-8")
    assert data_uri(folder / "quicklook.png") in page
    assert 'src="http' not in page and "<link" not in page
    for provenance in Provenance:
        assert provenance.label in page and f"#{provenance.color}" in page


def test_a_report_without_other_dates_says_so(folder: Path, metadata: dict[str, Any]) -> None:
    page = write_report(folder, "item", metadata | {"harmonisation": []}).read_text("utf-8")
    assert "No other date was used." in page


def test_a_report_that_cannot_be_written_is_named(folder: Path, metadata: dict[str, Any]) -> None:
    (folder / "report.html").mkdir()
    with pytest.raises(NotWritable, match=r"report\.html"):
        write_report(folder, "item", metadata)


def test_the_reader_is_warned_of_what_was_not_seen(metadata: dict[str, Any]) -> None:
    found = warnings_of(metadata)
    assert [text for text in found if text.startswith("50% of the area was seen on no date")]
    assert [text for text in found if "nine tenths" in text]
    assert [text for text in found if text.startswith("1.0 km² could not be restored")]
    assert [text for text in found if EVIL in text]
    calm = {"valid_km2": 100.0, "cloudy_km2": 5.0, "model_km2": 0.1, "not_recoverable_km2": 0.0}
    assert warnings_of({"figures": calm, "dropped": []}) == []
    assert warnings_of({"figures": dict.fromkeys(calm, 0.0), "dropped": []}) == [], (
        "nothing valid is no division by zero"
    )


@pytest.fixture
def summary() -> dict[str, Any]:
    figures = {"cloudy_km2": 1.25, "other_dates_km2": 1.0, "model_km2": 0.25, "seconds": 2.0}
    good = {"target_id": "A", "state": "SUCCEEDED", "item_href": "a.json", "error": "", "figures": figures}
    bad = {"target_id": "B", "state": "FAILED", "item_href": "", "error": "no | pipe\nno break", "figures": None}
    model = {"name": "unveil-de", "version": "1"}
    return {"run_id": "r", "source": "sample", "collection": "c", "datetime": "d", "model": model, "units": [good, bad]}


def test_the_table_in_markdown_has_one_row_per_unit_and_every_cell(summary: dict[str, Any]) -> None:
    lines = run_markdown(summary).strip().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4 and {row.count("|") for row in rows} == {8}
    assert "| A | SUCCEEDED | 1.2 | 1.0 | 0.2 | 2.0 |  |" in rows
    assert rows[-1].startswith("| B | FAILED |") and "no / pipe no break" in rows[-1]


def test_rows_of_the_table_artifact_are_plain(summary: dict[str, Any]) -> None:
    good, bad = unit_table(summary["units"])
    assert good == {
        "target": "A", "state": "SUCCEEDED", "item": "a.json", "error": "",
        "cloudy_km2": 1.25, "other_dates_km2": 1.0, "model_km2": 0.25, "seconds": 2.0,
    }  # fmt: skip
    assert bad == {"target": "B", "state": "FAILED", "item": "", "error": "no | pipe\nno break"}
