"""The services of infra/compose, their commands, environment and health checks as they stand there, as processes.

What a container adds (users, read-only roots, networks) is not tried: there is no engine. The STAC API, which pgstac's
tests run, the tile server and Grafana are not started.
"""

from __future__ import annotations

import runpy
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.services.prefect_server import _free_port
from stac.publish import StaticCatalog
from stac.validate import validate_catalog
from tests.command import ROOT, TINY_BBOX
from tests.compose_stack import REFERENCE, ProcessStack, documents
from tests.prefect_service import FINAL, poll
from tests.s3_server import S3Server, s3_server
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.thorough, pytest.mark.timeout(900)]

PREPARE = ROOT / "infra" / "compose" / "prepare.py"


def passwords(postgres: Postgres) -> dict[str, str]:
    """Every variable that the files ask for, each with a value of its own."""
    text = "".join(path.read_text("utf-8") for path in documents())
    asked = {match["name"] for match in REFERENCE.finditer(text) if match["kind"] == ":?"}
    made = {name: secrets.token_hex(8) for name in asked} | {"UNVEIL_PREFECT_LOGIN": f"ops:{secrets.token_hex(8)}"}
    return made | {"UNVEIL_STATE_DATABASE_PASSWORD": postgres.password}


@pytest.fixture(scope="module")
def objects() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def stack(postgres: Postgres, objects: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessStack]:
    home = tmp_path_factory.mktemp("stack")
    ports = {name: str(_free_port()) for name in ("4200", "5000", "8080", "4280", "9464")}
    places = {
        "http://s3:8333": objects.url,
        "http://prefect:4200": f"http://127.0.0.1:{ports['4200']}",
        "http://mlflow:5000": f"http://127.0.0.1:{ports['5000']}",
        "http://write:8080": "",  # no index here
        "state-database": postgres.host,
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - what is replaced
        "5432": str(postgres.port),
        "/srv/": f"{home}/",
        "/opt/unveil": str(ROOT),
        "/tmp/prefect": str(home / "prefect"),  # noqa: S108 - a path of the container
        **ports,
    }
    stack = ProcessStack(home, passwords(postgres), places, {"PGPORT": str(postgres.port)})
    try:
        yield stack
    finally:
        stack.stop()


def test_a_host_that_follows_compose_yaml_makes_a_mosaic(
    stack: ProcessStack, objects: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "databases prefect, mlflow, ledger" in stack.run("state-prepare")
    assert stack.run("state-prepare") == stack.run("state-prepare"), "it may be run again"
    for name in ("prefect", "mlflow"):
        stack.start(name)
    for _ in range(2):
        stack.run("setup")
    stack.run("deploy", 600)
    for name in ("catalog", "metrics", "worker"):
        stack.start(name)

    run = finished_run(stack)
    assert run["state"]["type"] == "COMPLETED", run["state"]
    (item,) = StaticCatalog(stack.home / "catalog").items()
    assert (
        item.properties["unveil:target"].endswith("20230818_0_L2A") and validate_catalog(stack.home / "catalog") == []
    )
    assert httpx.get(f"http://127.0.0.1:{stack.places['8080']}/catalog/catalog.json", timeout=30).is_success
    metrics = httpx.get(f"http://127.0.0.1:{stack.places['9464']}/metrics", timeout=30).text
    assert "unveil_units_restored_total 1.0" in metrics and 'unveil_units{state="succeeded"} 1.0' in metrics
    # The champion came through MLflow, whose artefacts are on S3.
    login = stack.environment("mlflow")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, login[name])
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, stack.environment("worker")[name])
    uri = stack.environment("worker")["UNVEIL_MLFLOW_URI"]
    assert Registry(stack.home / "state", uri).aliases(MODEL_NAME)[CHAMPION] == "1"
    assert any(key.endswith(".safetensors") for key in objects.keys("unveil-mlflow"))
    no_password_in(stack)


def finished_run(stack: ProcessStack) -> dict[str, Any]:
    """Run the first deployment on a corner of the sample through the worker."""
    worker = stack.environment("worker")
    user, _, password = worker["PREFECT_API_AUTH_STRING"].partition(":")
    server = httpx.Client(base_url=worker["PREFECT_API_URL"], auth=(user, password), timeout=30)
    deployment = server.get("/deployments/name/clear-scenes/clear-scenes").raise_for_status().json()
    scenes = {"bbox": TINY_BBOX, "datetime": "2023-08-18", "samples": 1, "steps": 1, "tile": 32, "overlap": 8}
    body = {"parameters": {"settings": scenes}, "state": {"type": "SCHEDULED"}}
    made = server.post(f"/deployments/{deployment['id']}/create_flow_run", json=body).json()

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = server.get(f"/flow_runs/{made['id']}").json()
        return run if run["state"]["type"] in FINAL else None

    return poll(ended, "the run did not end", 400)


def no_password_in(stack: ProcessStack) -> None:
    """Nothing that was written, logs and catalog included, holds one of the passwords."""
    for path in stack.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            leaked = [name for name, value in stack.variables.items() if value.encode() in content]
            assert leaked == [], path


def test_each_role_enters_its_own_database_only(stack: ProcessStack, postgres: Postgres) -> None:
    stack.run("state-prepare")
    tenants = runpy.run_path(str(PREPARE))["TENANTS"]
    for tenant in tenants:
        for database in {each.database for each in tenants} | {"postgres"}:
            login = {"host": postgres.host, "port": postgres.port, "user": tenant.role, "dbname": database}
            try:
                psycopg.connect(**login, password=stack.variables[tenant.variable], connect_timeout=10).close()
                entered = True
            except psycopg.OperationalError as error:
                assert "permission denied for database" in str(error)
                entered = False
            assert entered == (database in (tenant.database, "postgres")), (tenant, database)
