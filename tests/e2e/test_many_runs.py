"""Many runs of one catalog: killed, at once, frozen, failed and tried again; nothing is lost, doubled or unseen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from de_model.errors import DeviceLost
from de_model.inference import engine
from flows.cli import app
from flows.ledger.schema import Entry, State
from flows.ledger.store import open_ledger
from flows.processing import model as loaded
from flows.processing.publishing import blocks_folder
from flows.services.state import Login
from flows.settings.loading import load_settings
from stac.catalog.validation import item_problems
from stac.search.static import sample_catalog
from tests.command import ROOT, TINY_BBOX, Run, environment, unveil
from tests.s3_server import S3Server
from tests.support.catalogs import problems_in

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1200)]
AUGUST_10, AUGUST_18 = "S2B_33TWM_20230810_0_L2A", "S2A_33TWM_20230818_0_L2A"


def command(*arguments: str | Path) -> Result:
    """Run a command in this process: what it does is under test here, not how it starts."""
    return CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])


def document(result: Result) -> Any:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_catalog().parent, tmp_path / "sample"))


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


def test_what_failed_is_tried_again_as_it_was_planned(sample: Path, services_here: None, tmp_path: Path) -> None:
    out = tmp_path / "catalog"
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


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_text("utf-8"))
    change(found)
    path.write_text(json.dumps(found), "utf-8")


def test_a_redrive_counts_what_cannot_be_made_as_planned(sample: Path, services_here: None, tmp_path: Path) -> None:
    out, item, band = tmp_path / "out", sample / AUGUST_18 / f"{AUGUST_18}.json", sample / AUGUST_18 / "B04.tif"
    whole, before = band.read_bytes(), item.read_text("utf-8")
    band.write_bytes(whole[:1000])
    source = ("--source", sample, "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--out", out)
    assert command("run", *source).exit_code == 1
    band.write_bytes(whole)
    edit(item, lambda found: found["properties"].update(updated="2026-01-01T00:00:00Z"))
    again = command("redrive", "--out", out)
    assert again.exit_code == 2 and not document(again)["ok"], "another try does not help"
    (entry,) = lines(out)
    assert (entry.state, entry.attempts) == (State.FAILED, 2) and "cannot be made as planned" in entry.error
    left = command("redrive", "--out", out, "--max-attempts", "2")
    assert left.exit_code == 0 and document(left)["exhausted"] == [AUGUST_18]
    item.write_text(before, "utf-8")
    assert command("run", *source).exit_code == 0, "a run that finds the scene as it was makes the unit"


def test_a_redrive_of_what_cannot_be_used_has_the_status_of_a_run(
    sample: Path, services_here: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    edit(sample / AUGUST_18 / f"{AUGUST_18}.json", lambda item: item["assets"].pop("scl"))
    source = ("--source", sample, "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--out", out)
    assert command("run", *source).exit_code == 2
    assert command("redrive", "--out", out).exit_code == 0, "it is not tried again"
    assert command("redrive", "--out", out, "--include-invalid").exit_code == 2
    edit(
        sample / AUGUST_18 / f"{AUGUST_18}.json", lambda item: item["properties"].update(updated="2026-01-01T00:00:00Z")
    )
    assert command("redrive", "--out", out, "--include-invalid").exit_code == 2
    (entry,) = lines(out)
    assert (entry.state, entry.attempts) == (State.INVALID, 3)


@pytest.fixture
def catalog(tiny_run: Run, tmp_path: Path) -> Path:
    """A published catalog of two products, with its state."""
    return Path(shutil.copytree(tiny_run.root, tmp_path / "catalog", ignore=shutil.ignore_patterns("prefect", "logs")))


def last_run(url: str, login: Login) -> tuple[dict[str, Any], list[str]]:
    """The state of the newest run of `clear-scenes`, and the log lines that the Prefect UI shows of it."""
    body = {"sort": "START_TIME_DESC", "limit": 1, "flows": {"name": {"any_": ["clear-scenes"]}}}
    with httpx.Client(base_url=url, auth=(login.user, login.password)) as client:
        (run,) = client.post("/flow_runs/filter", json=body).raise_for_status().json()
        logs = client.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
    return run["state"], [line["message"] for line in logs.raise_for_status().json() if line["name"] == "unveil"]


@pytest.mark.parametrize("what", ["failed", "invalid"])
def test_one_bad_scene_of_two_is_a_failed_run_that_says_so(
    what: str, sample: Path, prefect_url: str, prefect_login: Login, services_here: None, tmp_path: Path
) -> None:
    if what == "failed":
        os.truncate(sample / AUGUST_18 / "B04.tif", 1000)
    else:
        edit(sample / AUGUST_18 / f"{AUGUST_18}.json", lambda item: item["assets"].pop("scl"))
    given = ("run", "--source", sample, "--bbox", TINY_BBOX, "--out", tmp_path / "out")
    found = command(*given)
    assert found.exit_code == {"failed": 1, "invalid": 2}[what]
    states = {unit["target_id"]: unit["state"] for unit in document(found)["units"]}
    assert states == {AUGUST_10: "SUCCEEDED", AUGUST_18: what.upper()}
    sentence = {"failed": "Of 2 scenes 1 failed", "invalid": "Of 2 scenes 1 cannot be used"}[what]
    assert document(found)["error"]["message"].startswith(sentence)

    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)
    state, lines = last_run(prefect_url, prefect_login)
    assert state["type"] == "FAILED" and sentence in state["message"]
    ended = [line for line in lines if line.startswith(AUGUST_18)]
    assert any(f"{what.upper()} after" in line for line in ended), lines

    again = command(*given, "--allow-invalid")
    assert again.exit_code == (1 if what == "failed" else 0)


@pytest.mark.parametrize("damage", ["a file is missing", "a file is cut", "the item is cut", "the item is gone"])
def test_a_broken_product_is_seen_and_made_again(damage: str, catalog: Path, services_here: None) -> None:
    (item,) = catalog.glob(f"unveil-cloud-free/{AUGUST_18}*/*-unveil-*.json")
    before = (item.parent / "data.tif").read_bytes()
    match damage:
        case "a file is missing":
            (item.parent / "data.tif").unlink()
        case "a file is cut":
            os.truncate(item.parent / "data.tif", 1000)
        case "the item is cut":
            os.truncate(item, 100)
        case _:
            item.unlink()
    given = ("--bbox", TINY_BBOX, "--out", catalog)
    counted = command("census", *given)
    assert counted.exit_code == 1 and not document(counted)["complete"]
    standing = {row["scene_id"]: row["standing"] for row in document(counted)["scenes"]}
    assert standing[AUGUST_10] == "published" and standing[AUGUST_18] in ("broken", "missing")
    planned = {row["target_id"]: row["state"] for row in document(command("plan", *given))}
    assert (planned[AUGUST_10], planned[AUGUST_18]) == ("done", "new")

    done = command("run", *given)
    assert done.exit_code == 0, done.output
    assert [unit["target_id"] for unit in document(done)["units"]] == [AUGUST_18]
    assert item_problems(item) == [] and problems_in(catalog) == []
    assert (item.parent / "data.tif").read_bytes() == before
    assert document(command("census", *given, "--verify"))["complete"]


def test_a_run_with_nothing_to_make_brings_back_the_model_and_the_tables(catalog: Path, services_here: None) -> None:
    given = ("--bbox", TINY_BBOX, "--out", catalog)
    (table,) = catalog.glob("unveil-cloud-free/_items/*.parquet")
    table.unlink()
    shutil.rmtree(catalog / "unveil-models")
    assert problems_in(catalog) != []
    done = command("run", *given)
    assert done.exit_code == 0 and document(done)["units"] == [], done.output
    assert problems_in(catalog) == []


def test_another_area_of_the_same_scenes_is_missing_and_not_outdated(catalog: Path, services_here: None) -> None:
    counts = document(command("census", "--bbox", TINY_BBOX, "--out", catalog, "--seed", "9"))["counts"]
    assert (counts["outdated"], counts["missing"]) == (2, 0)
    elsewhere = command("census", "--bbox", "15.60,46.30,15.70,46.36", "--out", catalog)
    counts = document(elsewhere)["counts"]
    assert elsewhere.exit_code == 1 and (counts["outdated"], counts["missing"]) == (0, 2)


def test_a_product_changed_without_a_change_of_size_is_seen_by_verify(catalog: Path, services_here: None) -> None:
    (data,) = catalog.glob(f"unveil-cloud-free/{AUGUST_18}*/data.tif")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    given = ("--bbox", TINY_BBOX, "--out", catalog)
    assert command("census", *given).exit_code == 0
    assert command("census", *given, "--verify").exit_code == 1


def test_what_is_left_out_is_listed_everywhere(sample: Path, services_here: None, tmp_path: Path) -> None:
    item = sample / "S2B_33TWM_20230820_0_L2A" / "S2B_33TWM_20230820_0_L2A.json"
    edit(item, lambda found: found["assets"].clear())
    strange = "MSI/33TWM:18 août"
    edit(sample / AUGUST_18 / f"{AUGUST_18}.json", lambda found: found.update(id=strange))
    given = ("--source", sample, "--bbox", TINY_BBOX, "--out", tmp_path / "out")
    planned = {row["target_id"]: (row["state"], row["reason"]) for row in document(command("plan", *given))}
    assert planned[item.stem] == ("left out", f"Item {item.stem} has no assets, so there is nothing to read.")
    assert planned[strange][0] == "new"
    assert sum(1 for state, reason in planned.values() if state == "left out" and "% cloud" in reason) >= 2

    done = command("run", *given)
    assert done.exit_code == 0, done.output
    assert {each["target_id"]: each["cause"] for each in document(done)["left_out"]}[item.stem] == "unusable item"
    (unit,) = (unit for unit in document(done)["units"] if unit["target_id"] == strange)
    product = Path(unit["item_href"])
    assert planned[item.stem][1] in json.loads((product.parent / "metadata.json").read_text("utf-8"))["dropped"]
    links = json.loads(product.read_text("utf-8"))["links"]
    assert strange in {link["title"] for link in links if link["rel"] == "derived_from"}

    counted = command("census", *given)
    assert counted.exit_code == 1 and document(counted)["counts"]["invalid"] == 1
    assert problems_in(tmp_path / "out") == []


@pytest.mark.slow
def test_a_run_reads_from_s3_and_publishes_to_s3(s3: S3Server, services: dict[str, str], tmp_path: Path) -> None:
    scenes, out = s3.bucket("scenes"), s3.bucket("mosaics")
    s3.upload(sample_catalog().parent, scenes, "sample")
    state = tmp_path / "state"
    command = ("run", "--source", f"s3://{scenes}/sample", "--bbox", TINY_BBOX, "--out", f"s3://{out}/eo", "--json")
    extra = services | {"UNVEIL_S3_ENDPOINT": s3.url, "UNVEIL_S3_REGION": "us-east-1"}
    first = unveil(*command, "--state-dir", state, home=tmp_path / "home", extra=extra)
    assert first.status == 0, first.err
    units = first.document["units"]
    assert units and all(unit["state"] == "SUCCEEDED" for unit in units)
    objects = s3.keys(out)
    for unit in units:
        item = json.loads(objects[unit["item_href"].removeprefix(f"s3://{out}/")])
        assert item["properties"]["unveil:work_id"] == unit["work_id"]
    nodes = [json.loads(text) for name, text in objects.items() if "/_dates/" in name and "unveil-models" not in name]
    assert sum(link["rel"] == "item" for node in nodes for link in node["links"]) == len(units)
    assert not list((state / "staging").iterdir())
    everything = first.out + first.err + "".join(p.read_text("utf-8", "ignore") for p in state.rglob("*.json"))
    assert "very-secret" not in everything and b"very-secret" not in b"".join(objects.values())
    s3.requests.clear()
    again = unveil(*command, "--state-dir", state, home=tmp_path / "home", extra=extra)
    assert again.status == 0 and len(again.document["already_done"]) == len(units)
    assert s3.keys(out) == objects
    nowhere = unveil(*command[:-2], "s3://no-such-place/eo", "--json", home=tmp_path / "home", extra=extra)
    assert nowhere.status == 1 and "bucket no-such-place does not exist" in nowhere.err + nowhere.out
