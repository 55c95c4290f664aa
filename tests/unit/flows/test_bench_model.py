"""The page and the record of a measured model, and the memory of a process."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from de_model.presets import Preset
from flows.bench.memory import MemoryWatch
from flows.bench.model import as_markdown, as_record, bench_model
from flows.cli import app


def test_a_model_is_measured_on_every_device_with_its_peak() -> None:
    measured = bench_model([Preset.TINY], side=64)
    record = json.loads(json.dumps(as_record(measured)))
    costs = record["devices"][0]["costs"]
    assert costs[0]["work"] == "CNP + WA, one step" and len(costs) == 3
    for cost in costs:
        peak = record["devices"][0]["peak_flops_per_s"]
        assert cost["share_of_peak"] * peak * cost["seconds"] == pytest.approx(cost["flops"])
        assert cost["peak_bytes"] > 2**26
    page = as_markdown(measured)
    assert page.count("| tiny |") == 3 * len(measured) and "Gflop/s" in page and record["machine"] in page


def test_memory_is_watched_while_it_is_held() -> None:
    size = 300 * 2**20
    with MemoryWatch(os.getpid(), 0.01) as before:
        time.sleep(0.1)
    with MemoryWatch(os.getpid(), 0.01) as watch:
        held = np.ones(size, np.uint8)
        deadline = time.monotonic() + 10
        while watch.peak < before.peak + 0.9 * size and time.monotonic() < deadline:
            time.sleep(0.02)
        del held
    assert watch.peak >= before.peak + 0.9 * size


def test_what_cannot_be_measured_is_refused() -> None:
    refused = CliRunner().invoke(app, ["bench", "moon"])
    assert refused.exit_code == 2
