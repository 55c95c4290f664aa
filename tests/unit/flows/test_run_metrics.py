"""Sums that outlive processes, and what a scene costs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.ledger.spent import Spent, Stopwatch, add_unit, totals
from flows.ops.exposition import exposed
from flows.settings.loading import load_settings

SPENT = Spent(seconds=10, cpu_seconds=8, gpu_seconds=0, km2=4, bytes_written=1000, tiles=3, cost=0.5)


def test_units_of_many_workers_add_up(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            pool.submit(add_unit, tmp_path, SPENT)
    found = totals(tmp_path)
    assert (found["units"], found["tiles"], found["bytes_written"]) == (20, 60, 20_000)
    assert found["cost"] == pytest.approx(10)


def test_lost_sums_start_again_at_nothing(tmp_path: Path) -> None:
    add_unit(tmp_path, SPENT)
    (tmp_path / "metrics" / "totals.json").write_text("[")
    assert set(totals(tmp_path).values()) == {0.0}
    add_unit(tmp_path, SPENT)
    assert totals(tmp_path)["units"] == 1


def test_a_scene_costs_its_share_of_an_hour(tmp_path: Path) -> None:
    (tmp_path / "data.tif").write_bytes(b"x" * 500)
    watch = Stopwatch(time.monotonic() - 1800, time.process_time() - 90)
    spent = watch.spent(km2=100.0, tiles=7, model_seconds=60.0, on_gpu=True, staging=tmp_path, price_per_hour=3.0)
    assert spent.cost == pytest.approx(1.5, rel=0.01) and spent.bytes_written == 500
    assert spent.document["cost_per_1000_km2"] == pytest.approx(15, rel=0.01)
    assert spent.document["gpu_seconds_per_km2"] == 0.6
    assert spent.document["cpu_seconds_per_km2"] == pytest.approx(0.9, abs=0.1)


def test_a_folder_without_runs_has_metrics_and_gets_no_ledger(tmp_path: Path) -> None:
    text = exposed(load_settings(None, {"out": tmp_path / "out"}))
    assert 'unveil_units{state="running"} 0.0' in text and "unveil_ledger_up 1.0" in text
    assert not (tmp_path / "out").exists()
