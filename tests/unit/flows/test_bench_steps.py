"""One step in every way: what is compared, and what the page says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from de_model.bench.steps import StepTime
from de_model.presets import Preset
from flows.bench import steps
from flows.bench.steps import Steps, as_markdown, as_record, bench_steps


def test_every_way_is_compared_with_the_networks_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = {name: way for name, way in steps._WAYS.items() if not way.how.compiled}
    monkeypatch.setattr(steps, "_WAYS", eager)
    found = bench_steps(Preset.TINY, 64)
    assert [step.name for step in found.times] == list(eager)
    assert found.times[0].difference == 0 and all(step.difference < 1e-3 for step in found.times)
    assert {step.flops for step in found.times} == {found.times[0].flops} and found.times[0].flops > 0
    record = json.loads(json.dumps(as_record(found), allow_nan=False))
    assert record["times_faster"] == pytest.approx(found.times[0].seconds / found.fastest.seconds)
    assert record["times_faster"] >= 1
    page = as_markdown(found, "unveil bench steps")
    assert all(f"| {name} |" in page for name in eager) and record["machine"] in page
    assert ("Reached" in page) == (record["times_faster"] >= 1.5)


def test_a_gpu_is_judged_by_its_share_of_the_peak_in_short_numbers() -> None:
    """Times as a GPU might give them; the rest of the page is that of a CPU."""
    first, short = (StepTime(name, seconds, 10**9, 0.0) for name, seconds in (("plain", 1e-3), ("bfloat16", 2e-5)))
    found = Steps("GPU", Preset.PAPER, 64, 128, 1e13, 1e14, (first, short))
    assert found.fastest is first and found.share(short) == pytest.approx(0.5)
    page = as_markdown(found, "unveil bench steps")
    assert "64 x 128 px" in page and "Reached: 50%, bfloat16." in page
    slow = replace(found, times=(first, replace(short, seconds=5e-5)))
    assert "**Missed**: 20%" in as_markdown(slow, "unveil bench steps")
