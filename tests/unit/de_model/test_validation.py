"""The validation record: kinds of pixels, the best filler, and files that belong to other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from de_model.checkpoint import save, sha256_of
from de_model.errors import InvalidCheckpoint
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
