"""Split-conformal factors cover what they promise, and a table only serves the weights it was fitted for."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from de_model.calibration import (
    CalibrationTable,
    Origin,
    calibration_of,
    calibration_path,
    conformal_factor,
    load_table,
    places_in,
    trained_on,
)
from de_model.checkpoint import read_card, sha256_of, shipped_weights
from de_model.errors import InvalidCheckpoint, InvalidModelInput

TABLE = CalibrationTable("a" * 64, ("red", "nir"), {Origin.OTHER_DATES: (1.2, 1.3), Origin.MODEL: (3.0, 4.0)}, "tests")


@pytest.mark.parametrize("shape", ["normal", "laplace", "lognormal"])
def test_new_scores_are_covered_whatever_their_distribution(shape: str) -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        scores = np.abs(getattr(random, shape)(size=400))
        factor = conformal_factor(scores[:200])
        covered.append((scores[200:] <= factor).mean())
    assert 0.9 - 0.006 < np.mean(covered) < 0.9 + 0.012, "three standard errors, and 1 / (n + 1) of slack"


def test_the_factor_is_the_right_order_statistic() -> None:
    assert conformal_factor(np.arange(1.0, 10.0)) == 9, "ceil(10 * 0.9) = 9th of nine"
    assert conformal_factor(np.arange(1.0, 100.0), 0.5) == 50


def test_too_few_scores_are_refused() -> None:
    with pytest.raises(InvalidModelInput, match="too few"):
        conformal_factor(np.ones(8))


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "t.json")
    assert load_table(tmp_path / "t.json") == TABLE
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', '{"format": "unveil-calibration/1"}'])
def test_what_is_not_a_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InvalidCheckpoint, match="calibrate"):
        load_table(tmp_path / "t.json")


def test_factors_must_be_positive(tmp_path: Path) -> None:
    dataclasses.replace(TABLE, factors={Origin.OTHER_DATES: (0.0, 1.0), Origin.MODEL: (1.0, 1.0)}).save(tmp_path / "t")
    with pytest.raises(InvalidCheckpoint, match="positive"):
        load_table(tmp_path / "t")


def test_a_table_of_other_weights_is_refused_and_a_copy_of_the_shipped_ones_finds_theirs(tmp_path: Path) -> None:
    copied = tmp_path / "model.safetensors"
    shutil.copy(shipped_weights(), copied)
    shipped = load_table(calibration_path(shipped_weights()))
    assert shipped.weights_sha256 == sha256_of(shipped_weights())
    assert calibration_of(copied) == shipped
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    assert calibration_of(other) is None
    TABLE.save(calibration_path(other))
    with pytest.raises(InvalidCheckpoint, match="other weights"):
        calibration_of(other)


def test_a_model_is_calibrated_elsewhere_than_it_was_trained(tmp_path: Path) -> None:
    """Both cards name their squares: errors where a model was trained are smaller than elsewhere."""
    shutil.copy(shipped_weights(), tmp_path / "m.safetensors")
    shipped = calibration_of(shipped_weights())
    assert shipped is not None
    card = read_card(shipped_weights())
    assert "MGRS-33TWL" in places_in(shipped.fitted_on) and not trained_on(card, places_in(shipped.fitted_on))
    assert trained_on(card, ["33TWM", "adwp", "sen12_ROIs1158_spring_39"]) == {
        "33TWM",
        "adwp",
        "sen12_ROIs1158_spring_39",
    }
    square = "MGRS-33TWM"
    table = dataclasses.replace(shipped, fitted_on=f"MGRS-33TWL, {square}: 12 cases")
    table.save(calibration_path(tmp_path / "m.safetensors"))
    with pytest.raises(
        InvalidCheckpoint, match=f"calibrated on {square} would be too narrow.*calibrate on other squares"
    ):
        calibration_of(tmp_path / "m.safetensors")
