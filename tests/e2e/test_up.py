"""`unveil up`: one command, a working system; it survives what happens to it, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.services.keeper import marked, sweep
from flows.services.state import read_login
from tests.command import TINY_BBOX, TINY_SETTINGS, unveil
from tests.prefect_service import PrefectService, poll

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]

PORTS = ("--prefect-port", "0", "--mlflow-port", "0", "--catalog-port", "0", "--worker-port", "0")
SCENES = {"settings": {"bbox": TINY_BBOX, "datetime": "2023-08-18"}}


class System:
    """A folder and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.out, self.home = folder / "out", folder / "home"

    def command(self, *arguments: str) -> Any:
        outcome = unveil(*arguments, "--out", self.out, "--json", home=self.home, extra=TINY_SETTINGS, timeout=600)
        return replace(outcome, err=outcome.err[-3000:])

    def up(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Start it in the background; return its services by name."""
        outcome = self.command("up", "--detach", "--no-browser", *arguments)
        assert outcome.status == 0, outcome
        return self.named(outcome.document)

    def services(self) -> dict[str, dict[str, Any]]:
        return self.named(self.command("up", "--no-browser", "--status").document)

    @staticmethod
    def named(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {service["service"]: service for service in document["services"]}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.command("down")
    sweep(str(made.out / ".unveil" / "up"), 0)


@pytest.mark.thorough
def test_one_command_makes_a_working_system_that_survives(system: System) -> None:
    services = system.up(*PORTS)
    addresses = {name: service["address"] for name, service in services.items()}
    login = read_login(system.out / ".unveil" / "up")
    auth = (login.user, login.password)
    assert all(httpx.get(address, follow_redirects=True, auth=auth).is_success for address in addresses.values())
    again = system.command("up", "--no-browser")
    assert again.status == 1 and "is up in" in again.sentence

    prefect = PrefectService(system.home, {}, int(addresses["prefect"].rpartition(":")[2]), auth=auth)
    state = prefect.ended(prefect.run("clear-scenes/clear-scenes", SCENES), 400)
    assert state["type"] == "COMPLETED", state
    collection = httpx.get(f"{addresses['catalog']}/catalog/catalog.json").json()["links"]
    assert any(link["rel"] == "child" for link in collection), "the item is served"
    found = httpx.get(
        f"{addresses['mlflow']}/api/2.0/mlflow/registered-models/get", params={"name": "unveil-de"}, auth=auth
    ).json()
    assert found["registered_model"]["aliases"] == [{"alias": "champion", "version": "1"}]
    assert len(httpx.post(f"{addresses['prefect']}/api/automations/filter", json={}, auth=auth).json()) >= 6

    # One dies, and is there again.
    (keeper,) = (psutil.Process(services["mlflow"]["pid"]),)
    for process in (*keeper.children(recursive=True), keeper):
        process.kill()
    poll(lambda: system.services()["mlflow"]["healthy"] or None, "MLflow did not come back")
    assert system.services()["mlflow"]["pid"] != keeper.pid

    # Somebody deletes the pool; the next start asks the server, and deploys again.
    httpx.delete(f"{addresses['prefect']}/api/work_pools/unveil", auth=auth).raise_for_status()
    assert system.command("down").document == {"stopped": True}
    assert not marked(str(system.out / ".unveil" / "up")), "nothing is left"
    assert {s["problem"] for s in system.services().values()} == {"not running"}

    # The same ports, and the state of before.
    services = system.up()
    assert {name: service["address"] for name, service in services.items()} == addresses
    assert prefect.deployment("clear-scenes/clear-scenes")["work_pool_name"] == "unveil"
    assert [run["state_type"] for run in prefect.runs("clear-scenes/clear-scenes")] == ["COMPLETED"]

    # A supervisor that is killed takes everything with it.
    supervisor = psutil.Process(services["prefect"]["pid"]).ppid()
    os.kill(supervisor, signal.SIGKILL)
    poll(lambda: not marked(str(system.out / ".unveil" / "up")) or None, "orphans are left")


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    system = System(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = system.command("up", "--no-browser", "--detach", *PORTS[2:], "--prefect-port", port)
    assert refused.status == 1 and f"Port {port} of the prefect service" in refused.sentence
    assert "--prefect-port" in refused.sentence and system.command("down").document == {"stopped": False}
