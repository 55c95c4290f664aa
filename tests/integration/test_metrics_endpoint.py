"""Metrics: scraped from the real endpoint of a finished run, and what the dashboard asks for."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.ledger.schema import State
from tests.command import start, unveil

pytestmark = pytest.mark.integration


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels; the parser refuses what is not the format of Prometheus."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def scraped(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], float]:
    home = tmp_path_factory.mktemp("metrics")
    process = start("metrics", "--out", tiny_run.root, "--port", "0", "--json", home=home)
    try:
        assert process.stdout is not None
        told = "".join(process.stdout.readline() for _ in range(3))
        answer = httpx.get(json.loads(told)["url"], timeout=30)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
        return samples(answer.text)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


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
