"""Finished runs of the real command, made once and shared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import TINY_BBOX, TINY_SETTINGS, Outcome, unveil
from hypothesis import settings
from postgres import Postgres, cluster, require_binaries

# How long one example takes says something about the machine, not about the code.
settings.register_profile("unveil", deadline=None)
settings.load_profile("unveil")


@dataclass(frozen=True, slots=True)
class Run:
    """A catalog, and how the command that made it ended."""

    root: Path
    outcome: Outcome
    #: Working directory and Prefect home of the command.
    home: Path


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`unveil demo --json`, once (some minutes)."""
    if os.environ.get("UNVEIL_TEST_CATALOG") and not os.environ.get("CI"):
        pytest.skip("UNVEIL_TEST_CATALOG names a finished catalog, so none is made")
    folder = tmp_path_factory.mktemp("demo")
    root, home = folder / "catalog", folder / "home"
    outcome = unveil("demo", "--out", root, "--json", home=home, timeout=1200)
    assert outcome.status == 0, outcome.err
    return Run(root, outcome, home)


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
    folder = tmp_path_factory.mktemp("tiny")
    root, home = folder / "catalog", folder / "home"
    outcome = unveil("run", "--bbox", TINY_BBOX, "--out", root, "--json", home=home, extra=TINY_SETTINGS)
    assert outcome.status == 0, outcome.err
    return Run(root, outcome, home)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A private PostgreSQL cluster; it ends with the tests."""
    with cluster(require_binaries()) as server:
        yield server
