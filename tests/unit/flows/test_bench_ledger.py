"""The made-up archive that planner and ledger are measured with, and what a global run is reckoned from."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest

from flows.bench.global_run import Assumed, Measured, as_markdown, demand_of
from flows.bench.ledger import as_markdown as ledger_page
from flows.bench.ledger import bench_ledger
from flows.bench.world import SQUARES, WINDOW_DAYS, planned, scenes
from flows.loading import load_settings
from flows.work import ModelRef, make_plan
from tests.command import ROOT


def test_every_date_of_every_square_is_planned_once_whatever_the_windows() -> None:
    units = list(planned(2 * SQUARES * 6 + 1))
    assert len(units) == len({unit.work_id for unit in units}) == 2 * SQUARES * 6 + 1
    assert len({unit.cell_id for unit in units}) == SQUARES
    later = next(unit for unit in units if "20000121" in unit.target_id)
    assert len(later.donor_ids) == 6, "three passes before and three after"


def test_windows_give_the_units_that_one_plan_gives() -> None:
    days = 2 * WINDOW_DAYS
    whole = load_settings(None, {"datetime": f"2000-01-01T00:00:00Z/2000-02-{days - 31:02d}T23:59:59Z"})
    assert whole.query.end - whole.query.start < timedelta(days=days)
    at_once = make_plan(scenes(whole.search), whole, ModelRef("unveil-de", "1", "0" * 64, "weights")).units
    in_windows = list(islice(planned(len(at_once)), len(at_once)))
    assert {unit.work_id for unit in in_windows} == {unit.work_id for unit in at_once}


def test_the_page_tells_every_size(tmp_path: Path) -> None:
    measured = bench_ledger(plans=(20, 40), sizes=(50, 100), lives=5, databases=("SQLite",))
    assert [plan.units for plan in measured.plans] == [20, 40]
    assert [(ledger.database, ledger.rates.lines) for ledger in measured.ledgers] == [("SQLite", 50), ("SQLite", 100)]
    page = ledger_page(measured, "the command")
    assert "the command" in page and "among 100 lines as among 50" in page


def test_a_global_run_follows_from_its_figures() -> None:
    measured, assumed = Measured(), Assumed()
    day = demand_of(measured, assumed)
    assert day.units == assumed.land_tiles / assumed.revisit_days * assumed.cloudy_share
    twice = demand_of(measured, replace(assumed, land_tiles=2 * assumed.land_tiles))
    for name in ("units", "core_hours", "gpu_hours", "requests_per_s", "terabytes", "lock_share"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(day, name))
    without = demand_of(measured, replace(assumed, model_share=0.0))
    assert without.gpu_hours == without.model_core_hours == 0 and without.core_hours == day.core_hours
    page = as_markdown(measured, assumed)
    assert "Nothing was run" in page and all(f"`{name}`" in page for name in ("unit_seconds", "land_tiles"))


def test_what_it_calls_measured_is_what_the_pages_say() -> None:
    """Whoever measures again has to change the figures here, too."""
    measured, results = Measured(), ROOT / "docs" / "results"
    unit = (results / "unit.md").read_text("utf-8")
    assert f"included: {measured.unit_seconds:.0f} s" in unit and f"{measured.unit_gib:.2f} GiB" in unit
    assert f"| read | {measured.read_seconds} |" in unit
    model = (results / "model.md").read_text("utf-8")
    row = next(line for line in model.splitlines() if line.startswith("| small | CNP + WA"))
    assert f"| {measured.step_seconds} | {measured.step_gflop:.0f} |" in row
    assert f"| {measured.locked_seconds} |" in (results / "publishing.md").read_text("utf-8")
    ledger = (results / "ledger.md").read_text("utf-8")
    lives = re.search(r"\| SQLite \| 1,000,000 \| [\d,]+ \| ([\d.]+) \|", ledger)
    assert lives is not None and float(lives[1]) == measured.ledger_ms
