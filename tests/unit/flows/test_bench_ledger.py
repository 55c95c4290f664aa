"""The made-up archive that planner and ledger are measured with, and what a global run is reckoned from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest

from flows.bench.global_run import Assumed, as_markdown, demand_of, measured_in
from flows.bench.ledger import as_markdown as ledger_page
from flows.bench.ledger import bench_ledger
from flows.bench.world import WINDOW_DAYS, planned, scenes
from flows.errors import InvalidSettings
from flows.ledger.states import State
from flows.loading import load_settings
from flows.work import ModelRef, make_plan
from tests.command import ROOT

RESULTS = ROOT / "docs" / "results"
#: A small archive: what holds for ten squares holds for a hundred.
SQUARES = 10


def test_every_date_of_every_square_is_planned_once_whatever_the_windows() -> None:
    units = list(planned(2 * SQUARES * 6 + 1, SQUARES))
    assert len(units) == len({unit.work_id for unit in units}) == 2 * SQUARES * 6 + 1
    assert len({unit.cell_id for unit in units}) == SQUARES
    later = next(unit for unit in units if "20000121" in unit.target_id)
    assert len(later.donor_ids) == 6, "three passes before and three after"


def test_windows_give_the_units_that_one_plan_gives() -> None:
    days = 2 * WINDOW_DAYS
    whole = load_settings(None, {"datetime": f"2000-01-01T00:00:00Z/2000-02-{days - 31:02d}T23:59:59Z"})
    assert whole.query.end - whole.query.start < timedelta(days=days)
    at_once = make_plan(scenes(whole.search, SQUARES), whole, ModelRef("unveil-de", "1", "0" * 64, "weights")).units
    in_windows = list(islice(planned(len(at_once), SQUARES), len(at_once)))
    assert {unit.work_id for unit in in_windows} == {unit.work_id for unit in at_once}


def test_the_page_tells_every_size(tmp_path: Path) -> None:
    measured = bench_ledger(units=45, sizes=(50, 100), lives=5, databases=("SQLite",))
    assert [tenth.units for tenth in measured.carried.tenths] == [4, 9, 13, 18, 22, 27, 31, 36, 40, 45]
    assert measured.carried.counts == {State.SUCCEEDED: 45}
    assert [(ledger.database, ledger.rates.lines) for ledger in measured.ledgers] == [("SQLite", 50), ("SQLite", 100)]
    page = ledger_page(measured, "the command")
    assert "the command" in page and "among 100 lines as among 50" in page
    assert "| 45 |" in page and "45 SUCCEEDED" in page


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """The pages of results, two of them as they would be after another measurement."""
    pages = Path(shutil.copytree(RESULTS, tmp_path / "results"))
    (pages / "ledger.md").write_text("| SQLite | 10 | 300 | 3.1 |\n| SQLite | 1,000 | 250 | 4.25 |\n")
    (pages / "publishing.md").write_text(
        "| 0 | 0.2 | 0.03 |\n| 10,000 | 0.754 | 0.218 |\n\n| items in the end | 10,090 |\n"
        "| documents above the items, together | 1,038, 7.5 MB |\n"
    )
    return pages


def test_a_global_run_follows_from_its_figures(pages: Path) -> None:
    measured, assumed = measured_in(pages), Assumed()
    day = demand_of(measured, assumed)
    assert day.units == assumed.land_tiles / assumed.revisit_days * assumed.cloudy_share
    twice = demand_of(measured, replace(assumed, land_tiles=2 * assumed.land_tiles))
    for name in ("units", "core_hours", "gpu_hours", "requests_per_s", "terabytes", "lock_share"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(day, name))
    without = demand_of(replace(measured, tiles_percent=0.0), assumed)
    assert without.gpu_hours == without.model_core_hours == 0 and without.core_hours == day.core_hours
    page = as_markdown(measured, assumed)
    assert "Nothing was run" in page and all(f"`{name}`" in page for name in ("unit_seconds", "land_tiles"))


def test_measured_figures_are_those_of_the_pages(pages: Path) -> None:
    found = measured_in(pages)
    assert (found.ledger_ms, found.locked_seconds, found.above_items, found.above_megabytes) == (
        4.25,
        0.218,
        10090,
        7.5,
    )
    (pages / "unit.md").write_text("nothing")
    with pytest.raises(InvalidSettings, match=r"unit\.md does not tell .*`unveil bench unit`"):
        measured_in(pages)
