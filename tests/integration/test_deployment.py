"""`prefect.yaml` on a fresh Prefect server: deployed, run by a real worker, watched over by automations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.ledger.schema import HELD, Entry, State
from flows.ledger.store import open_ledger
from flows.models.promotion import CHALLENGER, PREVIOUS, Move, watch
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.ops.automations import NOTIFY_WEBHOOK, Change
from flows.progress import EventName, emit
from flows.settings.loading import load_settings
from stac.catalog.publish import StaticCatalog
from stac.search.static import sample_catalog
from tests.command import ROOT, TINY_BBOX, environment, unveil
from tests.misbehaving_server import Asked, Reply, web_server
from tests.prefect_service import PrefectService, end, kill, poll, prefect_service, start_worker
from tests.support.catalogs import problems_in

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]

#: Of runs: the shortest that Prefect allows, and two of them with room for a busy machine.
HEARTBEAT_S, SILENCE_S = 30, 75
SCENES: dict[str, Any] = {"bbox": TINY_BBOX, "datetime": "2023-08-18", "samples": 2, "tile": 32, "overlap": 8}
#: One step a stage, the comparison on the nearest dates only.
BRIEF: dict[str, Any] = {
    "effort": 0.001,
    "datetime": "2023-08-13/2023-08-18",
    "calibration_cases": 1,
    "baseline_dates": 0,
    "comparison_cases": 1,
    "comparison_window": 192,
    "shadow_scenes": 1,
    # Wide: one step of training says nothing about a model.
    "gates": {
        "least_gain_db": -5.0,
        "least_psnr_db": 10,
        "least_trivial_gain_db": -20,
        "least_blocks": 3,
        "least_coverage": 0.1,
        "most_coverage": 1,
        "most_time_ratio": 20,
        "most_shadow_refusals": 1,
        "most_shadow_cloud": 1,
        "most_shadow_seams": 9,
        "most_shadow_width": 9,
    },
}


class Webhook:
    """What a webhook on loopback received."""

    def __init__(self) -> None:
        self.url, self.texts = "", list[str]()

    def __call__(self, asked: Asked) -> Reply:
        self.texts.append(asked.json()["text"])
        return Reply(204, b"")


@contextmanager
def client_of(service: PrefectService) -> Iterator[None]:
    from prefect.events.worker import EventsWorker
    from prefect.settings import temporary_settings

    with temporary_settings({"api.url": service.url, "home": service.home, "server.ephemeral.enabled": False}):
        yield
        EventsWorker.drain_all(timeout=10)


def automate(service: PrefectService, webhook: Webhook, *waits: str) -> dict[str, str]:
    """Run `unveil automations --apply`; return what was done to each."""
    extra = service.client({NOTIFY_WEBHOOK: webhook.url})
    done = unveil("automations", "--apply", "--json", *waits, home=service.home, extra=extra)
    assert done.status == 0, done.err
    return {line["name"]: line["change"] for line in done.document}


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    with web_server(receiver) as url:
        receiver.url = f"{url}hook?token=secret"
        yield receiver


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator[PrefectService]:
    """A fresh server, set up as prefect.yaml says at its top."""
    home = tmp_path_factory.mktemp("prefect")
    with prefect_service(home, environment(home)) as fresh:
        fresh.command("work-pool", "create", "unveil", "--type", "process")
        fresh.post("v2/concurrency_limits/", {"name": "gpu", "limit": 1})
        fresh.command("deploy", "--all")
        for name, settings in (("clear-scenes/clear-scenes", SCENES), ("retrain/retrain", BRIEF)):
            deployment = fresh.deployment(name)["id"]
            fresh.ask("PATCH", f"deployments/{deployment}", {"parameters": {"settings": settings}})
        assert set(automate(fresh, webhook).values()) == {Change.CREATE}
        yield fresh


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worker") / "out"


@pytest.fixture
def worker(service: PrefectService, out: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start_worker(service, tmp_path / "worker.log", settings_of(out))
    yield process
    end(process)


def settings_of(out: Path) -> dict[str, str]:
    return {"UNVEIL_OUT": str(out), "UNVEIL_SAMPLES": "1", "UNVEIL_STEPS": "1", "OMP_NUM_THREADS": "1"}


def require(service: PrefectService, run_id: str) -> None:
    state = service.ended(run_id)
    logs = service.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})
    assert state["type"] == "COMPLETED", f"{state}\n" + "\n".join(line["message"] for line in logs[-10:])


def test_each_deployment_is_scheduled_as_it_should_be(service: PrefectService) -> None:
    found = {d["name"]: d for d in service.post("deployments/filter", {})}
    schedules = {name: [s["schedule"].get("cron") for s in d["schedules"]] for name, d in found.items()}
    assert schedules["clear-scenes"] == ["0 3 * * *"] and schedules["census"] == ["0 9 * * *"]
    assert schedules["retrain"] == ["0 12 * * 0"] and schedules["promote"] == []
    assert all("unveil" in d["tags"] and d["global_concurrency_limit"]["limit"] == 1 for d in found.values())


def test_schedules_become_runs(service: PrefectService) -> None:
    """The server's scheduler works: it fails in silence with libraries it does not fit."""
    daily = {"deployments": {"id": {"any_": [service.deployment("clear-scenes/clear-scenes")["id"]]}}}
    runs = poll(lambda: service.post("flow_runs/filter", daily) or None, "the schedule made no runs")
    assert all(run["auto_scheduled"] and run["state_type"] == "SCHEDULED" for run in runs)


def test_a_run_of_which_one_scene_failed_is_notified(
    service: PrefectService, worker: subprocess.Popen[bytes], webhook: Webhook, tmp_path: Path
) -> None:
    sample = Path(shutil.copytree(sample_catalog().parent, tmp_path / "sample"))
    os.truncate(sample / "S2A_33TWM_20230818_0_L2A" / "B04.tif", 1000)
    catalog = {"source": str(sample / "catalog.json"), "out": str(tmp_path / "out")}
    wanted = SCENES | catalog | {"datetime": "2023-08-01/2023-08-31"}
    state = service.ended(service.run("clear-scenes/clear-scenes", {"settings": wanted}))
    assert state["type"] == "FAILED" and "Of 2 scenes 1 failed" in state["message"], state
    (item,) = StaticCatalog(tmp_path / "out").items()
    assert item.properties["unveil:target"].endswith("20230810_0_L2A"), "the whole scene is published"
    text = poll(lambda: next((t for t in webhook.texts if "clear-scenes run" in t), None), "no notification arrived")
    assert "is Failed" in text and "Of 2 scenes 1 failed. The first, S2A_33TWM_20230818_0_L2A: " in text


@pytest.mark.thorough
def test_a_worker_completes_each_deployment(
    service: PrefectService, worker: subprocess.Popen[bytes], out: Path, webhook: Webhook
) -> None:
    mosaics, training = service.run("clear-scenes/clear-scenes"), service.run("retrain/retrain")
    require(service, mosaics)
    # What is not there yet is counted, notified and failed.
    state = service.ended(service.run("census/census", {"settings": SCENES | {"datetime": "2023-08-10"}}))
    assert state["type"] == "FAILED" and "1 missing" in state["message"], state
    (item,) = StaticCatalog(out).items()
    assert item.properties["unveil:target"].endswith("20230818_0_L2A") and problems_in(out) == []
    census = service.run("census/census", {"settings": SCENES})
    for run_id in (training, census):
        require(service, run_id)
    (table,) = service.post(
        "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [census]}, "type": {"any_": ["table"]}}}
    )
    assert {row["standing"] for row in json.loads(table["data"])} == {"published"}
    registry = Registry(out / ".unveil")
    assert registry.aliases(MODEL_NAME) == {CHAMPION: "1", CHALLENGER: "2"}
    known = {run["id"] for run in service.runs("clear-scenes/clear-scenes")}
    require(service, service.run("promote/promote", {"settings": BRIEF | {"promotion": "automatic"}}))
    assert registry.aliases(MODEL_NAME) == {CHAMPION: "2", PREVIOUS: "1"}

    # The promotion is an event, and the event makes mosaics with the new version.
    again, *_ = poll(lambda: other_than(service, "clear-scenes/clear-scenes", known), "the promotion started nothing")
    require(service, again)
    assert "2" in {item.properties["unveil:model"]["version"] for item in StaticCatalog(out).items()}
    failure = poll(
        lambda: next((text for text in webhook.texts if "census run" in text), None),
        "no notification of the census arrived",
    )
    assert "1 missing" in failure and any("unveil.model.promoted" in text for text in webhook.texts)


def other_than(service: PrefectService, name: str, known: set[str]) -> list[str] | None:
    return [run["id"] for run in service.runs(name) if run["id"] not in known] or None


@pytest.mark.thorough
def test_a_drift_alarm_retrains(service: PrefectService, worker: subprocess.Popen[bytes]) -> None:
    before = len(service.runs("retrain/retrain"))
    with client_of(service):
        emit(EventName.DRIFT_ALARM, "collection.sample", {"what": "reflectance of blue"})
    poll(lambda: service.runs("retrain/retrain")[before:] or None, "the alarm started nothing")
    newest = max(service.runs("retrain/retrain"), key=lambda run: run["created"])
    require(service, newest["id"])
    assert newest["created_by"]["type"] == "AUTOMATION"


@pytest.mark.thorough
def test_a_promotion_by_hand_is_noticed(service: PrefectService, out: Path) -> None:
    registry = Registry(out / ".unveil")
    with client_of(service):
        watch(registry, MODEL_NAME)
        assert watch(registry, MODEL_NAME) is None
        registry._client.set_registered_model_alias(MODEL_NAME, CHAMPION, "1")  # as in the MLflow UI
        assert watch(registry, MODEL_NAME) == Move(MODEL_NAME, "1", "2")


@pytest.mark.thorough
def test_the_work_of_a_killed_worker_is_redriven(
    service: PrefectService, out: Path, webhook: Webhook, tmp_path: Path
) -> None:
    where = tmp_path / "killed"
    registry = f"sqlite:///{out / '.unveil' / 'mlflow.db'}"
    scenes = {"settings": SCENES | {"datetime": "2023-08-10", "samples": 8, "out": str(where), "mlflow_uri": registry}}
    quick = automate(service, webhook, "--silence", str(SILENCE_S))
    assert sorted(quick.values()) == sorted([Change.UPDATE] + [Change.NONE] * (len(quick) - 1))
    often = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
    first = start_worker(service, tmp_path / "first.log", settings_of(out) | often)
    try:
        run_id = service.run("clear-scenes/clear-scenes", scenes)

        def begun() -> list[Entry] | None:
            nonlocal run_id
            # The promotion before has started a run of the same deployment, of which there is one at a time.
            if service.ask("GET", f"flow_runs/{run_id}")["state"]["type"] == "CANCELLED":
                run_id = service.run("clear-scenes/clear-scenes", scenes)
            return held(where) or None

        poll(begun, "no unit was begun")
    finally:
        kill(first)
    assert service.ended(run_id)["type"] == "CRASHED"
    redrives = poll(lambda: service.runs("redrive/redrive") or None, "nothing is redriven")
    assert all(run["parameters"]["settings"] == scenes["settings"] for run in redrives) and held(where)
    automate(service, webhook)

    second = start_worker(service, tmp_path / "second.log", settings_of(out) | often)
    try:
        poll(lambda: [e for e in held(where) if e.attempts == 2] or None, "the unit was not tried again")
        service.stop()  # the server is restarted in the middle of the run
        service.start()
        # An event may fire twice; of two runs of the deployment one is cancelled.
        ends = {service.ended(run["id"])["type"] for run in service.runs("redrive/redrive")}
        assert "COMPLETED" in ends and ends <= {"COMPLETED", "CANCELLED"}, ends
    finally:
        end(second)
    assert problems_in(where) == [] and len(StaticCatalog(where).items()) == 1
    with closing(open_ledger(load_settings(None, {"out": where}))) as ledger:
        (entry,) = ledger.page(9).entries
    assert (entry.state, entry.attempts) == (State.SUCCEEDED, 2)


def held(where: Path) -> list[Entry]:
    """Return the units that a run works on, by the ledger."""
    if not (where / ".unveil" / "ledger.db").is_file():
        return []
    with closing(open_ledger(load_settings(None, {"out": where}))) as ledger:
        return [entry for entry in ledger.page(9).entries if entry.state in HELD]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_server_takes_the_deployments_for_containers(service: PrefectService, kind: str) -> None:
    """Runs last: the deployments have the same names. Twice, as the set-up of a new version does."""
    for memory in ("6g", "7g"):
        given = {"UNVEIL_IMAGE": "x/y:1", "POOL_DEFAULTS": json.dumps({"memory": memory})}
        command = [sys.executable, "infra/prefect/deploy.py", kind]
        done = subprocess.run(
            command, cwd=ROOT, env=service.client(given), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    pool = service.ask("GET", f"work_pools/unveil-{kind}")
    assert pool["type"] == kind and pool["base_job_template"]["variables"]["properties"]["memory"]["default"] == "7g"
    deployed = service.deployment("promote/promote")
    assert deployed["work_pool_name"] == f"unveil-{kind}" and deployed["job_variables"] == {"image": "x/y:1"}
    assert deployed["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "/opt/unveil"}}]
