"""Operating many runs: backfills, censuses, redrives, automations, metrics, and what `unveil up` keeps."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from filelock import FileLock
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from pydantic import TypeAdapter
from typer.testing import CliRunner

from flows.backfill import windows_of
from flows.census import Census, CensusRow, Standing, census, sentence_of
from flows.cli import app
from flows.cli.tables import print_census
from flows.errors import AlreadyRunning, InvalidSettings, WorkFailed
from flows.ledger.schema import Job, Lease, State
from flows.ledger.spent import Spent, Stopwatch, add_unit, totals
from flows.ledger.store import open_ledger, status
from flows.ops.automations import PREFIX, Notifier, automations
from flows.ops.exposition import exposed
from flows.ops.up.setup import begin_catalog
from flows.ops.up.supervisor import DEFAULT_PORTS, Service, down, health_of, place_for, require_down
from flows.processing.unit import job_of, result_of
from flows.progress import EventName
from flows.redrive import as_markdown, redrive_units
from flows.running.preparation import plan_rows, prepare_run
from flows.running.summary import summary_of
from flows.services.state import Record, read_record, write_record
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.errors import NotWritable
from stac.search.source import Query
from stac.search.static import sample_catalog
from tests.command import ROOT


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


@pytest.mark.parametrize(
    "command", ["census", "redrive", "status", "models", "rollback", "retract ITEM", "publish --to there"]
)
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


@pytest.mark.parametrize(
    ("standing", "attempts", "remedy"),
    [
        (Standing.MISSING, 0, "`unveil run` makes it"),
        (Standing.BROKEN, 1, "`unveil run` makes it"),
        (Standing.MISSING, 1, "`unveil run` makes it"),
        (Standing.FAILED, 1, "`unveil redrive` tries again"),
        (Standing.INVALID, 1, "`unveil redrive --include-invalid` tries again"),
    ],
)
def test_a_census_names_the_command_that_helps(standing: Standing, attempts: int, remedy: str) -> None:
    rows = (CensusRow("scene", "2023-08-18", standing, "w", "", attempts, "why"),)
    counts = dict.fromkeys(Standing, 0) | {standing: 1}
    assert sentence_of(Census("sample", "c", "2023-08-18", counts, False, rows)).endswith(f": why; {remedy}.")


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


def test_a_source_that_is_gone_does_not_keep_a_redrive_from_the_units_of_others(tmp_path: Path) -> None:
    settings = RunSettings(out=tmp_path / "out")
    with closing(open_ledger(settings)) as ledger:
        for name in ("first", "second"):
            source = shutil.copytree(sample_catalog().parent, tmp_path / name)
            ready = prepare_run(settings.model_copy(update={"source": str(source), "seed": len(name)}))
            job = job_of(ready.plan.units[0], ledger.save_request(ready.request))
            lease = ledger.claim(job, "another-host:1:0")
            assert isinstance(lease, Lease) and ledger.finish(lease, State.FAILED, error="cut short")
            shutil.rmtree(source)
    errors = redrive_units(settings).errors
    assert len(errors) == 2 and all(any(name in error for error in errors) for name in ("first", "second")), errors


def named(notifier: Notifier | None = None) -> dict[str, AutomationCore]:
    return {a.name.removeprefix(PREFIX): a for a in automations(notifier, silence_s=100)}


def triggered(automation: AutomationCore) -> EventTrigger:
    assert isinstance(automation.trigger, EventTrigger)
    return automation.trigger


def test_silence_crashes_a_run_unless_it_has_ended() -> None:
    automation = named()["runs without a heartbeat are crashed"]
    trigger, (action,) = triggered(automation), automation.actions
    assert trigger.posture is Posture.Proactive and trigger.within.total_seconds() == 100
    assert trigger.for_each == {"prefect.resource.id"} and trigger.after < trigger.expect
    assert {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")} < trigger.expect
    assert isinstance(action, ChangeFlowRunState) and action.state.value == "CRASHED"


def test_deployments_run_after_events_by_their_own_triggers() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    found = {each["name"]: _load_trigger(each["triggers"][0]) for each in deployments if "triggers" in each}
    assert {name: trigger.expect for name, trigger in found.items()} == {
        "retrain": {EventName.DRIFT_ALARM},
        "clear-scenes": {EventName.MODEL_PROMOTED},
        "redrive": {"prefect.flow-run.Crashed"},
    }
    related = [each.root["prefect.resource.name"] for each in found["redrive"].match_related[1:]]
    assert related == [["clear-scenes"]] or related == ["clear-scenes"], "a redrive is not redriven"
    assert found["redrive"].schedule_after.total_seconds() == 120


def _load_trigger(trigger: dict[str, Any]) -> Any:
    found = TypeAdapter(DeploymentTriggerTypes).validate_python(trigger)
    assert found.posture is Posture.Reactive
    return found


@pytest.mark.parametrize(("webhook", "kind"), [(True, CallWebhook), (False, SendNotification)])
def test_people_are_reported_where_a_block_is_named(webhook: bool, kind: type) -> None:
    block = UUID(int=7)
    told = named(Notifier(block, webhook))
    added = told.keys() - named().keys()
    assert added == {"failures are notified", "alarms are notified"}
    actions = [told[name].actions[0] for name in added]
    assert all(isinstance(action, kind) and action.block_document_id == block for action in actions)


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text("[1]")
    with pytest.raises(InvalidSettings, match=r"up\.json is not a record"):
        read_record(tmp_path)


def test_a_supervisor_is_at_work_while_it_holds_its_folder_whatever_the_record_says(tmp_path: Path) -> None:
    place = place_for(tmp_path, tmp_path / "state", {}, browser=False)
    assert {found.problem for found in health_of(place)} == {"not running"} and list(tmp_path.iterdir()) == []
    place.folder.mkdir(parents=True)
    # The number of a supervisor that was killed may be that of any process by now.
    write_record(place.folder, Record(supervisor=1, members={"mlflow": 1}))
    require_down(place)
    assert {found.problem for found in health_of(place)} == {"not running"} and down(place) is False
    with FileLock(place.folder / "up.lock"), pytest.raises(AlreadyRunning, match="unveil down --out"):
        require_down(place)


def test_ports_are_given_or_remembered_or_default(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    write_record(tmp_path / "up", Record(ports={"prefect": 4321}))
    place = place_for(tmp_path, tmp_path, {Service.MLFLOW: 0, Service.CATALOG: 1234}, browser=False)
    assert place.ports["prefect"] == 4321 and place.ports["catalog"] == 1234
    assert place.ports["worker"] == DEFAULT_PORTS[Service.WORKER] and place.ports["mlflow"] not in (0, 5000)


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


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = CliRunner().invoke(app, ["evaluate", "--out", str(tmp_path / "file")])
    assert isinstance(ended.exception, NotWritable) and f"{tmp_path / 'file'} cannot be written" in str(ended.exception)


def test_what_waits_for_review_is_not_called_published(tmp_path: Path) -> None:
    ready = prepare_run(load_settings(None, {"out": tmp_path / "out"}), looking=True)
    good, waiting, *_ = ready.plan.units
    places = {"unveil-cloud-free": good, "unveil-review": waiting}
    done = {unit.work_id: tmp_path / name / unit.item_id / f"{unit.item_id}.json" for name, unit in places.items()}
    summary = summary_of(replace(ready, done=done), "", 1.0)
    assert (summary.already_done, summary.in_review) == ((good.item_id,), (waiting.item_id,))


def test_a_scene_that_another_run_holds_to_the_end_is_not_published(tmp_path: Path) -> None:
    ready = prepare_run(load_settings(None, {"out": tmp_path / "out"}), looking=True)
    made, held, *_ = ready.plan.units
    results = [result_of(made, State.SUCCEEDED, item_href="a"), result_of(held, State.RUNNING, error="another run")]
    with pytest.raises(WorkFailed, match=f"Of 2 scenes 1 held by another run. The first, {held.target_id}: another"):
        summary_of(ready, "", 1.0, results).require_success(allow_invalid=True)
