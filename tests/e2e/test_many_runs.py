"""Many runs of one catalog: killed, at once, frozen, failed and tried again; nothing is lost, doubled or unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, TINY_BBOX, TINY_SETTINGS, environment, unveil

from flows.ledger.book import Ledger
from flows.ledger.opening import ledger_place
from flows.ledger.records import Entry
from stac.sample_catalog import sample_catalog
from stac.validate import validate_catalog

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def services(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One Prefect server and one model registry for all runs of this module."""
    from flows.services.prefect_server import prefect_api

    registry = f"sqlite:///{(tiny_run.root / '.unveil' / 'mlflow.db').resolve()}"
    with prefect_api(tmp_path_factory.mktemp("server")) as url:
        yield TINY_SETTINGS | {"PREFECT_API_URL": url, "UNVEIL_MLFLOW_URI": registry}


def lines(out: Path) -> list[Entry]:
    with closing(Ledger(*ledger_place(out / ".unveil", str(out), None))) as ledger:
        return list(ledger.listing.page(100).entries)


def test_a_few_random_kills_lose_double_and_damage_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.kill_runs", "--kills", "5", "--seed", "7", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"] and found["kills"] == 5, (found, done.stderr)


def test_two_runs_at_once_publish_each_unit_once_and_say_so(services: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "catalog"
    given = ("run", "--bbox", TINY_BBOX, "--out", out, "--json")
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda n: unveil(*given, home=tmp_path / str(n), extra=services), range(2)))
    assert [run.status for run in runs] == [0, 0], [run.err for run in runs]
    entries = lines(out)
    assert {(entry.state, entry.attempts) for entry in entries} == {("SUCCEEDED", 1)} and len(entries) == 2
    made = [u["work_id"] for run in runs for u in run.document["units"] if u["figures"]]
    assert sorted(made) == sorted(entry.work_id for entry in entries), "each unit is made by one run"
    for run in runs:
        told = {u["work_id"] for u in run.document["units"]}
        assert len(told) + len(run.document["already_done"]) == 2
        for unit in run.document["units"]:
            assert unit["state"] == "SUCCEEDED" and (unit["figures"] or unit["error"] == "published by another run")
    assert validate_catalog(out) == [] and len(list(out.glob("*/*/data.tif"))) == 2


def test_a_frozen_plan_is_executed_exactly_and_the_census_finds_what_it_left(
    services: dict[str, str], tmp_path: Path
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "catalog"
    given = ("--bbox", TINY_BBOX, "--out", out, "--json")
    planned = unveil("plan", *given, "--datetime", "2023-08-18", "--freeze", plan, home=tmp_path, extra=services)
    assert planned.status == 0 and len(planned.document) == 1, planned.err
    # Other settings of the environment do not reach what was frozen.
    other = {name: value for name, value in services.items() if name not in TINY_SETTINGS}
    done = unveil("run", "--plan", plan, "--out", out, "--json", home=tmp_path, extra=other)
    assert done.status == 0, done.err
    assert [unit["work_id"] for unit in done.document["units"]] == [planned.document[0]["work_id"]]

    counted = unveil("census", *given, "--verify", home=tmp_path, extra=services)
    assert counted.status == 1 and not counted.document["complete"]
    standing = {row["scene_id"]: row["standing"] for row in counted.document["scenes"]}
    assert standing["S2A_33TWM_20230818_0_L2A"] == "published"
    assert standing["S2B_33TWM_20230810_0_L2A"] == "missing"
    assert list(standing.values()).count("left out") == 3

    filled = unveil("backfill", *given, "--datetime", "2023-08-10/2023-08-20", "--window-days", "4",
                    home=tmp_path, extra=services)  # fmt: skip
    windows = filled.document["windows"]
    assert filled.status == 0 and len(windows) == 3, filled.err
    assert [w["published"] for w in windows] == [1, 0, 0] and sum(w["already_done"] for w in windows) == 1
    counted = unveil("census", *given, home=tmp_path, extra=services)
    assert counted.status == 0 and counted.document["counts"]["published"] == 2

    changed = json.loads(plan.read_text())
    changed["units"][0]["donor_ids"] = []
    plan.write_text(json.dumps(changed))
    refused = unveil("run", "--plan", plan, "--out", out, "--json", home=tmp_path, extra=services)
    assert refused.status == 2 and refused.document["error"]["kind"] == "InvalidPlan"


def test_what_failed_is_tried_again_as_it_was_planned(services: dict[str, str], tmp_path: Path) -> None:
    import shutil

    sample = Path(shutil.copytree(sample_catalog().parent, tmp_path / "sample"))
    band = sample / "S2A_33TWM_20230818_0_L2A" / "B04.tif"
    whole = band.read_bytes()
    band.write_bytes(whole[:200_000])
    out = tmp_path / "catalog"
    given = ("run", "--source", sample, "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--out", out, "--json")
    failed = unveil(*given, "--seed", "11", home=tmp_path, extra=services)
    assert failed.status == 1
    looked = unveil("status", "--out", out, "--state", "failed", "--json", home=tmp_path, extra=services)
    assert looked.document["counts"]["FAILED"] == 1 and len(looked.document["entries"]) == 1

    once = ("redrive", "--out", out, "--json")
    left = unveil(*once, "--max-attempts", "1", home=tmp_path, extra=services)
    assert left.document["exhausted"] == ["S2A_33TWM_20230818_0_L2A"] and left.document["runs"] == []
    band.write_bytes(whole)
    again = unveil(*once, home=tmp_path, extra=services)
    assert again.status == 0 and again.document["ok"], again.err
    (entry,) = lines(out)
    assert (entry.state, entry.attempts) == ("SUCCEEDED", 2)
    assert validate_catalog(out) == []
    item = json.loads(Path(entry.item_href).read_text("utf-8"))
    assert item["properties"]["unveil:seed"] == 11
