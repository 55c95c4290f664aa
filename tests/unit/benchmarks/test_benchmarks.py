"""Every benchmark at its smallest size: what is counted, and what its page says."""

from __future__ import annotations

import json
import math
import sys
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import demo, drift, ledger, report, scale, tile
from benchmarks.measuring import run_unveil
from benchmarks.report import Page
from flows.drift.compare import Verdict
from flows.errors import WorkFailed
from flows.ledger.schema import State
from flows.planning.workunit import ModelRef, make_plan
from flows.settings.loading import load_settings
from stac.grid.assets import find_asset
from stac.grid.cell import cell_of
from stac.load.stack import read_stack
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog


def test_a_page_is_written_with_its_command_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--out", "docs/results"])
    page = Page("Title", (report.table(("a", "b"), [(1, "x")]),), {"psnr": math.inf, "a": [1.5]}, b"PNG")
    report.publish("demo", page, report.parser("demo", "").parse_args(["--out", str(tmp_path)]))
    text = (tmp_path / "demo.md").read_text("utf-8")
    assert "`python -m benchmarks.demo --out docs/results`" in text and text.endswith(
        "| a | b |\n| --- | --- |\n| 1 | x |\n"
    )
    assert json.loads((tmp_path / "demo.json").read_text("utf-8")) == {"psnr": None, "a": [1.5]}
    assert (tmp_path / "demo.png").read_bytes() == b"PNG"


def test_a_command_is_measured_and_its_failure_named() -> None:
    found = run_unveil("doctor", ["doctor", "--json"])
    assert found.seconds > 0 and found.peak_bytes > 2**26 and found.result
    with pytest.raises(WorkFailed, match="unveil nothing ended with 2"):
        run_unveil("nothing", ["nothing"])
    text = demo.page_of([found]).markdown("c")
    assert f"| doctor | {found.seconds:.1f} | {found.peak_bytes / 2**30:.2f} |" in text


def test_every_date_is_planned_once_whatever_the_windows() -> None:
    squares, days = 10, 2 * ledger.WINDOW_DAYS
    whole = load_settings(None, {"datetime": f"2000-01-01T00:00:00Z/2000-02-{days - 31:02d}T23:59:59Z"})
    assert whole.query.end - whole.query.start < timedelta(days=days)
    planned_model = ModelRef("unveil-de", "1", "0" * 64, "weights")
    at_once = make_plan(ledger.scenes(whole.search, squares), whole, planned_model).units
    in_windows = list(islice(ledger.planned(len(at_once), squares), len(at_once)))
    assert {unit.work_id for unit in in_windows} == {unit.work_id for unit in at_once}
    later = next(unit for unit in in_windows if "20000121" in unit.target_id)
    assert len(later.source_ids) == 6, "three passes before and three after"


def test_ledgers_are_measured_at_every_size() -> None:
    measured = ledger.measure(units=45, sizes=(50, 100), lives=5)
    assert [tenth.units for tenth in measured.carried.tenths] == [4, 9, 13, 18, 22, 27, 31, 36, 40, 45]
    assert measured.carried.counts == {State.SUCCEEDED: 45}
    assert [(rates.database, rates.lines, rates.units) for rates in measured.ledgers] == [
        ("SQLite", 50, 5),
        ("SQLite", 100, 5),
    ]
    text = ledger.page_of(measured).markdown("c")
    assert "among 100 lines as among 50" in text and "45 SUCCEEDED" in text


def test_the_sample_is_mirrored_into_a_readable_cell(tmp_path: Path) -> None:
    side = 1100
    root = tile.write_big_cell(tmp_path / "big", side)
    items = open_source(str(root)).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    assert len(items) == 5
    cell = cell_of(items[0], "blue")
    assert cell.geobox.shape == (side, side) and cell.gsd_m == 10
    small = sample_catalog().parent / items[0].id / Path(find_asset(items[0], "blue").href).name
    with rasterio.open(small) as file:
        pixels = file.read(1)
    rows = slice(len(pixels) - 20, len(pixels) + 30)
    stack = read_stack(items, cell.window(rows, slice(0, 100)), ("blue",))
    np.testing.assert_array_equal(stack.dn[0, 0, :20], pixels[-20:, :100])
    np.testing.assert_array_equal(stack.dn[0, 0, 20:], pixels[:-31:-1, :100])


def test_parts_of_stages_are_not_counted_twice() -> None:
    stages = {"prepare": 1.0, "read": 5.0, "waited": 1.0, "restore": 7.0, "model": 6.0, "write": 2.0, "quality": 1.0}
    alone = tile.PipelineMeasurement(1024, 100, stages, 20.0)
    assert (alone.unit_seconds, alone.efficiency) == (12.0, 0.5)
    turn = tile.Turn({"load": 4.0, "write": 4.0}, 10.0, 2**30, stages, 15.0, 30.0, 2**30)
    measured = tile.TileMeasurement(2048, 5, (turn,), 3.0, 5.0, 2.0)
    text = tile.page_of([measured], alone).markdown("c")
    assert "| 5 | 12.0 | 8.0 | 1.50 | 1.50 | 30 | 1.00 | 1.50 | 2.50 |" in text
    assert "1.6, reached" in text and "1.2, **missed**" in text
    assert "take 12.0 s" in text and "0.8, **missed**" in text


def test_a_tile_of_many_dates_has_other_days(tmp_path: Path) -> None:
    root = tile.write_big_cell(tmp_path / "big", 300, 7)
    items = open_source(str(root)).search(Query.parse(SAMPLE_COLLECTION, None, "2023-08-01/2023-08-31"))
    assert len({item.datetime for item in items}) == 7


def test_two_workers_are_compared_with_one() -> None:
    one, two = (scale.ScaleRun(n, 6, 60.0 / n, 80.0 / n, 50.0, 5.0, 2**30) for n in (1, 2))
    measured = scale.ScaleMeasurement((one, two), 0.5, same_bytes=True)
    text = scale.page_of(measured).markdown("c")
    assert (
        "2.00 times as fast" in text and "1.7, reached" in text and "| 2 | 30.0 | 40.0 | 12.0 | 0.83 | 1.00 |" in text
    )


def test_a_large_offset_raises_an_alarm_and_the_sample_does_not() -> None:
    rows = dict(drift.measure())
    assert len(rows) == 10 + 2 + len(drift.SCENARIOS)
    assert rows["MGRS-33TWM, cloudy dates, as they are"].verdict is Verdict.STABLE
    assert rows["MGRS-33TWL, cloudy dates, offset +0.1"].verdict is Verdict.ALARM
    text = drift.page_of([*rows.items()]).markdown("c")
    assert text.count("| MGRS-33TWL, cloudy dates") == 1 + len(drift.SCENARIOS)
