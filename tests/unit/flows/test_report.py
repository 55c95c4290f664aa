"""What a product says of its quality: measured, judged, marked, and a report in which a catalog's text stays text."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import TypeAdapter

from flows.drift.compare import DriftReport, Verdict
from flows.processing.product import Quality, quality_of
from flows.processing.publishing import ITEM_FILE, publish_staged, review_note
from flows.reports.page import warnings_of, write_report
from flows.running.summary import run_markdown, unit_table
from flows.settings import RunSettings
from stac.catalog.publish import StaticCatalog
from stac.errors import NotWritable
from stac.io.files import write_json
from stac.product.item import ProductRecord, build_item
from stac.product.layers import SOURCE_DATE_NODATA, ProductLayers, Provenance
from stac.product.writer import write_product
from stac.quality.gate import Gate
from tests.support.catalogs import problems_in

BANDS = ("blue", "green", "red", "nir")
SHAPE = (64, 64)


def stage(folder: Path, gate: Gate | None) -> Quality:
    """Write a product with a flat patch from another date, its report and its item, as a work unit does."""
    provenance = np.full(SHAPE, Provenance.OBSERVED, np.uint8)
    provenance[20:44, 20:44] = Provenance.OTHER_DATES
    data = np.random.default_rng(0).integers(300, 900, (4, *SHAPE)).astype(np.uint16)
    data[:, 20:44, 20:44] = 600
    known = np.full(data.shape, 0.02, np.float32)
    box = GeoBox(SHAPE, Affine(120, 0, 500_000, 0, -120, 5_200_000), "EPSG:32633")
    layers = ProductLayers(
        data, provenance, np.full(SHAPE, 19579, np.int32), np.full(SHAPE, np.nan, np.float32), known, box, BANDS
    )
    summary = write_product([layers], box, BANDS, data, folder)
    quality = quality_of(folder, BANDS, gate)
    metadata = {
        "unit": {"target_id": "T"}, "model": {"name": "m", "version": "1", "sha256": "a" * 64}, "parameters": {},
        "software": {}, "sources": [{"id": "T", "date": "2023-08-10"}], "dropped": [], "normalisation": [],
        "areas_km2": summary.areas_km2, "seconds": {}, "quality": quality.document,
        "figures": {"valid_km2": 59.0, "cloudy_km2": 8.3, "model_km2": 0.0, "not_recoverable_km2": 0.0},
    }  # fmt: skip
    write_json(folder / "metadata.json", metadata)
    write_report(folder, "T-unveil-1", metadata)
    item = build_item(_record(), summary, folder)
    quality.mark(item)
    write_json(folder / ITEM_FILE, item.to_dict(include_self_link=False, transform_hrefs=False))
    return quality


def _record() -> ProductRecord:
    moment = datetime(2023, 8, 10, tzinfo=UTC)
    target = pystac.Item("T", None, None, moment, {})
    return ProductRecord(
        item_id="T-unveil-1", work_id="w", target=target, source_dates=(), cell_id="c", model_name="m",
        model_version="1", model_sha256="a" * 64, seed=0, parameters={}, quality={"mean_uncertainty": 0.02},
        software_version="0", created=moment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "state", "collection"),
    [
        (Gate(), "failed", "unveil-review"),
        (Gate(min_sharpness=0), "passed", "unveil-cloud-free"),
        (None, "off", "unveil-cloud-free"),
    ],
)
def test_the_gate_decides_where_a_product_lands(tmp_path: Path, gate: Gate | None, state: str, collection: str) -> None:
    staging = StaticCatalog(tmp_path).staging("w")
    quality = stage(staging, gate)
    path = publish_staged(staging, RunSettings(out=tmp_path), {})
    assert path.parent.parent.name == collection and problems_in(tmp_path) == []
    properties = json.loads(path.read_text())["properties"]
    assert properties["unveil:gate"] == state
    assert properties["unveil:quality"]["sharpness"] == 0 and properties["unveil:quality"]["mean_uncertainty"] == 0.02
    assert ("unveil:gate_limits" in properties) == (gate is not None)
    note = review_note(StaticCatalog(tmp_path), path.stem)
    assert note == (f"needs review: {quality.verdict.reasons[0]}" if state == "failed" else "")
    assert json.loads((path.parent / "metadata.json").read_text())["quality"]["gate"]["state"] == state


def test_undefined_figures_are_left_out_of_the_item_and_null_in_the_metadata(tmp_path: Path) -> None:
    stage(tmp_path, Gate())
    staged = json.loads((tmp_path / ITEM_FILE).read_text())["properties"]
    assert None not in staged["unveil:quality"].values()
    groups = json.loads((tmp_path / "metadata.json").read_text())["quality"]["figures"]["groups"]
    assert groups["restored"]["reference_weight"] is None


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
        "seconds": {EVIL: 1.0},
        "software": {"torch": EVIL},
        "normalisation": [{"item_id": EVIL, "band": EVIL, "intercept": 0.001, "residual_std": 0.01, "n_pixels": 5}],
    }


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written product of 60 x 60 pixels: observed, from another date, generated, and nodata."""
    folder, shape = tmp_path_factory.mktemp("product"), (60, 60)
    provenance = np.full(shape, Provenance.OBSERVED, np.uint8)
    provenance[20:40, 20:30], provenance[20:40, 30:40] = Provenance.OTHER_DATES, Provenance.GENERATED
    provenance[-3:] = Provenance.NODATA
    days = np.where(provenance == Provenance.OBSERVED, 19586, SOURCE_DATE_NODATA).astype(np.int32)
    data = np.random.default_rng(0).integers(300, 900, (4, *shape)).astype(np.uint16)
    data[:, provenance == Provenance.NODATA] = 0
    uncertainty = np.full(data.shape, 0.02, np.float32)
    weight = np.where(provenance == Provenance.GENERATED, 0.4, np.nan).astype(np.float32)
    box = GeoBox(shape, Affine(120, 0, 500_000, 0, -120, 5_200_000), "EPSG:32633")
    layers = ProductLayers(data, provenance, days, weight, uncertainty, box, BANDS)
    write_product([layers], box, BANDS, data, folder)
    return folder


@pytest.fixture
def folder(product: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(product, tmp_path / "product"))


@pytest.fixture
def judged(product: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata with the quality of the product, which fails two limits."""
    gate = Gate(min_sharpness=1.7, max_half_width=0.01)
    return metadata | {"quality": quality_of(product, BANDS, gate).document}


def test_nothing_from_a_catalog_becomes_markup(folder: Path, metadata: dict[str, Any]) -> None:
    page = write_report(folder, EVIL, metadata).read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(") >= 9


class Page(HTMLParser):
    """The elements of a page; fails where one is closed that was not opened last."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def values(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.found if attribute in attributes]


def test_the_page_is_well_formed_and_every_picture_has_a_text(folder: Path, judged: dict[str, Any]) -> None:
    text = write_report(folder, "item", judged).read_text("utf-8")
    page = Page(text)
    assert page.opened == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {"quality", "plots", "maps", "areas", "sources", "match", "run"} <= set(ids)
    pictures = [attributes for tag, attributes in page.found if tag in ("img", "svg")]
    assert len(pictures) == 6 and all(p.get("alt") or p.get("aria-label") for p in pictures)
    references = [h for h in page.values("href") + page.values("xlink:href") if h.startswith("#")]
    assert references and {h[1:] for h in references} <= set(ids)
    assert all(src.startswith("data:image/png;base64,") for src in page.values("src"))
    assert not {"script", "link"} & {tag for tag, _ in page.found}, "it needs no other file"
    assert {f"#{p.color}" in text and p.label in text for p in Provenance} == {True}


def test_the_page_says_what_the_gate_said(folder: Path, judged: dict[str, Any]) -> None:
    page = write_report(folder, "item", judged).read_text("utf-8")
    assert "Needs review" in page and "✗ fail" in page and "✓ pass" in page
    for reason in judged["quality"]["gate"]["reasons"]:
        assert reason in page
    assert len(judged["quality"]["gate"]["reasons"]) == 2
    assert "Passed the quality gate" not in page


def test_a_report_is_the_same_whenever_it_is_written_and_named_where_it_cannot(
    folder: Path, metadata: dict[str, Any]
) -> None:
    alone = metadata | {"normalisation": []}
    page = write_report(folder, "item", alone).read_text("utf-8")
    assert "No other date was used." in page and write_report(folder, "item", alone).read_text("utf-8") == page
    (folder / "report.html").unlink()
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
    return {
        "run_id": "r",
        "source": "sample",
        "collection": "c",
        "datetime": "d",
        "model": model,
        "left_out": (),
        "remade": (),
        "units": [good, bad],
    }


def test_the_table_of_a_run_has_a_row_per_unit_and_its_report_their_number(summary: dict[str, Any]) -> None:
    good, bad = summary["units"]
    waiting = good | {"target_id": "C", "note": "needs review: Seam ratio is 4, above the limit of 3."}
    assert "Units: 2 SUCCEEDED, 1 FAILED." in run_markdown(summary | {"units": [good, bad, waiting]}, "mosaics")
    figures = {"cloudy_km2": 1.25, "other_dates_km2": 1.0, "model_km2": 0.25, "seconds": 2.0}
    assert unit_table([good, bad, waiting]) == [
        {"target": "A", "state": "SUCCEEDED", "item": "a.json", "error": ""} | figures,
        {"target": "B", "state": "FAILED", "item": "", "error": "no | pipe\nno break"},
        {"target": "C", "state": "SUCCEEDED", "item": "a.json", "error": waiting["note"]} | figures,
    ]


def test_a_scene_without_any_clear_ground_has_a_report(folder: Path, judged: dict[str, Any]) -> None:
    nothing = DriftReport(
        verdict=Verdict.STABLE,
        sentence="Nothing was compared.",
        units=1,
        training={"made_of": "x"},
        features=(),
        left_out=("No clear pixel.",),
    )
    drift = {"drift": {"comparison": TypeAdapter(DriftReport).dump_python(nothing, mode="json"), "note": ""}}
    assert "Nothing was compared. No clear pixel." in write_report(folder, "item", judged | drift).read_text("utf-8")
