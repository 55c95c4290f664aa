"""Scenes that are cloudy everywhere: what is measured, and what the page says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from flows.bench import canvas
from flows.bench.canvas import CanvasTime, as_markdown, as_record, bench_canvas
from flows.loading import load_settings


def test_every_size_is_restored_whole_and_told() -> None:
    quick = load_settings(None, {"prior": "none", "steps": 1, "tile": 32}).restoration.sampling
    found = bench_canvas(quick, (40, 72))
    assert [time.side for time in found.times] == [40, 72] and found.sampling.samples == 1
    assert [time.tiles for time in found.times] == [4, 9] and all(time.seconds > 0 for time in found.times)
    record = json.loads(json.dumps(as_record(found), allow_nan=False))
    assert record["times"][1]["gpu_bytes"] is None and record["machine"]
    page = as_markdown(found, "the command")
    assert "`the command`" in page and "| 72 x 72 x 4 |" in page and "reached" not in page


def test_a_gpu_is_judged_by_its_goals() -> None:
    quick = load_settings(None, {"prior": "none", "steps": 1, "tile": 32}).restoration.sampling
    fast, slow = CanvasTime(4096, 3.0, 1, 0, 2**30), CanvasTime(10980, 25.0, 1, 0, 2**30)
    found = replace(bench_canvas(quick, (40,)), device="a GPU", times=(fast, slow))
    page = as_markdown(found, "the command")
    assert "| 3.0 | 3.3, reached |" in page and "| 25.0 | 24, **missed** |" in page and "| 1.0 |" in page


def test_the_scene_is_finite_and_of_any_size() -> None:
    for side in (40, 900):
        scene = canvas._scene(side)
        assert scene.shape == (4, side, side) and np.isfinite(scene).all()
