"""What a run says of itself is true: failures fail, what is broken is made again, what is left out is listed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.services.state import Login
from stac.catalog.validation import item_problems
from stac.search.static import sample_catalog
from tests.command import TINY_BBOX, Run
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


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_text("utf-8"))
    change(found)
    path.write_text(json.dumps(found), "utf-8")


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
