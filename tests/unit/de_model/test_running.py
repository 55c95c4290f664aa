"""Batches in flight, as beside a GPU, on the CPU: the next one is launched before the results of one are taken."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from de_model.enhancer import Enhancer
from de_model.inference import running
from de_model.inference.acceleration import Acceleration
from de_model.inference.running import Inputs, Runner
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.inference.transfers import Transfers
from de_model.precision import Precision

SAMPLING = Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8, batch=3)
TILES = [Tile(row, column, 32) for row in (0, 24) for column in (0, 20, 40, 60)]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    scene = np.random.default_rng(0).uniform(0, 0.6, (2, 64, 96)).astype(np.float32)
    reference = scene[:, ::-1].copy()
    reference[:, :20] = np.nan
    return Inputs(scene, reference, (12, -4))


def test_batches_in_flight_give_what_single_tiles_give(enhancer: Enhancer, inputs: Inputs) -> None:
    runner = Runner(enhancer, inputs, SAMPLING)
    alone = {tile: layers for batch, found in runner.results(TILES) for tile, layers in zip(batch, found, strict=True)}
    sizes = []
    for batch, found in runner.overlapped(TILES):
        sizes.append(len(batch))
        for tile, layers in zip(batch, found, strict=True):
            np.testing.assert_allclose(layers, alone.pop(tile), atol=2e-5)
    assert sizes == [3, 3, 2] and not alone


def test_nothing_to_run_asks_nothing_of_the_device(enhancer: Enhancer, inputs: Inputs) -> None:
    assert list(Runner(enhancer, inputs, replace(SAMPLING, batch=None)).overlapped([])) == []


def test_one_batch_is_launched_ahead_of_the_results_that_are_taken(
    enhancer: Enhancer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    run, result = running._run, running.Arriving.result

    def launching(*given: object) -> object:
        told.append("launched")
        return run(*given)

    def arriving(self: running.Arriving) -> np.ndarray:
        told.append("taken")
        return result(self)

    monkeypatch.setattr(running, "_run", launching)
    monkeypatch.setattr(running.Arriving, "result", arriving)
    list(Runner(enhancer, inputs, SAMPLING).overlapped(TILES))
    assert told == ["launched", "launched", "taken", "launched", "taken", "taken"]


def test_what_overflows_in_flight_is_run_again_and_fillings_are_not_counted(
    enhancer: Enhancer, inputs: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    """Bfloat16 rounds this weight to infinity; it meets zeros only where red is 0.25."""
    weight = enhancer.predictor.net.stem.weight
    before = weight[0, 2].clone()
    weight[0, 2] = 3.4e38
    grey = replace(inputs, scene=inputs.scene.copy(), reference=None)
    grey.scene[0] = 0.25
    how = Acceleration(precision=Precision.BF16, cuda_graph=True)  # graphs make batches whole, on a CPU nothing else
    runner = Runner(enhancer, grey, replace(SAMPLING, acceleration=how))
    try:
        with caplog.at_level(logging.WARNING):
            found = list(runner.overlapped(TILES))
        exact = list(Runner(enhancer, grey, replace(SAMPLING, batch=1)).overlapped(TILES))
    finally:
        weight[0, 2] = before
    assert runner.redone == len(TILES)
    assert [len(batch) for batch, _ in found] == [3, 3, 2]
    np.testing.assert_allclose(
        np.concatenate([layers for _, layers in found]), np.concatenate([layers for _, layers in exact]), atol=2e-5
    )
    assert sum("float32" in record.getMessage() for record in caplog.records) == 1


def test_transfers_on_a_cpu_move_nothing() -> None:
    transfers, windows = Transfers(torch.device("cpu")), [np.full((2, 3, 3), value, np.float32) for value in (1, 2)]
    there = transfers.upload([window[:, ::2] for window in windows])
    assert there.shape == (2, 2, 2, 3) and there[1].eq(2).all()
    back = transfers.download(there)
    assert back.result().ctypes.data == there.data_ptr()
