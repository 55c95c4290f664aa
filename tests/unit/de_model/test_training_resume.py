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
from de_model.training.stage_run import StageRun
from de_model.training.stages import Stage, StageOptions, TrainingOptions
from de_model.training.store import Entry, History, Store
from de_model.training.trainer import train
from tests.unit.de_model.training_case import STAGES, data, identity, pair, tiny

SCRIPT = Path(__file__).with_name("training_case.py")


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), str(folder), str(folder.with_suffix(".safetensors"))]
    root = str(SCRIPT.parents[3])
    return subprocess.Popen(
        command, cwd=root, env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"} | environment
    )


def curve(folder: Path) -> list[Entry]:
    return History(folder / "losses.jsonl").entries()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    assert start(folder).wait(timeout=240) == 0
    return folder


def test_a_training_killed_at_a_random_step_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    folder, lines = tmp_path / "work", random.SystemRandom().randrange(5, 2 * len(curve(undisturbed)) // 3)
    process = start(folder)
    while process.poll() is None and len(curve(folder)) < lines:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the training was over before it could be killed"
    assert start(folder).wait(timeout=240) == 0
    assert curve(folder) == curve(undisturbed), f"killed after {lines} steps"
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


def advanced(steps: int) -> StageRun:
    from de_model.training.objective import draw

    run = StageRun(tiny(), replace(STAGES[0], stage=Stage.JOINT), TrainingOptions())
    source = PairData([pair()]).source(run.stage, 0)
    for step in range(steps):
        run.advance(draw(source, run.stage, step, 0, 1000))
    return run


def test_old_states_are_pruned_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    store, run = Store(tmp_path, identity(), keep=2), advanced(1)
    for step in (10, 20, 30):
        store.save(replace(run.snapshot(), step=step))
    states = sorted(tmp_path.glob("*.state.safetensors"))
    assert [path.name for path in states] == [f"joint-000000{step}.state.safetensors" for step in (20, 30)]
    states[1].write_bytes(states[1].read_bytes()[:1000])
    found = store.latest(Stage.JOINT)
    assert found is not None and found.step == 20
    store.finish(Stage.JOINT, tiny())
    assert store.latest(Stage.JOINT) is None and store.weights_of(Stage.JOINT) is not None


def test_a_state_holds_weights_average_and_optimiser_exactly(tmp_path: Path) -> None:
    store, run = Store(tmp_path, identity()), advanced(2)
    store.save(run.snapshot())
    found = store.latest(Stage.JOINT)
    assert found is not None
    other = StageRun(tiny(7).channels_last(), run.stage, run.options)
    other.restore(found)
    before, after = run.snapshot(), other.snapshot()
    assert (before.step, before.updates) == (after.step, after.updates) == (2, 2)
    assert set(before.tensors) == set(after.tensors)
    assert any(name.startswith("optimiser.") for name in before.tensors)
    assert all(torch.equal(value, after.tensors[name]) for name, value in before.tensors.items())


def test_a_curve_is_cut_back_to_the_state_it_goes_on_from(tmp_path: Path) -> None:
    history = History(tmp_path / "losses.jsonl")
    for stage, step in ((Stage.REFERENCE, 1), (Stage.REFERENCE, 2), (Stage.FINE, 1), (Stage.FINE, 2)):
        history.add(Entry(stage, step, {"noise": 0.1 + 0.2}))
    with history.path.open("a") as stream:
        stream.write('{"stage": "fine", "st')
    history.cut(Stage.FINE, 1)
    assert [(e.stage, e.step) for e in history.entries()] == [("reference", 1), ("reference", 2), ("fine", 1)]
    assert history.entries()[0].values["noise"] == 0.1 + 0.2
