"""A staged product is measured, judged and marked, and lands in the collection it deserves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from flows.processing.publishing import ITEM_FILE, publish_staged, review_note
from flows.processing.record import Quality, quality_of
from flows.reports.page import write_report
from flows.settings import RunSettings
from stac.catalog.publish import StaticCatalog
from stac.io.files import write_json
from stac.product.item import ProductRecord, build_item
from stac.product.layers import ProductLayers, Provenance
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
