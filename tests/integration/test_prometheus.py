"""Metrics of a finished run: scraped from the real endpoint, and by a real Prometheus for dashboard and alerts."""

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
from prometheus_client.parser import text_string_to_metric_families

from flows.ledger.schema import State
from flows.services.process import free_port
from tests.command import ROOT, start, unveil
from tests.installed import Needed, require
from tests.prefect_service import end, poll

pytestmark = pytest.mark.integration


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels; the parser refuses what is not the format of Prometheus."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def metrics(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `unveil metrics` on a finished run."""
    home = tmp_path_factory.mktemp("metrics")
    process = start("metrics", "--out", tiny_run.root, "--port", "0", "--json", home=home)
    try:
        assert process.stdout is not None
        yield json.loads("".join(process.stdout.readline() for _ in range(3)))["url"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def scraped(metrics: str) -> dict[tuple[str, ...], float]:
    answer = httpx.get(metrics, timeout=30)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


def test_a_finished_run_is_counted_after_its_process_has_gone(tiny_run: Any, scraped: dict[Any, float]) -> None:
    figures = [unit["figures"] for unit in tiny_run.outcome.document["units"]]
    assert scraped[("unveil_units_restored_total",)] == len(figures) == scraped[("unveil_units", "succeeded")]
    assert scraped[("unveil_tiles_total",)] == sum(f["tiles"] for f in figures) > 0
    assert scraped[("unveil_km2_total",)] == pytest.approx(sum(f["valid_km2"] for f in figures))
    assert scraped[("unveil_cpu_seconds_total",)] > 0 and scraped[("unveil_written_bytes_total",)] > 10_000
    assert {labels[1] for labels in scraped if labels[0] == "unveil_units"} == {state.lower() for state in State}
    assert scraped[("unveil_ledger_up",)] == 1 and scraped[("unveil_queue_depth",)] == 0


def test_once_prints_the_same_for_a_textfile(tiny_run: Any, scraped: dict[Any, float], tmp_path: Path) -> None:
    told = unveil("metrics", "--out", tiny_run.root, "--once", home=tmp_path)
    assert told.status == 0 and samples(told.out) == scraped


def test_the_metadata_of_a_product_says_what_it_took(tiny_run: Any) -> None:
    for unit in tiny_run.outcome.document["units"]:
        spent = json.loads((Path(unit["item_href"]).parent / "metadata.json").read_text())["spent"]
        assert spent["cpu_seconds_per_km2"] > 0 and spent["cost"] == 0 == spent["gpu_seconds"]


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
def prometheus(metrics: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that has scraped the metrics of a finished run more than once."""
    folder = configured(tmp_path_factory.mktemp("prometheus"), httpx.URL(metrics).port)
    url = f"http://127.0.0.1:{free_port()}"
    places = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    command = [program("prometheus"), *places, f"--web.listen-address={url.removeprefix('http://')}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        poll(lambda: ask(url, "count_over_time(up[1m]) > 2") or None, "nothing was scraped", 60)
        yield url
    finally:
        end(process)


def configured(folder: Path, port: int | None) -> Path:
    """Copy our configuration, with another target, and a pace for tests."""
    document = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text("utf-8"))
    document["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    shutil.copy(CONFIGURATION / "rules.yml", folder)
    (folder / "targets").mkdir()
    (folder / "targets" / "here.yml").write_text(yaml.safe_dump([{"targets": [f"127.0.0.1:{port}"]}]))
    return folder


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
