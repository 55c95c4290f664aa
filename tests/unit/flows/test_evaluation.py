"""Means over cases, where a figure may not be defined in every case."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from de_model.metrics.standard import Scores
from flows.models.evaluation import Candidate, CaseResult, as_markdown, as_record, mean_scores

ONE = Scores(mae=0.02, rmse=0.1, psnr=20, ssim=0.8, ndvi_mae=0.1, sam=4, edge=0.01, spectrum=2, pixels=100, windows=50)
OTHER = replace(ONE, mae=0.04, psnr=30, ssim=math.nan, spectrum=math.nan, windows=0)


def case(scores: Scores) -> CaseResult:
    return CaseResult("MGRS-33TWL", "2023-08-18", "2023-08-15", 0.4, dict.fromkeys(Candidate, scores), ())


def test_undefined_figures_are_left_out_of_the_mean() -> None:
    mean = mean_scores([case(ONE), case(OTHER)])[Candidate.DE]
    assert mean.mae == pytest.approx(0.03) and mean.ssim == 0.8 and mean.spectrum == 2
    assert mean.psnr == pytest.approx(-10 * math.log10((0.01 + 0.001) / 2))
    assert (mean.pixels, mean.windows) == (200, 50)
    assert math.isnan(mean_scores([case(OTHER)])[Candidate.DE].ssim)


def test_a_record_holds_json_values_only() -> None:
    record = as_record(replace(OTHER, psnr=math.inf))
    assert record["ssim"] is None and record["psnr"] is None and record["pixels"] == 100


def test_the_page_has_a_column_for_every_figure() -> None:
    rows = [line for line in as_markdown([case(ONE)], "unveil evaluate", "m").splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "| 0.0200 | 20.00 | 0.800 | 0.1000 | 4.00 | 0.0100 | 2.00 |" in rows[2]
