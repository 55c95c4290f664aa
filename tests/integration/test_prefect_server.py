"""The local Prefect server: it answers while it is needed and is gone afterwards, however the command ends."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from flows.errors import ServiceUnavailable
from flows.progress import listening
from flows.services.prefect_server import configured_api_url, prefect_api
from stac.errors import NotWritable
from tests.command import ROOT, environment

pytestmark = pytest.mark.integration


def servers(state: Path) -> list[int]:
    """Ids of the processes of a state folder's server."""
    found = []
    for process in psutil.process_iter():
        try:
            if "flows.services.prefect_app" in process.cmdline() and process.cwd() == str(state.resolve() / "prefect"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PREFECT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "nobody"))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect-state")


def test_it_answers_runs_flows_and_is_gone(state: Path) -> None:
    said: list[str] = []
    with listening(lambda event: said.append(event.text)), prefect_api(state) as url:
        assert httpx.get(f"{url}/health").json() is True
        assert url.startswith("http://127.0.0.1:") and servers(state)
        from prefect import flow

        @flow(name="small", persist_result=False)
        def small() -> int:
            return 3

        assert small() == 3
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            assert [str(run.state_type) for run in client.read_flow_runs()] == ["StateType.COMPLETED"]
    assert not servers(state)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")
    assert [line.split(" ")[0] for line in said] == ["Starting", "Prefect"]
    with closing(sqlite3.connect(state / "prefect" / "prefect.db")) as connection:
        assert connection.execute("SELECT state_type FROM flow_run").fetchall() == [("COMPLETED",)]


def test_it_is_gone_after_an_exception(state: Path) -> None:
    with pytest.raises(ZeroDivisionError), prefect_api(state) as url:
        assert servers(state)
        raise ZeroDivisionError
    assert not servers(state)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")


def test_it_is_gone_when_its_parent_is_killed(state: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from flows.services.prefect_server import prefect_api\n"
        "with prefect_api(Path(sys.argv[1])) as url:\n    print(url, flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", program, str(state)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/health").is_success and servers(state)
        process.kill()
    deadline = time.monotonic() + 20
    while servers(state) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not servers(state)


def test_the_users_own_settings_are_left_alone(state: Path) -> None:
    assert configured_api_url() is None
    with prefect_api(state) as url:
        assert configured_api_url() == url
    assert configured_api_url() is None and not Path(os.environ["PREFECT_HOME"]).exists()


def test_a_configured_server_is_used_and_kept(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with prefect_api(state) as url, temporary_settings({PREFECT_API_URL: url}):
        with prefect_api(tmp_path / "unused") as used:
            assert used == url
        assert httpx.get(f"{url}/health").is_success and not (tmp_path / "unused").exists()


def test_a_configured_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        dead = f"http://name:secret@127.0.0.1:{silent.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: dead}),
            pytest.raises(ServiceUnavailable, match="PREFECT_API_URL") as caught,
            prefect_api(tmp_path / "unused"),
        ):
            pytest.fail("it was used")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "unused").exists()


def test_a_server_that_answers_something_else_is_refused(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.create_server(("127.0.0.1", 0)) as mute:

        def answer() -> None:
            for _ in range(3):
                connection, _ = mute.accept()
                connection.recv(4096)
                connection.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(ServiceUnavailable, match="503"),
            prefect_api(tmp_path),
        ):
            pytest.fail("it was used")


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="file"), prefect_api(tmp_path / "file" / "state"):
        pytest.fail("it was used")
