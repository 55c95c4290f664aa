"""One step in every way: what is compared, and what the page says."""

from __future__ import annotations

import json

import pytest

from de_model.presets import Preset
from flows.bench import steps
from flows.bench.steps import as_markdown, as_record, bench_steps


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
