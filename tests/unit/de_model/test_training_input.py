"""Training refuses what it cannot learn from, says what to do, and steps over single bad gradients."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from de_model.data.pairs import PairData, Patches, PatchSampler
from de_model.errors import InvalidModelInput, TrainingFailed
from de_model.training.course import Observer, Progress, StageResult
from de_model.training.stages import Stage, StageOptions
from de_model.training.trainer import train
from de_model.training.validation import Restored, Validation, sample_grid
from tests.unit.de_model.training_case import data, pair, tiny

ONE = StageOptions(Stage.REFERENCE, 1, 2, 16, 1, 1e-3)


@pytest.mark.parametrize("image", ["cloudy", "clear"])
def test_a_pair_that_is_not_finite_where_it_is_valid_is_named(image: str) -> None:
    bad = pair(1)
    getattr(bad, image)[0, 40, 50] = np.nan
    with pytest.raises(InvalidModelInput, match=f"pair 1: the {image} image is not finite on 1 pixels"):
        PairData([pair(0), bad])


def test_no_pair_and_pairs_of_different_shape_are_refused() -> None:
    with pytest.raises(TrainingFailed, match="No cloudy/clear pair"):
        PairData([])
    with pytest.raises(InvalidModelInput, match="every image must be"):
        PairData([replace(pair(), cloudy=pair().cloudy[:1])])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (replace(ONE, patch=128), "Patches need 128 px, the smallest pair has 96 px"),
        (replace(ONE, patch=20), "use a multiple of 8 px"),
        (replace(ONE, steps=0), "at least one step"),
    ],
)
def test_stages_that_cannot_run_are_refused_before_anything_is_trained(stage: StageOptions, message: str) -> None:
    model = tiny()
    before = [p.clone() for p in model.reference.parameters()]
    with pytest.raises((TrainingFailed, InvalidModelInput), match=message):
        train(model, data(), [ONE, stage])
    assert all(torch.equal(a, b) for a, b in zip(before, model.reference.parameters(), strict=True))


def test_data_of_other_bands_are_refused() -> None:
    one_band = replace(pair(), cloudy=pair().cloudy[:1], clear=pair().clear[:1])
    with pytest.raises(InvalidModelInput, match="1 bands, the model has 2"):
        train(tiny(), PairData([one_band]), [ONE])


class SometimesBad(PairData):
    """Gives patches whose truth is not finite on chosen steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__([pair()])
        self.bad = bad

    def source(self, stage: StageOptions, seed: int) -> PatchSampler:
        sampler, bad = super().source(stage, seed), self.bad
        batch = sampler.batch

        def spoiled(step: int, count: int) -> Patches:
            found = batch(step, count)
            return replace(found, clear=found.clear * torch.inf) if step in bad else found

        sampler.batch = spoiled  # type: ignore[method-assign]
        return sampler


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    model, seen = tiny(), list[Progress]()

    class Note(Observer):
        def on_step(self, progress: Progress) -> None:
            seen.append(progress)

    stage = replace(ONE, steps=6, patch=32)
    result = train(model, SometimesBad({1, 2, 4}), [stage], observers=[Note()])
    assert [p.skipped for p in seen] == [0, 1, 2, 2, 3, 3] and result[0].skipped == 3
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_too_many_bad_gradients_in_a_row_end_the_training() -> None:
    with pytest.raises(TrainingFailed, match="20 gradients in a row up to step 22"):
        train(tiny(), SometimesBad(set(range(2, 40))), [replace(ONE, steps=50, patch=32)])


LITTLE_MEMORY = """
import resource, sys, torch
from tests.unit.de_model.training_case import data, tiny
from de_model.errors import TrainingFailed
from de_model.training.stages import Stage, StageOptions
from de_model.training.trainer import train
model, pairs = tiny(), data()
train(model, pairs, [StageOptions(Stage.FINE, 1, 2, 16, 1, 1e-3)])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
try:
    train(model, pairs, [StageOptions(Stage.FINE, 1, 64, 64, 1, 1e-3)])
except TrainingFailed as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits its own memory through Linux' /proc")
def test_a_lack_of_memory_is_reported_with_the_remedy() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY],
        env={"PYTHONPATH": f"{here}:{here.parents[2]}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Out of memory in stage fine with 64 patches of 64 px; halve --batch (to 32)" in done.stdout, done.stderr


class Notes(Observer):
    def __init__(self) -> None:
        self.scores: list[tuple[Stage, int, dict[str, float]]] = []
        self.images: dict[Stage, Restored] = {}
        self.ends: list[StageResult] = []

    def on_validation(self, stage: Stage, step: int, scores: dict[str, float]) -> None:
        self.scores.append((stage, step, scores))

    def on_samples(self, stage: Stage, step: int, images: Restored) -> None:
        self.images[stage] = images

    def on_stage_end(self, result: StageResult) -> None:
        self.ends.append(result)


def test_validation_looks_on_without_touching_the_training() -> None:
    stages = [StageOptions(s, 4, 2, 16, 1, 1e-3) for s in (Stage.REFERENCE, Stage.FINE, Stage.JOINT)]
    models, notes = [tiny(), tiny()], Notes()
    train(models[0], data(), stages)
    validation = Validation(PairData([pair(9)]), every=2, patches=2, sampling_steps=2)
    train(models[1], data(), stages, validation=validation, observers=[notes])
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [(stage, step) for stage, step, _ in notes.scores] == [(s.stage, n) for s in stages for n in (2, 4)]
    assert set(notes.scores[-1][2]) == {"noise", "fusion", "psnr", "psnr_hidden"}
    assert [result.validation for result in notes.ends] == [notes.scores[i][2] for i in (1, 3, 5)]


def test_sample_grids_show_what_a_stage_has() -> None:
    notes = Notes()
    train(
        tiny(), data(), [StageOptions(s, 1, 2, 16, 1, 1e-3) for s in (Stage.REFERENCE, Stage.JOINT)], observers=[notes]
    )
    shapes = {stage: sample_grid(found, ("red", "nir")).shape for stage, found in notes.images.items()}
    assert shapes == {Stage.REFERENCE: (4 * 18, 3 * 18, 3), Stage.JOINT: (4 * 18, 4 * 18, 3)}
