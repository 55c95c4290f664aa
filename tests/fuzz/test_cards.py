"""Model cards, calibration tables and baselines with anything in them: they are read, or refused in a sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.calibration import calibration_path, check_apart, load_table
from de_model.card import ModelCard
from de_model.checkpoint import read_card, shipped_weights
from de_model.errors import DeModelError
from tests.fuzz.mutations import FIXED, values

VALUES = values("small", "paper", "light", "clamp", "ddim", "nan", "1", 0, -1, 1e308)
CARD: dict[str, Any] = json.loads(read_card(shipped_weights()).to_metadata()["card"])
TABLE: dict[str, Any] = json.loads(calibration_path(shipped_weights()).read_text())


@settings(FIXED, max_examples=500)
@given(
    st.dictionaries(st.sampled_from([*CARD, "distilled", "scene", "more"]), VALUES, min_size=1, max_size=3),
    st.sets(st.sampled_from(sorted(CARD)), max_size=2),
)
def test_an_odd_card_is_read_or_refused(changes: dict[str, Any], gone: set[str]) -> None:
    odd = {key: value for key, value in {**copy.deepcopy(CARD), **changes}.items() if key not in gone}
    try:
        card = ModelCard.from_metadata({"card": json.dumps(odd)}, "model.safetensors")
    except DeModelError as error:
        assert "model.safetensors" in str(error)
    else:
        assert card.bands and all(isinstance(band, str) for band in card.bands)
        assert card.gsd_m > 0 and 0 <= card.eta <= 1
        ModelCard.from_metadata(card.to_metadata(), "again")


@settings(FIXED, max_examples=100)
@given(st.one_of(st.none(), st.dictionaries(st.text(max_size=6), st.text(max_size=20), max_size=3)))
def test_odd_metadata_are_no_card(metadata: dict[str, str] | None) -> None:
    with pytest.raises(DeModelError, match=r"model\.safetensors"):
        ModelCard.from_metadata(metadata, "model.safetensors")


@settings(FIXED, max_examples=400)
@given(
    st.dictionaries(st.sampled_from([*TABLE, "more"]), VALUES, min_size=1, max_size=3),
    st.one_of(st.none(), st.dictionaries(st.sampled_from(["model", "other dates", "x"]), VALUES, max_size=2)),
)
def test_an_odd_calibration_is_read_or_refused(
    tmp_path: Path, changes: dict[str, Any], factors: dict[str, Any] | None
) -> None:
    odd = {**copy.deepcopy(TABLE), **changes}
    if factors is not None and isinstance(odd.get("factors"), dict):
        odd["factors"] = {**odd["factors"], **factors}
    path = tmp_path / "t.calibration.json"
    path.write_text(json.dumps(odd))
    try:
        table = load_table(path)
        check_apart(read_card(shipped_weights()), table)
    except DeModelError as error:
        assert str(error).strip()
    else:
        assert 0 < table.level < 1
        assert all(len(row) == len(table.bands) for row in table.factors.values())
