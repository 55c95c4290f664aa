"""A retraining on the sample, by the real flow on a real Prefect server, with real registry and training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_client import client_of

from de_model import checkpoint
from flows.errors import InvalidSettings
from flows.models.promotion import CHALLENGER, PREVIOUS
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.retrain import RetrainSummary, retrain
from flows.retraining.settings import load_retrain_settings

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

#: One step a stage: the same code in a minute.
BRIEF: dict[str, Any] = {"effort": 0.001, "synthetic": 0, "gates": {"least_gain_db": -5.0, "most_time_ratio": 10}}


@pytest.fixture(scope="module")
def state(prefect_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("retrain")
    with pytest.MonkeyPatch.context() as patch, client_of(prefect_url, folder):
        for name in ("SAMPLES", "STEPS"):
            patch.setenv(f"UNVEIL_{name}", "1")
        yield folder


@pytest.fixture(scope="module")
def first(state: Path) -> RetrainSummary:
    return retrain(BRIEF | {"state_dir": str(state), "promotion": "automatic"})


def test_new_pairs_make_a_challenger_that_earns_its_place(state: Path, first: RetrainSummary) -> None:
    assert first.training_set.new == first.training_set.pairs > 0 and first.champion == "1"
    assert first.contest is not None and first.contest.gain.images > 50 and first.promoted
    registry = Registry(state)
    assert registry.aliases(MODEL_NAME) == {CHAMPION: first.challenger, PREVIOUS: "1"}
    version = registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    card = checkpoint.read_card(registry.weights(version))
    assert json.loads(card.training)["start"] == checkpoint.sha256_of(checkpoint.shipped_weights())
    (listed,) = (v for v in registry.versions() if v.version == first.challenger)
    assert listed.tags["unveil_training_set"] == "1" and "by retrain" in listed.tags["unveil_promoted_why"]


def test_known_pairs_are_not_trained_on_again(state: Path, first: RetrainSummary) -> None:
    again = retrain(BRIEF | {"state_dir": str(state)})
    assert again.training_set.new == 0 and again.training_set.version == first.training_set.version
    assert again.challenger is None and not again.promoted and again.champion == first.challenger


def test_a_gate_keeps_a_challenger_waiting(state: Path, first: RetrainSummary) -> None:
    strict = BRIEF | {"least_new_pairs": 0, "seed": 1, "gates": {"least_gain_db": 3.0, "most_time_ratio": 10}}
    found = retrain(strict | {"state_dir": str(state), "promotion": "automatic"})
    assert not found.promoted and "lower end" in found.reasons[0]
    aliases = Registry(state).aliases(MODEL_NAME)
    assert aliases[CHAMPION] == first.challenger and aliases[CHALLENGER] == found.challenger


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="effort"):
        load_retrain_settings({"effort": 0})
    with pytest.raises(InvalidSettings, match="1 would be trained on and 0 held out"):
        load_retrain_settings({"cells": ["MGRS-33TWM"]}).split()
