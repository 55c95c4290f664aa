"""What a web page may ask of the servers that Unveil starts: nothing."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.services.prefect_server import prefect_api
from flows.services.state import read_login
from tests.command import unveil

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

PORTS = ("--prefect-port", "0", "--mlflow-port", "0", "--catalog-port", "0", "--worker-port", "0")
#: What creates, changes or lists something, as a page would send it.
REQUESTS = {
    "prefect": ("POST", "/api/flow_runs/filter", {}),
    "mlflow": ("POST", "/api/2.0/mlflow/experiments/create", {"name": "of a page"}),
}
#: Requests of pages: from another origin, under another name (DNS rebinding), from a sandboxed frame or a file.
PAGES = [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "null"}]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("up")
    out, home = folder / "out", folder / "home"
    outcome = unveil("up", "--detach", "--no-browser", "--json", *PORTS, "--out", out, home=home, timeout=500)
    assert outcome.status == 0, outcome.err
    places = {service["service"]: service["address"] for service in outcome.document["services"]}
    yield {**places, "out": out, "home": home, "shown": outcome.out + outcome.err, "login": outcome.document["login"]}
    unveil("down", "--out", out, home=home, timeout=120)


def ask(system: dict[str, Any], service: str, **options: Any) -> int:
    method, path, body = REQUESTS[service]
    return httpx.request(method, f"{system[service]}{path}", json=body, timeout=30, **options).status_code


@pytest.mark.parametrize("service", REQUESTS)
def test_a_control_plane_answers_its_login_and_no_page(system: dict[str, Any], service: str) -> None:
    login = read_login(Path(system["out"]) / ".unveil" / "up")
    auth = (login.user, login.password)
    assert ask(system, service) == 401
    assert ask(system, service, auth=(login.user, "guessed")) == 401
    # A browser that knows the login would send it along.
    assert {ask(system, service, auth=auth, headers=page) for page in PAGES} <= {403, 421}
    own = {"Origin": system[service]}
    assert ask(system, service, auth=auth, headers=own) == 200
    # What the page of the server itself is told before it sends anything.
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{system[service]}{REQUESTS[service][1]}", headers=preflight, timeout=30)
    assert "access-control-allow-origin" not in answer.headers


def test_websockets_are_checked_too(system: dict[str, Any]) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = system["prefect"].replace("http", "ws") + "/api/events/out"
    with pytest.raises(InvalidStatus):
        connect(address, origin="https://evil.example", subprotocols=["prefect"])  # type: ignore[arg-type,list-item]


def test_commands_find_the_login_by_themselves(system: dict[str, Any]) -> None:
    extra = {"UNVEIL_MLFLOW_URI": system["mlflow"], "PREFECT_API_URL": f"{system['prefect']}/api"}
    found = unveil("models", "--json", "--out", system["out"], home=system["home"], extra=extra, timeout=200)
    assert found.status == 0, found.err
    planned = unveil(
        "run", "--dry-run", "--json", "--source", "sample", "--out", system["out"], home=system["home"], extra=extra
    )
    assert planned.status == 0, planned.err
    nothing = ("retrain", "--datetime", "2020-01-01/2020-01-02", "--out", system["out"])
    ended = unveil(*nothing, home=system["home"], extra=extra, timeout=200)
    assert ended.status == 2 and "No scene" in ended.err, ended.err


def test_the_login_is_in_one_file_and_nowhere_else(system: dict[str, Any]) -> None:
    file = Path(system["login"])
    password = read_login(file.parent).password
    assert password not in system["shown"]
    for path in Path(system["out"]).rglob("*"):
        if path.is_file() and path != file:
            assert password.encode() not in path.read_bytes(), path


def test_state_is_private_and_the_catalog_is_not(system: dict[str, Any]) -> None:
    state = Path(system["out"]) / ".unveil"
    for path in (state, *state.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert path.is_symlink() or mode in ({0o700} if path.is_dir() else {0o600}), (path, oct(mode))
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE((state.parent / "catalog.json").stat().st_mode) == 0o644


def test_a_server_of_one_run_is_closed_to_pages_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with prefect_api(tmp_path) as url:
        post = {"url": f"{url}/flow_runs/filter", "json": {}}
        assert httpx.post(**post).status_code == 401
        assert httpx.post(**post, headers={"Host": "evil.example"}).status_code == 421
        assert httpx.post(**post, headers={"Origin": "https://evil.example"}).status_code == 403
        assert json.loads(httpx.get(f"{url}/health").text) is True
