"""`prefect.yaml` on a fresh Prefect server: deployed, scheduled, and completed by a real worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flows.services.prefect_server import _free_port
from stac.publish import StaticCatalog
from stac.validate import validate_catalog

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PREFECT = (sys.executable, "-m", "prefect")
#: A few square kilometres of the sample, one cloudy date.
SMALL = {"bbox": "15.95,45.75,16.05,45.82", "datetime": "2023-08-18", "samples": 1, "steps": 2}


@contextmanager
def background(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as record:
        process = subprocess.Popen(
            [*PREFECT, *arguments], cwd=ROOT, env=environment, stdout=record, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a fresh server, all its services on."""
    home, port = tmp_path_factory.mktemp("prefect"), _free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
    }
    arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with background(arguments, environment, home / "server.log"):
        _wait_for(url, home / "server.log")
        yield environment


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()[-2000:]}")


def prefect(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*PREFECT, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_worker_completes_the_daily_deployment(server: dict[str, str], tmp_path: Path) -> None:
    prefect(server, "work-pool", "create", "unveil", "--type", "process")
    prefect(server, "deploy", "--all")
    deployments = httpx.post(f"{server['PREFECT_API_URL']}/deployments/filter", json={}).json()
    (daily,) = [d for d in deployments if d["name"] == "daily"]
    assert [s["schedule"]["cron"] for s in daily["schedules"]] == ["0 3 * * *"]

    out = tmp_path / "out"
    parameters = json.dumps({"settings": SMALL | {"out": str(out)}})
    answer = httpx.post(
        f"{server['PREFECT_API_URL']}/deployments/{daily['id']}/create_flow_run",
        json={"parameters": json.loads(parameters), "state": {"type": "SCHEDULED"}},
    )
    run_id = answer.raise_for_status().json()["id"]
    worker = ["worker", "start", "--pool", "unveil", "--install-policy", "never"]
    with background(worker, server, tmp_path / "worker.log"):
        state = _ended(server["PREFECT_API_URL"], run_id)
    assert state["type"] == "COMPLETED", f"{state}\n{(tmp_path / 'worker.log').read_text()[-4000:]}"
    (item,) = StaticCatalog(out).items()
    assert item.properties["unveil:target"].endswith("20230818_0_L2A")
    assert validate_catalog(out) == []


def _ended(url: str, run_id: str) -> dict[str, str]:
    deadline = time.monotonic() + 480
    while time.monotonic() < deadline:
        state: dict[str, str] = httpx.get(f"{url}/flow_runs/{run_id}").json()["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        time.sleep(1)
    pytest.fail("the worker did not complete the run in time")
