"""Finished runs of the real command and services, made once and shared; see README.md beside this file."""

from __future__ import annotations

import contextvars
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers fill the cores. More threads would only wait for each other; commands that tests start inherit this.
    # It has to be said before the libraries are loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import pytest
from hypothesis import settings

from flows.services.state import Login, read_login
from tests.command import TINY_BBOX, TINY_SETTINGS, Outcome, Run, unveil
from tests.installed import Needed, require
from tests.sharing import Pieces, arrange, made_once
from tests.support.postgres import Postgres, cluster

if TYPE_CHECKING:
    from tests.s3_server import S3Server

# How long one example takes says something about the machine, not about the code.
settings.register_profile("unveil", deadline=None)
settings.load_profile("unveil")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Commands that run inside a test's process close what they write; later tests begin as they would alone."""
    kept = os.umask(0o022)
    yield
    os.umask(kept)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    arrange(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Pieces:
    return Pieces(config, log)


def _run_once(factory: pytest.TempPathFactory, name: str, *arguments: str, **options: Any) -> Run:
    """Run a command that publishes to `catalog` in the shared folder `name`."""

    def make(folder: Path) -> dict[str, Any]:
        given = (*arguments, "--out", folder / "catalog", "--json")
        outcome = unveil(*given, home=folder / "home", **options)
        assert outcome.status == 0, outcome.err
        # Before other tests work on the catalog: a database of Prefect to start from.
        shutil.copytree(folder / "catalog" / ".unveil" / "prefect", folder / "prefect")
        return asdict(outcome)

    folder, outcome = made_once(factory, name, make)
    return Run(folder / "catalog", Outcome(**outcome), folder / "home")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`unveil demo --json`, once (some minutes)."""
    if os.environ.get("UNVEIL_TEST_CATALOG") and not os.environ.get("CI"):
        pytest.skip("UNVEIL_TEST_CATALOG names a finished catalog, so none is made")
    return _run_once(tmp_path_factory, "demo", "demo", timeout=1200)


@pytest.fixture(scope="session")
def demo_catalog(request: pytest.FixtureRequest) -> Path:
    """The catalog of `unveil demo`; UNVEIL_TEST_CATALOG may name a finished one."""
    given = os.environ.get("UNVEIL_TEST_CATALOG")
    if given:
        return Path(given)
    root: Path = request.getfixturevalue("demo_run").root
    return root


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same flow on a corner of the sample, in seconds: two cloudy dates, a few model tiles."""
    return _run_once(tmp_path_factory, "tiny", "run", "--bbox", TINY_BBOX, extra=TINY_SETTINGS)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A private PostgreSQL cluster; it ends with the tests."""
    require(Needed.POSTGRESQL)
    with cluster() as server:
        yield server


@pytest.fixture(scope="session")
def s3_service() -> Iterator[S3Server]:
    """An S3 service."""
    from tests.s3_server import s3_server  # loads moto, which most tests do without

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_service: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The S3 service with an empty memory, and credentials for it. Buckets stay: take names of your own."""
    from tests.s3_server import CREDENTIALS

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    s3_service.requests.clear()
    yield s3_service
    s3_service.hook = s3_service.after = None


@pytest.fixture(scope="session")
def prefect_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of that server."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def prefect_url(tiny_run: Run, prefect_state: Path) -> Iterator[str]:
    """The API of a local Prefect server for all tests that need one and do not test how it starts."""
    from flows.services.prefect_server import prefect_api

    state = prefect_state
    shutil.copytree(tiny_run.root.parent / "prefect", state / "prefect")  # a new database takes ten seconds longer
    # In a context of its own: the settings of its client must not reach tests that ask for no server.
    context = contextvars.copy_context()
    server = prefect_api(state)
    yield context.run(server.__enter__)
    context.run(server.__exit__, None, None, None)


@pytest.fixture(scope="session")
def prefect_login(prefect_url: str, prefect_state: Path) -> Login:
    """The login of that server."""
    return read_login(prefect_state / "prefect")


@pytest.fixture(scope="session")
def services(tiny_run: Run, prefect_url: str, prefect_login: Login) -> dict[str, str]:
    """Settings of a small run that finds a Prefect server and a registry with the shipped model (seconds saved)."""
    registry = f"sqlite:///{(tiny_run.root / '.unveil' / 'mlflow.db').resolve()}"
    server = {"PREFECT_API_URL": prefect_url, "PREFECT_API_AUTH_STRING": prefect_login.auth_string}
    return TINY_SETTINGS | server | {"UNVEIL_MLFLOW_URI": registry}


@pytest.fixture
def services_here(services: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same for flows and commands in this process."""
    from flows.services.prefect_server import client_of  # loads Prefect, which most tests do without

    for name, value in services.items():
        monkeypatch.setenv(name, value)
    with client_of(services["PREFECT_API_URL"], tmp_path / "prefect", services["PREFECT_API_AUTH_STRING"]):
        yield
