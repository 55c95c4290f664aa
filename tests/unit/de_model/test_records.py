"""Files beside the weights: what fills which pixel, and how wide intervals are; the fillers that need no model."""

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
from de_model.checkpoint import read_card, save, sha256_of, shipped_weights
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.metrics.baselines import (
    REACH_PX,
    flat_colour,
    interpolated,
    linear_match,
    mean_of_dates,
    nearest_date,
)
from de_model.validation import (
    UNVALIDATED,
    Figures,
    Filler,
    KindCode,
    KindRecord,
    PixelKind,
    ValidationRecord,
    fillers_of,
    kinds_of_gaps,
    load_record,
    validation_of,
    validation_path,
)
from tests.unit.de_model.tiny_model import tiny_model


def record_of(sha256: str, **mae: float) -> ValidationRecord:
    figures = {Filler(name): Figures(error, 30.0) for name, error in mae.items()}
    kinds = {PixelKind.GAP_NEAR: KindRecord(3, 2, 1000, figures | {Filler.NEAREST_DATE: None})}
    return ValidationRecord(sha256, ("red", "nir"), "two places, 3 cases", kinds)


def test_the_best_filler_is_taken_and_of_equals_the_simpler() -> None:
    assert record_of("0", flat=0.03, normalised_convolution=0.02, de=0.01).gap_filler(PixelKind.GAP_NEAR) is Filler.DE
    tie = record_of("0", flat=0.03, normalised_convolution=0.01004, de=0.01)
    assert tie.gap_filler(PixelKind.GAP_NEAR) is Filler.NORMALISED_CONVOLUTION
    other = record_of("0", blurred_reference=0.001, de=0.01)
    assert other.kinds[PixelKind.GAP_NEAR].best is Filler.BLURRED_REFERENCE
    assert other.gap_filler(PixelKind.GAP_NEAR) is Filler.DE, "a product has no other filler that was measured"


def test_what_was_not_measured_is_not_left_to_the_model() -> None:
    assert fillers_of(None) == UNVALIDATED
    found = fillers_of(record_of("0", flat=0.03, de=0.01))
    assert found[PixelKind.GAP_NEAR] is Filler.DE and found[PixelKind.GAP_FAR] is Filler.NORMALISED_CONVOLUTION


def test_kinds_follow_the_distance_to_known_ground() -> None:
    needed = np.zeros((1, 40), bool)
    needed[:, 2:] = True
    thin = np.zeros_like(needed)
    thin[:, 30] = True
    kinds = kinds_of_gaps(needed, thin, ~needed, clear_ground=True)[0]
    assert (kinds[:2] == 0).all() and (kinds[2:18] == KindCode.GAP_NEAR).all()
    assert (kinds[18:30] == KindCode.GAP_FAR).all() and kinds[30] == KindCode.THIN_CLOUD
    assert (kinds_of_gaps(needed, thin, ~needed, clear_ground=False)[0, 2:] == KindCode.NO_CLEAR_GROUND).all()
    nothing = kinds_of_gaps(~thin, thin, thin & ~thin, clear_ground=True)
    assert set(np.unique(nothing)) == {0, KindCode.GAP_FAR}


def test_a_record_lies_beside_its_weights_and_belongs_to_no_others(tmp_path: Path) -> None:
    weights = tmp_path / "tiny.safetensors"
    save(tiny_model(), weights)
    assert validation_of(weights) is None
    record = record_of(sha256_of(weights), flat=0.03, de=0.01)
    record.save(validation_path(weights))
    assert validation_of(weights) == record and load_record(validation_path(weights)).sha256 == record.sha256
    record_of("f" * 64, flat=0.03).save(validation_path(weights))
    with pytest.raises(InvalidCheckpoint, match="other weights"):
        validation_of(weights)
    validation_path(weights).write_text('{"format": "unveil-validation/0"}')
    with pytest.raises(InvalidCheckpoint, match="format"):
        validation_of(weights)


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


SHAPE = (2, 120, 120)
LEVEL = (0.1, 0.2)


def gap(side: int) -> np.ndarray:
    """Known everywhere but in a square in the middle."""
    known = np.ones(SHAPE[1:], bool)
    low = (SHAPE[1] - side) // 2
    known[low : low + side, low : low + side] = False
    return known


def test_a_flat_scene_is_filled_with_its_colour_and_no_cloud_leaks() -> None:
    known = gap(30)
    image = np.broadcast_to(np.array(LEVEL, np.float32)[:, None, None], SHAPE).copy()
    image[:, ~known] = 0.9
    found = interpolated(image, known, LEVEL)
    np.testing.assert_allclose(found.image, np.array(LEVEL)[:, None, None] * np.ones(SHAPE), atol=1e-6)
    assert found.spread.max() < 1e-3
    assert flat_colour(image, known) == pytest.approx(LEVEL)
    assert np.isnan(flat_colour(image, ~np.ones_like(known))).all()


def test_a_gap_follows_the_ground_beside_it_and_far_away_there_is_one_colour() -> None:
    known, slope = gap(40), np.linspace(0.1, 0.5, SHAPE[2], dtype=np.float32)
    image = np.broadcast_to(slope, SHAPE).copy()
    found = interpolated(np.where(known, image, np.nan), known, (0.3, 0.3)).image
    assert np.abs(found - image)[:, ~known].mean() < 0.5 * np.abs(0.3 - image)[:, ~known].mean()
    np.testing.assert_array_equal(found[:, known], image[:, known])
    nothing = interpolated(image, np.zeros_like(known), (0.3, 0.25)).image
    np.testing.assert_allclose(nothing, np.array([0.3, 0.25])[:, None, None] * np.ones(SHAPE), rtol=1e-6)


def test_a_window_with_enough_around_it_gives_the_bytes_of_the_whole() -> None:
    random = np.random.default_rng(0)
    image = random.random((2, 400, 380)).astype(np.float32)
    known = random.random((400, 380)) < 0.3
    known[110:250, 90:270] = False
    whole = interpolated(image, known, LEVEL)
    rows, columns = slice(160 - REACH_PX, 200 + REACH_PX), slice(150 - REACH_PX, 181 + REACH_PX)
    part = interpolated(image[:, rows, columns], known[rows, columns], LEVEL)
    for name in ("image", "spread"):
        one, other = getattr(whole, name)[:, 160:200, 150:181], getattr(part, name)
        np.testing.assert_array_equal(one, other[:, REACH_PX:-REACH_PX, REACH_PX:-REACH_PX])


def test_dates_fill_in_their_order() -> None:
    first, second, third = (np.full((1, 1, 4), value, np.float32) for value in (0.1, 0.2, 0.6))
    seen = [
        np.array([[True, False, False, False]]),
        np.array([[True, True, False, False]]),
        np.array([[True] * 3 + [False]]),
    ]
    np.testing.assert_array_equal(
        nearest_date([first, second, third], seen), np.array([[[0.1, 0.2, 0.6, np.nan]]], np.float32)
    )
    np.testing.assert_allclose(mean_of_dates([first, second, third], seen), [[[0.15, 0.4, 0.6, np.nan]]], rtol=1e-6)


def test_a_match_keeps_the_contrast_that_least_squares_loses_to_noise() -> None:
    random = np.random.default_rng(1)
    ground = random.uniform(0.15, 0.25, SHAPE).astype(np.float32)
    other, target = (ground + random.normal(0, 0.01, SHAPE).astype(np.float32) for _ in range(2))
    target = 1.2 * target + 0.02
    both = np.ones(SHAPE[1:], bool)
    target[:, :20, :20] = 0.9  # a missed cloud
    matched = linear_match(other, target, both)
    line = np.polyfit(other[0].ravel(), matched[0].ravel(), 1)
    assert line == pytest.approx([1.2, 0.02], abs=0.02)
    least_squares = np.polyfit(other[0, 20:].ravel(), target[0, 20:].ravel(), 1)[0]
    assert least_squares < 1.12 < line[0]


def test_a_match_does_not_carry_the_haze_of_the_target_into_the_ground() -> None:
    random = np.random.default_rng(2)
    other = random.uniform(0.05, 0.3, SHAPE).astype(np.float32)
    haze = np.linspace(0, 0.2, SHAPE[2], dtype=np.float32) * random.uniform(0.5, 1, SHAPE).astype(np.float32)
    matched = linear_match(other, other + haze, np.ones(SHAPE[1:], bool))
    assert np.abs(matched - other).mean() < 0.25 * haze.mean()
