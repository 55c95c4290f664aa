"""A real Prometheus with our configuration scrapes `unveil metrics`, and answers what dashboard and alerts ask."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.services.process import free_port
from tests.command import ROOT, start
from tests.installed import Needed, require
from tests.prefect_service import end, poll

pytestmark = pytest.mark.integration

CONFIGURATION = ROOT / "infra" / "prometheus"
DASHBOARD = json.loads((ROOT / "infra/grafana/dashboard.json").read_text("utf-8"))
EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
#: Only a machine with a GPU has it.
WITHOUT_DATA = {"GPU A"}


def program(name: str) -> str:
    require(Needed.PROMETHEUS)
    return str(shutil.which(name))


def promtool(*arguments: str | Path) -> str:
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", CONFIGURATION / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    promtool("test", "rules", CONFIGURATION / "rules.test.yml")


@pytest.fixture(scope="module")
def prometheus(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that has scraped the metrics of a finished run more than once."""
    server, folder = program("prometheus"), tmp_path_factory.mktemp("prometheus")
    metrics = start("metrics", "--out", tiny_run.root, "--port", "0", "--json", home=folder / "metrics")
    try:
        assert metrics.stdout is not None
        told = json.loads("".join(metrics.stdout.readline() for _ in range(3)))
        with running(server, configured(folder, httpx.URL(told["url"]).port)) as url:
            poll(lambda: ask(url, "count_over_time(up[1m]) > 2") or None, "nothing was scraped", 60)
            yield url
    finally:
        os.killpg(metrics.pid, signal.SIGKILL)
        metrics.communicate()


def configured(folder: Path, port: int | None) -> Path:
    """Copy our configuration, with another target, and a pace for tests."""
    document = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text("utf-8"))
    document["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    shutil.copy(CONFIGURATION / "rules.yml", folder)
    (folder / "targets").mkdir()
    (folder / "targets" / "here.yml").write_text(yaml.safe_dump([{"targets": [f"127.0.0.1:{port}"]}]))
    return folder


class running:  # noqa: N801 - a context
    """Prometheus, while the context is open."""

    def __init__(self, server: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        places = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
        command = [server, *places, f"--web.listen-address={self.url.removeprefix('http://')}"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> str:
        return self.url

    def __exit__(self, *_: object) -> None:
        end(self.process)


def ask(url: str, expression: str) -> list[dict[str, Any]]:
    """Return what an expression gives now; nothing while Prometheus starts."""
    try:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=10)
    except httpx.ConnectError:
        return []
    assert answer.status_code in (200, 503), answer.text  # 503: it is not ready
    return list(answer.json()["data"]["result"]) if answer.is_success else []


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_panel_of_the_dashboard_has_an_answer(prometheus: str, name: str) -> None:
    expression = EXPRESSIONS[name].replace("$job", ".*")
    assert "$" not in expression
    result = ask(prometheus, expression)
    assert bool(result) == (name not in WITHOUT_DATA), expression


def test_a_finished_run_alarms_no_one(prometheus: str) -> None:
    rules = httpx.get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"][0]["rules"]
    assert len(rules) == 4 and {rule["health"] for rule in rules} <= {"ok", "unknown"}
    for rule in rules:
        assert ask(prometheus, rule["query"]) == []
