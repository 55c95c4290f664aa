"""Ablations: the frame, what is counted block by block, and each question on one small window."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.ablations import __main__ as command
from benchmarks.ablations import eta_sweep, fields, fixed_weights
from benchmarks.ablations.block_gains import block_gains, spectrum_error
from benchmarks.ablations.setting import Column, Findings, Setting, Table
from benchmarks.ablations.windows import hold_out_windows
from benchmarks.chart import Panel, Series, draw
from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.metrics.bootstrap import Interval
from de_model.presets import Preset
from de_model.weighting import WeightMode
from flows.errors import InvalidSettings
from flows.planning.search import SceneSet, stacks_of

pytestmark = pytest.mark.usefixtures("one_thread")
BANDS = ("blue", "green", "red", "nir")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """One window of 48 px, and weights nobody trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save(Enhancer(ModelCard(Preset.TINY, BANDS, 120.0, weight_mode=WeightMode.BOUNDED)), path)
    return Setting(path, windows=1, side=48, steps=2)


def found(name: str, setting: Setting) -> Findings:
    return command.ABLATIONS[name].run(setting)


def test_a_table_is_read_by_people_and_by_machines() -> None:
    columns = (Column("way"), Column("gain, dB", 2, interval=True, signed=True), Column("share"))
    table = Table(
        columns, (("a", Interval(0.5, 0.25, 0.75, 9), 1.0), ("b", Interval(-1.0, math.nan, math.nan, 1), math.nan))
    )
    assert "| a | +0.50 (+0.25 to +0.75) | 1.00 |" in table.markdown()
    assert "| b | -1.00 | - |" in table.markdown()
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert rows[0] == {"way": "a", "gain_db": "0.5", "gain_db_low": "0.25", "gain_db_high": "0.75", "share": "1"}
    assert rows[1]["gain_db_low"] == rows[1]["share"] == ""
    assert table.records()[1]["share"] is None


def test_a_picture_is_small_and_the_same_every_time() -> None:
    panels = (
        Panel("x", "y", (Series("one", (1.0, 2.0, 4.0), (1.0, 2.0, 3.0)),), log_x=True),
        Panel("", "y", (Series("two", ("a", "b"), (Interval(1, 0, 2, 5), 3.0)),), level=0),
    )
    picture = draw(panels)
    assert picture == draw(panels) and len(picture) < 60_000
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    # Blue dots, as the first series has them, in both halves.
    blue = (image[..., 2] > 150) & (image[..., 0] < 60)
    assert blue[:, : blue.shape[1] // 2].any() and blue[:, blue.shape[1] // 2 :].any()


def test_hold_out_windows_never_hold_the_truth_date_in_an_input(setting: Setting) -> None:
    (window,) = hold_out_windows(setting)
    stack = next(stacks_of(setting.hold_out))
    target = stack.index_of(window.name.split(" at ")[0])
    part = tuple(slice(place, place + 48) for place in window.origin)
    np.testing.assert_array_equal(window.cloudy, stack.reflectance(target)[:, *part])
    truths = [
        i
        for i in range(len(stack.days))
        if np.array_equal(stack.reflectance(i)[:, *part], window.truth, equal_nan=True)
    ]
    assert len(truths) == 1 and truths[0] != target
    # Were the truth among the dates of the composite, it would often be the median of so few.
    same = np.isfinite(window.composite).all(axis=0)
    others = [stack.reflectance(i)[:, *part] for i in range(len(stack.days)) if i not in (target, truths[0])]
    low, high = np.nanmin(others, axis=0), np.nanmax(others, axis=0)
    shift = np.nanmedian(window.composite - low, axis=(1, 2))
    assert same.any() and np.isfinite(shift).all() and (high >= low)[:, same].all()


def test_windows_that_cannot_be_had_are_refused(setting: Setting) -> None:
    with pytest.raises(InvalidSettings, match="trained on"):
        hold_out_windows(replace(setting, hold_out=SceneSet(cells=("MGRS-33TWM",))))
    with pytest.raises(InvalidSettings, match="ask for fewer"):
        hold_out_windows(replace(setting, windows=500))


def test_eta_1_is_the_reference_under_every_kind_of_cloud(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eta_sweep, "ETAS", (0.5, 1.0))
    for row in found("eta-sweep", replace(setting, windows=2)).table.records():
        if row["eta"] == 1 and row["blocks"]:
            # W = 1 leaves only the rounding between reflectance and the diffusion's range.
            assert row["above_the_reference_db"] == pytest.approx(0, abs=1e-3)
            assert row["mean_w"] == 1


def test_a_fixed_w_is_used_everywhere_and_the_answer_can_be_made_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_weights, "FIXED", (0.0, 0.4, 1.0))
    first, again = (found("fixed-weights", setting) for _ in range(2))
    assert first.table.csv() == again.table.csv() and first.seen == again.seen
    for row in first.table.records():
        if row["w"] != "learnt":
            assert row["mean_w"] == pytest.approx(float(row["w"]), abs=1e-6)
    assert first.table.records()[-1]["above_the_reference_db"] == pytest.approx(0, abs=1e-3)


def test_references_of_known_quality_are_ranked(setting: Setting) -> None:
    rows = {row["reference"]: row for row in found("reference-quality", setting).table.records()}
    quality = {name: row["reference_psnr_db"] for name, row in rows.items()}
    assert quality["oracle"] > 60 and quality["noise, 0.1"] < quality["noise, 0.02"] < quality["oracle"]
    assert (
        rows["oracle"]["reference_spectrum_error_db"] in (None, 0.0)
        or rows["oracle"]["reference_spectrum_error_db"] < 0.1
    )


def test_resolutions_are_scored_on_the_same_pixels(setting: Setting) -> None:
    rows = found("resolution-transfer", replace(setting, side=32)).table.records()
    assert [row["pixel_m"] for row in rows] == [120, 120, 240, 240, 480, 480]
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["blocks"] == other["blocks"]


def test_trained_ablations_answer_after_a_few_steps(setting: Setting) -> None:
    curves = found("coarse-to-fine", setting)
    assert len(curves.table.rows) == 3 and curves.panels[0].series[0].x[-1] == 4
    assert {row["steps"] for row in curves.table.records()} == {4}
    faults = found("no-reference", setting).table.records()
    assert [row["patch_px"] for row in faults[:3]] == [16, 32, 64]
    crossed = found("cross-data", setting).table.records()
    assert len(crossed) == 4
    for row in crossed:
        if row["trained_on"] == row["judged_on"]:
            assert row["above_the_model_of_that_data_db"] == 0


def test_fields_are_judged_beside_a_plain_u_net_and_what_was_trained_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = SceneSet(cells=("MGRS-33TWM", "MGRS-33TWL"))
    about = {
        "source": str(sample.source),
        "collection": sample.collection,
        "interval": sample.datetime,
        "cells": list(sample.cells),
    }
    listing = {"bands": list(BANDS), "held_out": ["MGRS-33TWL"], "sources": [{"catalog": about}]}
    (tmp_path / "places.yaml").write_text(json.dumps(listing), "utf-8")
    monkeypatch.setattr(fields, "_VARIANTS", (fields._VARIANTS[0], fields._VARIANTS[-1]))
    monkeypatch.setattr(fields, "_JUDGED", 12)
    asked = Setting(Path("unused"), steps=1, places=tmp_path / "places.yaml", seeds=2, work=tmp_path / "work")
    first = found("fields", asked)
    rows = {str(row["what_is_changed"]): row for row in first.table.records()}
    own, plain = rows["all fields"], rows["plain U-Net, no diffusion"]
    assert 0.8 * own["parameters"] < plain["parameters"] <= own["parameters"]
    assert own["against_all_fields_db"] == own["against_all_fields_db_deviation"] == 0
    assert own["gap_near_db_deviation"] > 0 and rows["flat colour"]["gap_near_db_deviation"] is None
    assert rows["reference alone (eta 1)"]["gap_near_db"] != own["gap_near_db"]
    monkeypatch.delattr(fields, "train_scene")
    assert found("fields", asked).table.csv() == first.table.csv()


def test_the_command_writes_a_page_that_says_how_it_came_about(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_weights, "FIXED", (0.0, 1.0))
    given = ["--weights", str(setting.weights), "--windows", "1", "--side", "48", "--out", str(tmp_path / "new")]
    command.main(["fixed-weights", *given])
    page = (tmp_path / "new" / "fixed-weights.md").read_text("utf-8")
    for expected in (
        "`python -m benchmarks.ablations",
        checkpoint.sha256_of(setting.weights)[:12],
        "seed 0",
        "| learnt |",
    ):
        assert expected in page
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["fixed-weights.csv", "fixed-weights.md", "fixed-weights.png"]
    with pytest.raises(SystemExit):
        command.main(["nothing"])


def scene(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.3, (4, 128, 192)).astype(np.float32)


def test_a_better_image_gains_in_every_block() -> None:
    truth, everywhere = scene(0), np.ones((128, 192), bool)
    noise = np.random.default_rng(1).normal(0, 0.02, truth.shape).astype(np.float32)
    gains = list(block_gains(truth + noise / 2, truth + noise, truth, everywhere))
    assert len(gains) == 6
    assert all(5.9 < gain.psnr - gain.reference_psnr < 6.2 for gain in gains)


def test_blocks_with_few_hidden_pixels_are_left_out() -> None:
    truth, where = scene(0), np.zeros((128, 192), bool)
    where[:10, :10] = True
    assert list(block_gains(truth, truth, truth, where)) == []


def test_halved_detail_is_six_decibels() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 64, 64))
    inside = np.ones((64, 64), bool)
    assert spectrum_error(noise / 2, noise, inside) == pytest.approx(20 * np.log10(2))
    assert spectrum_error(noise, noise / 2, inside) == pytest.approx(20 * np.log10(2))
    assert spectrum_error(noise + 0.3, noise, inside) == pytest.approx(0, abs=1e-9)


def test_spectra_use_windows_that_lie_fully_inside() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 64, 64))
    inside = np.zeros((64, 64), bool)
    inside[8:40, 12:44] = True
    for outside in (9, np.nan):
        assert spectrum_error(np.where(inside, noise, outside), noise, inside) == 0
    inside[8:40:15] = False
    assert np.isnan(spectrum_error(noise, noise, inside))
    assert np.isnan(spectrum_error(noise[:, :8], noise[:, :8], inside[:8]))
