"""Retrainings on the sample: killed and continued, watched, refused; real flow, Prefect server, registry, training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from de_model import checkpoint
from de_model.calibration import LEVEL, calibration_of
from de_model.validation import validation_of
from flows.drift.statistics import baseline_of
from flows.errors import InvalidSettings
from flows.models.comparison import GATES_TAG
from flows.models.promotion import CHALLENGER, PREVIOUS
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.models.retrain_settings import load_retrain_settings
from flows.retrain import RetrainSummary, retrain
from flows.services.prefect_server import client_of
from flows.services.state import Login
from stac.search.static import sample_catalog
from tests.command import start
from tests.prefect_service import ask

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

#: One step a stage, one case, a window of it: the same code in a minute.
GATES = {
    "least_gain_db": -5.0, "least_trivial_gain_db": -20.0, "least_psnr_db": 10.0, "most_time_ratio": 20,
    "least_coverage": 0.0, "most_coverage": 1, "least_blocks": 3,
}  # fmt: skip
BRIEF: dict[str, Any] = {
    "effort": 0.001, "calibration_cases": 1, "baseline_dates": 0, "comparison_cases": 1,
    "comparison_window": 192, "gates": GATES, "datetime": "2023-08-10/2023-08-15",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Killed:
    """A state folder whose first retraining was killed (SIGKILL) between two stages."""

    state: Path
    #: URL of the Prefect API.
    api: str
    #: When the finished stage was written, nanoseconds, and what the registry held then.
    finished: int
    versions: tuple[str, ...]


@pytest.fixture(scope="module")
def killed(prefect_url: str, prefect_login: Login, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp("retrain")
    config = folder / "retrain.yaml"
    config.write_text(yaml.safe_dump(BRIEF | {"state_dir": str(folder)}), "utf-8")
    few = {"UNVEIL_SAMPLES": "1", "UNVEIL_STEPS": "1"}
    with pytest.MonkeyPatch.context() as patch, client_of(prefect_url, folder, prefect_login.auth_string):
        for name, value in few.items():
            patch.setenv(name, value)
        server = {"PREFECT_API_URL": prefect_url, "PREFECT_API_AUTH_STRING": prefect_login.auth_string}
        process = start("retrain", "--config", config, home=folder / "home", extra=few | server)
        stage = folder / "retraining" / "set00001-from1.work" / "scene" / "reference.safetensors"
        deadline = time.monotonic() + 300
        while not stage.is_file():
            assert process.poll() is None and time.monotonic() < deadline, "the first stage was not finished"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        versions = tuple(version.version for version in Registry(folder).versions())
        yield Killed(folder, prefect_url, stage.stat().st_mtime_ns, versions)


@pytest.fixture(scope="module")
def first(killed: Killed) -> RetrainSummary:
    return retrain(BRIEF | {"state_dir": str(killed.state), "promotion": "automatic"})


def test_a_killed_retraining_goes_on_where_it_was(killed: Killed, first: RetrainSummary) -> None:
    assert killed.versions == ("1",), "the watermark moves with the registration, not before"
    folder = killed.state / "retraining"
    assert (folder / "set00001-from1.work" / "scene" / "reference.safetensors").stat().st_mtime_ns == killed.finished
    assert [path.name for path in folder.glob("training-set-*.json")] == ["training-set-00001.json"]
    assert first.training_set.version == 1 and first.training_set.new == first.training_set.scenes == 3


def test_new_scenes_make_a_challenger_that_earns_its_place(killed: Killed, first: RetrainSummary) -> None:
    assert first.champion == "1" and first.judged is not None and first.promotion is not None, first.judged
    registry = Registry(killed.state)
    assert registry.aliases(MODEL_NAME) == {CHAMPION: first.challenger, PREVIOUS: "1"}
    version = registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    card = checkpoint.read_card(registry.weights(version))
    assert json.loads(card.training)["start"] == checkpoint.sha256_of(checkpoint.shipped_weights())
    table = calibration_of(registry.weights(version))
    assert table is not None and table.level == LEVEL and "MGRS-33TWL: 1 cases" in table.fitted_on
    baseline = baseline_of(registry.weights(version))
    assert baseline is not None and baseline.weights_sha256 == version.sha256 and len(baseline.units) >= 8
    tags = {v.version: v.tags for v in registry.versions()}[version.version]
    assert tags["unveil_training_set"] == "1" and tags["unveil_promoted_why"].startswith("retrain: PSNR")
    gates = json.loads(tags[GATES_TAG])
    assert gates["passed"] and gates["champion"] == "1"
    assert {c["name"] for c in gates["checks"]} >= {"gain", "trivial", "psnr", "coverage", "fidelity", "speed", "size"}
    names = {a.path for a in registry._client.list_artifacts(version.run_id, "evaluation")}
    assert {"evaluation/report.md", "evaluation/gates.json"} < names and any(n.endswith(".png") for n in names)
    run = registry._client.get_run(version.run_id)
    assert run.data.tags["sha256"] == version.sha256 and run.data.metrics["gate/trivial"] < 20, "the training's own run"
    assert {d.tags[0].value for d in run.inputs.dataset_inputs} == {"training", "evaluation"}
    assert validation_of(registry.weights(version)) is not None
    sets = registry._client.list_artifacts(version.run_id, "training-set")
    assert [a.path for a in sets] == ["training-set/training-set-00001.json"]


def test_the_promotion_is_an_event(killed: Killed, first: RetrainSummary, prefect_login: Login) -> None:
    wanted = {"filter": {"event": {"name": ["unveil.model.promoted"]}}}
    told = {"name": MODEL_NAME, "version": first.challenger, "before": "1"}
    found: list[dict[str, Any]] = []
    auth, deadline = (prefect_login.user, prefect_login.password), time.monotonic() + 60
    while told not in found and time.monotonic() < deadline:
        found = [event["payload"] for event in ask("POST", f"{killed.api}/events/filter", wanted, auth)["events"]]
        time.sleep(0.2)
    assert told in found


def test_known_scenes_are_not_trained_on_again_and_no_pixel_is_read(
    killed: Killed, first: RetrainSummary, tmp_path: Path
) -> None:
    source = shutil.copytree(sample_catalog().parent, tmp_path / "items", ignore=shutil.ignore_patterns("*.tif"))
    own = {"source": str(source), "cells": ["MGRS-33TWM", "MGRS-33TWL"], "holdout": ["MGRS-33TWL"]}
    again = retrain(BRIEF | own | {"state_dir": str(killed.state)})
    assert again.training_set.new == 0 and again.training_set.version == first.training_set.version
    assert again.challenger is None and again.promotion is None and again.champion == first.challenger


def test_a_square_held_out_without_scenes_is_found_before_anything_is_trained(killed: Killed, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="No scene of cell MGRS-33TWL"):
        retrain(BRIEF | {"state_dir": str(tmp_path), "bbox": "15.43,46.52,15.50,46.56"})
    assert not list((tmp_path / "retraining").glob("*.work"))


def test_an_interrupted_comparison_is_held_by_the_next_retraining(killed: Killed, first: RetrainSummary) -> None:
    registry = Registry(killed.state)
    # As a kill after the registration leaves it: a challenger of a known training set that was never judged.
    registry._client.set_registered_model_alias(MODEL_NAME, CHALLENGER, str(first.challenger))
    registry._client.set_registered_model_alias(MODEL_NAME, CHAMPION, "1")
    registry._client.delete_model_version_tag(MODEL_NAME, str(first.challenger), GATES_TAG)
    strict = BRIEF | {"gates": GATES | {"least_gain_db": 3.0}}
    found = retrain(strict | {"state_dir": str(killed.state), "promotion": "automatic"})
    assert found.training_set.new == 0 and found.challenger == first.challenger and found.promotion is None
    assert found.judged is not None and "gain in PSNR" in found.judged.verdict.reasons[0]
    aliases = registry.aliases(MODEL_NAME)
    assert aliases[CHAMPION] == "1" and aliases[CHALLENGER] == found.challenger


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="effort"):
        load_retrain_settings({"effort": 0})
    with pytest.raises(InvalidSettings, match=r"gates\.least_gain is 1: unexpected"):
        load_retrain_settings({"gates": {"least_gain": 1}})
    with pytest.raises(InvalidSettings, match="1 would be trained on and 0 held out"):
        load_retrain_settings({"cells": ["MGRS-33TWM"]}).split()
