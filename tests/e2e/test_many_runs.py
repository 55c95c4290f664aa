"""Many runs of one catalog: killed, at once, frozen, failed and tried again; nothing is lost, doubled or unseen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from de_model.errors import DeviceLost
from de_model.inference import engine
from flows.cli import app
from flows.ledger.opening import open_ledger
from flows.ledger.schema import Entry, State
from flows.processing import model as loaded
from flows.processing.publishing import blocks_folder
from flows.settings.loading import load_settings
from stac.search.static import sample_catalog
from tests.command import ROOT, TINY_BBOX, environment, unveil
from tests.support.catalogs import problems_in

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]
AUGUST_10, AUGUST_18 = "S2B_33TWM_20230810_0_L2A", "S2A_33TWM_20230818_0_L2A"


def command(*arguments: str | Path) -> Result:
    """Run a command in this process: what it does is under test here, not how it starts."""
    return CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])


def document(result: Result) -> Any:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


def lines(out: Path) -> list[Entry]:
    with closing(open_ledger(load_settings(None, {"out": out}))) as ledger:
        return list(ledger.page(100).entries)


def test_a_few_random_kills_lose_double_and_damage_nothing(tmp_path: Path) -> None:
    kills = [sys.executable, "-m", "tests.chaos.kill_runs", "--kills", "3", "--seed", "7", "--command-share", "0"]
    done = subprocess.run(
        [*kills, "--json"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"] and found["kills"] == 3, (found, done.stderr)


def test_two_runs_at_once_publish_each_unit_once_and_say_so(services: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "catalog"
    given = ("run", "--bbox", TINY_BBOX, "--out", out, "--json")
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda n: unveil(*given, home=tmp_path / str(n), extra=services), range(2)))
    assert [run.status for run in runs] == [0, 0], [run.err for run in runs]
    entries = lines(out)
    assert {(entry.state, entry.attempts) for entry in entries} == {(State.SUCCEEDED, 1)} and len(entries) == 2
    made = [u["work_id"] for run in runs for u in run.document["units"] if u["figures"]]
    assert sorted(made) == sorted(entry.work_id for entry in entries), "each unit is made by one run"
    for run in runs:
        assert len(run.document["units"]) + len(run.document["already_done"]) == 2
        for unit in run.document["units"]:
            assert unit["state"] == "SUCCEEDED" and (unit["figures"] or unit["note"] == "published by another run")
    assert problems_in(out) == [] and len(list(out.glob("*/*/data.tif"))) == 2


def test_a_frozen_plan_is_executed_exactly_and_a_backfill_makes_what_the_census_misses(
    services_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "catalog"
    given = ("--bbox", TINY_BBOX, "--out", out)
    (planned,) = document(command("plan", *given, "--datetime", "2023-08-18", "--freeze", plan))
    with monkeypatch.context() as other:
        other.setenv("UNVEIL_STEPS", "3")  # settings of today do not reach what was frozen
        done = document(command("run", "--plan", plan, "--out", out))
    assert [unit["work_id"] for unit in done["units"]] == [planned["work_id"]]

    counted = command("census", *given, "--verify")
    assert counted.exit_code == 1 and not document(counted)["complete"]
    standing = {row["scene_id"]: row["standing"] for row in document(counted)["scenes"]}
    assert (standing[AUGUST_18], standing[AUGUST_10]) == ("published", "missing")
    assert list(standing.values()).count("left out") == 3

    filled = command("backfill", *given, "--datetime", "2023-08-10/2023-08-20", "--window-days", "4")
    windows = document(filled)["windows"]
    assert filled.exit_code == 0 and [(w["published"], w["already_done"]) for w in windows] == [(1, 0), (0, 0), (0, 1)]
    counted = command("census", *given)
    assert counted.exit_code == 0 and document(counted)["counts"]["published"] == 2
    os.truncate(next(out.glob(f"*/{AUGUST_10}*/data.tif")), 1000)
    assert document(command("census", *given, "--verify"))["counts"]["broken"] == 1

    refused = command("run", "--plan", plan, "--out", out, "--seed", "4")
    assert refused.exit_code != 0 and "--seed cannot change a frozen plan" in str(refused.exception)


def test_a_gpu_lost_in_mid_run_leaves_the_rest_to_the_cpu(
    services_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is real but the loss: the engine says after its first tile what it says when a GPU answers no more."""
    out, results, lost = tmp_path / "catalog", engine.on_device, list[str]()

    def losing(*tiles_and_device: Any) -> Iterator[Any]:
        for found in results(*tiles_and_device):
            if not lost:
                lost.append("cuda:0")
                raise DeviceLost("The GPU cuda:0 no longer answers.")
            yield found

    monkeypatch.setattr(engine, "on_device", losing)
    monkeypatch.setattr(loaded, "_GPU_LOST", Event())
    done = command("run", "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--out", out)
    assert done.exit_code == 0 and lost and loaded._GPU_LOST.is_set()
    assert all(unit["state"] == "SUCCEEDED" and unit["figures"] for unit in document(done)["units"])
    assert {(entry.state, entry.attempts) for entry in lines(out)} == {(State.SUCCEEDED, 1)}
    assert problems_in(out) == [] and len(list(out.glob("*/*/data.tif"))) == 1


def test_what_failed_is_tried_again_as_it_was_planned(services_here: None, tmp_path: Path) -> None:
    sample, out = Path(shutil.copytree(sample_catalog().parent, tmp_path / "sample")), tmp_path / "catalog"
    band = sample / AUGUST_18 / "B04.tif"
    whole = band.read_bytes()
    band.write_bytes(whole[:1000])
    source = ("--source", sample, "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--out", out, "--seed", "11")
    assert command("run", *source).exit_code != 0
    looked = document(command("status", "--out", out, "--state", "failed"))
    assert looked["counts"]["FAILED"] == 1 and "B04.tif cannot be read" in looked["entries"][0]["error"]
    left = document(command("redrive", "--out", out, "--max-attempts", "1"))
    assert left["exhausted"] == [AUGUST_18] and left["runs"] == []

    band.write_bytes(whole)
    again = command("redrive", "--out", out)
    assert again.exit_code == 0 and document(again)["ok"]
    (entry,) = lines(out)
    assert (entry.state, entry.attempts) == (State.SUCCEEDED, 2) and problems_in(out) == []
    item = json.loads(Path(entry.item_href).read_text("utf-8"))
    assert item["properties"]["unveil:seed"] == 11, "with the settings it was planned with"

    # As a run leaves it that was killed just after publishing.
    blocks = blocks_folder(entry.work_id, load_settings(overrides={"out": str(out)}))
    blocks.mkdir(parents=True)
    assert command("run", *source).exit_code == 0 and not blocks.exists()
