"""Operations on many runs: windows of a backfill, folders and ledgers that do not exist, redrives."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.backfill import windows_of
from flows.census import Census, CensusRow, Standing, census
from flows.cli import app
from flows.cli.tables import print_census
from flows.errors import InvalidSettings
from flows.ledger.opening import open_ledger, status
from flows.ledger.schema import Job, Lease, State
from flows.ops.up.setup import begin_catalog
from flows.redrive import as_markdown, redrive_units
from flows.running.preparation import plan_rows
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.search.query import Query


@pytest.mark.parametrize(
    ("interval", "days"), [("2023-08-10/2023-08-20", 4), ("2023-08-10", 30), ("2023-01-01/2023-12-31", 7)]
)
def test_windows_cover_the_interval_without_a_gap(interval: str, days: int) -> None:
    whole = Query.parse("c", None, interval)
    parts = [Query.parse("c", None, text) for text in windows_of(whole.start, whole.end, days)]
    assert parts[0].start == whole.start and parts[-1].end == whole.end
    assert all(a.end == b.start for a, b in pairwise(parts))
    assert all(timedelta() < part.end - part.start <= timedelta(days=days) for part in parts)


def test_looking_at_a_ledger_that_is_not_there_makes_none(tmp_path: Path) -> None:
    found = status(load_settings(None, {"out": tmp_path / "out"}))
    assert found.entries == () and found.counts == dict.fromkeys(State, 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["census", "redrive", "status", "retract ITEM", "publish --to there"])
def test_a_mistyped_folder_is_named_and_not_made(command: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, [*command.split(), "--out", str(tmp_path / "typo")])
    assert isinstance(ended.exception, InvalidSettings) and f"{tmp_path / 'typo'}" in str(ended.exception)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("services_here")
def test_a_scheduled_census_before_the_first_run_finds_nothing_yet(tmp_path: Path) -> None:
    settings: Any = {"out": tmp_path / "out"}
    state: Any = census(settings, before_first_run=True, return_state=True)
    assert state.is_completed() and "Nothing is there yet" in state.message
    begin_catalog(tmp_path / "out")  # as `unveil up` does
    assert census(settings, before_first_run=True, return_state=True).is_completed()
    with closing(open_ledger(RunSettings(**settings))) as ledger:
        ledger.claim(Job("m", "item", "scene"), "another-host:1:0")
    assert census(settings, before_first_run=True, return_state=True).is_failed(), "a run has begun, and made nothing"


def test_what_is_outdated_and_not_missing_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (CensusRow("scene", "2023-08-18", Standing.OUTDATED, "w", "", 1, "made from other scenes"),)
    counts = dict.fromkeys(Standing, 0) | {Standing.OUTDATED: 1}
    print_census(Census("sample", "c", "2023-08-18", counts, True, rows))
    assert "1 outdated; nothing is missing, and the next run makes what is outdated again." in capsys.readouterr().out


def test_a_plan_is_looked_at_without_a_folder(tmp_path: Path) -> None:
    rows = plan_rows(load_settings(None, {"out": tmp_path / "typo"}))
    assert {row["state"] for row in rows} == {"new", "left out"} and not any(tmp_path.iterdir())


def test_a_redrive_names_mosaics_and_leaves_them_to_their_own_command(tmp_path: Path) -> None:
    settings = RunSettings(out=tmp_path / "out")
    with closing(open_ledger(settings)) as ledger:
        lease = ledger.claim(Job("m", "border-2023-08", "border-2023-08"), "another-host:1:0")
        assert isinstance(lease, Lease) and ledger.finish(lease, State.FAILED, error="cut short")
    summary = redrive_units(settings)
    assert (summary.without_plan, summary.runs, summary.errors) == (("border-2023-08",), (), ())
    assert "`unveil mosaic` continues it" in as_markdown(summary)
