"""A training that is stopped at any moment goes on as if nothing had happened, on one process or on several."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from de_model import checkpoint
from de_model.data.pairs import PairData
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.training.objective import Batch
from de_model.training.stage_run import StageRun
from de_model.training.stages import Stage, StageOptions, TrainingOptions
from de_model.training.store import Store
from de_model.training.trainer import lesson_of, train
from tests.unit.de_model.training_case import STAGES, data, identity, pair, tiny

JOINT = replace(STAGES[0], stage=Stage.JOINT)
SCRIPT = Path(__file__).with_name("training_case.py")


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), str(folder), str(folder.with_suffix(".safetensors"))]
    root = str(SCRIPT.parents[3])
    return subprocess.Popen(
        command, cwd=root, env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | environment
    )


def curve(folder: Path) -> list[str]:
    """Return the losses that the training noted, a line a step."""
    path = folder.with_suffix(".losses")
    return path.read_text("utf-8").splitlines() if path.is_file() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    assert start(folder).wait(timeout=240) == 0
    return folder


def test_a_training_killed_at_a_random_step_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    expected = curve(undisturbed)
    folder, lines = tmp_path / "work", random.SystemRandom().randrange(5, 2 * len(expected) // 3)
    process = start(folder)
    while process.poll() is None and len(curve(folder)) < lines:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the training was over before it could be killed"
    assert start(folder).wait(timeout=240) == 0
    assert set(curve(folder)) == set(expected), f"killed after {lines} steps"
    whole, resumed = (checkpoint.load(f.with_suffix(".safetensors")).state_dict() for f in (undisturbed, folder))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items()), f"killed after {lines} steps"


def test_accumulation_changes_nothing_but_rounding() -> None:
    results = []
    for pieces in (1, 3):
        model = tiny()
        stages = [StageOptions(Stage.JOINT, 3, 4, 16, 1, 1e-3)]
        results.append(train(model, data(), stages, TrainingOptions(accumulate=pieces))[0].losses)
    assert results[1] == pytest.approx(results[0], abs=1e-5)


def test_a_batch_too_small_for_its_pieces_is_refused() -> None:
    with pytest.raises(InvalidModelInput, match="one patch for each"):
        train(tiny(), data(), STAGES, TrainingOptions(accumulate=5))


@pytest.mark.parametrize(("name", "value"), [("seed", "4"), ("data", "other"), ("stages", "fewer")])
def test_another_training_in_the_folder_is_refused(tmp_path: Path, name: str, value: str) -> None:
    Store(tmp_path, identity())
    Store(tmp_path, identity())
    with pytest.raises(InvalidCheckpoint, match=f"another training.*{name} was .*now {value}"):
        Store(tmp_path, identity() | {name: value})


def test_weights_of_unknown_origin_are_not_continued(tmp_path: Path) -> None:
    checkpoint.save(tiny(), tmp_path / "reference.safetensors")
    with pytest.raises(InvalidCheckpoint, match="empty folder"):
        Store(tmp_path, identity())


def advanced(steps: int) -> StageRun[Batch]:
    model, options = tiny(), TrainingOptions()
    run = StageRun(model, lesson_of(model, PairData([pair()]), JOINT, options), options)
    batches = run.lesson.batches(0)
    for _ in range(steps):
        run.advance(next(batches))
    return run


def test_a_damaged_state_is_passed_over_and_a_finished_stage_keeps_none(tmp_path: Path) -> None:
    store, run = Store(tmp_path, identity()), advanced(1)
    for step in (10, 20):
        store.save(replace(run.snapshot(), step=step))
    (state,) = tmp_path.glob("*.state.safetensors")
    found = store.latest(Stage.JOINT)
    assert found is not None and found.step == 20
    state.write_bytes(state.read_bytes()[:1000])
    assert store.latest(Stage.JOINT) is None
    store.finish(Stage.JOINT, tiny())
    assert not state.exists() and store.weights_of(Stage.JOINT) is not None
