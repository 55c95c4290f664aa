"""The measured engine: its figures, its page, and what tiles cost."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from de_model.bench.tiling import psnr, redundancy, seam_ratio, tiles_of, whole_redundancy
from de_model.inference.sampling import Sampling
from de_model.precision import Precision
from flows.bench import engine_case
from flows.bench.disk import disk_rates
from flows.bench.engine import Sizes, bench_engine
from flows.bench.engine_case import Made
from flows.bench.engine_figures import EngineFigures
from flows.bench.engine_page import as_markdown, as_record, plot
from flows.bench.engine_ways import FAITHFUL, options_of
from flows.loading import load_settings

TILES = Sampling(tile=32, overlap=8)


def test_redundancy_is_pixels_run_for_one_needed() -> None:
    needed = np.zeros((80, 80), bool)
    needed[:4, :4] = True
    assert len(tiles_of(needed, TILES)) == 1 and redundancy(needed, TILES) == 32 * 32 / 16
    # 80 px are three tiles of 32 that share 8.
    assert redundancy(np.ones((80, 80), bool), TILES) == pytest.approx(9 * 32 * 32 / 80**2)
    assert whole_redundancy(80, TILES) == pytest.approx(redundancy(np.ones((80, 80), bool), TILES))
    assert whole_redundancy(8, TILES) == 16


def test_a_step_at_every_tile_is_seen_and_a_smooth_image_has_none() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 80, dtype=np.float32), (1, 80, 80)) * 1.0
    smooth = ramp + ramp.transpose(0, 2, 1)
    assert seam_ratio(smooth, TILES) == pytest.approx(1, abs=1e-3)
    stepped = smooth.copy()
    for first in (24, 48):
        stepped[:, :, first:] += 0.05
    assert seam_ratio(stepped, TILES) > 1.5


def test_psnr_is_for_a_peak_of_one() -> None:
    zero, where = np.zeros((2, 4, 4), np.float32), np.ones((4, 4), bool)
    assert psnr(zero + 0.1, zero, where) == pytest.approx(20) and psnr(zero, zero, where) == np.inf


def test_a_disk_writes_and_reads() -> None:
    rates = disk_rates()
    assert rates.write > 0 and rates.read > 0


@pytest.fixture(scope="module")
def found() -> EngineFigures:
    """The smallest scenes, settings that cost little, and few ways."""
    quick = load_settings(None, {"steps": 1, "samples": 1, "tile": 32}).restoration
    every = options_of(FAITHFUL, quick.sampling)
    # Processors without a unit for bfloat16 take long, and so do compilers.
    ways = {
        name: replace(way, steps=1)
        for name, way in every.items()
        if not way.acceleration.compiled and way.acceleration.precision is Precision.FP32
    }
    with pytest.MonkeyPatch.context() as once:
        once.setattr(engine_case, "_ROUNDS", 1)
        return bench_engine(quick, quick.sampling, Sizes(options=32, tiles=128, product=64), ways)


def test_what_is_quick_is_timed_three_times_and_what_is_slow_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0, 30.0, 60.0])
    monkeypatch.setattr(engine_case, "clock", lambda _: next(seconds))
    made = Made(np.zeros(1, np.float32), 7)
    quick, slow = (engine_case.timed(lambda: made, torch.device("cpu")) for _ in range(2))
    assert quick == replace(made, seconds=3.0) and slow.seconds == 30.0 and next(seconds, None) is None


@pytest.mark.slow
def test_every_way_is_measured_and_judged(found: EngineFigures) -> None:
    first, *others = found.products
    assert first.psnr_faithful == np.inf and first.ssim_faithful == pytest.approx(1)
    assert {way.name for way in others} == {
        "default without other dates",
        "the walk of whole clouds",
        "pyramid, 2 steps",
        "default",
    }
    assert found.products[-1].psnr_truth > first.psnr_truth, "other dates know more than the model"
    assert all(way.seconds > 0 and np.isfinite(way.psnr_truth) for way in [*found.products, *found.options])
    assert all(after.tiles >= before.tiles for before, after in pairwise(found.proportions))
    assert found.proportions[0].tiles == 0 and found.proportions[-1].fraction == 1
    # Of one step, what is blended after it and what is blended at the end is the same.
    assert all(t.each_step.psnr_untiled == pytest.approx(t.psnr_untiled, abs=0.1) for t in found.tilings)
    assert 0 < found.utilisation.share(found.limits.matmul) < 1 and 0 < found.utilisation.useful <= 1


@pytest.mark.slow
def test_page_record_and_plot_say_the_same(found: EngineFigures) -> None:
    record = json.loads(json.dumps(as_record(found), allow_nan=False))
    assert record["products"][0]["psnr_faithful"] is None and len(record["options"]) == len(found.options)
    page = as_markdown(found, "unveil bench engine")
    assert all(f"| {way.name} |" in page for way in found.options) and record["machine"] in page
    assert page.count("| reached |") + page.count("| **missed** |") == 5
    picture = plot(found)
    assert len(picture) < 60_000 and Image.open(io.BytesIO(picture)).width > 600
