"""Batches as a GPU has them, on the CPU."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from de_model.enhancer import Enhancer
from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.running import Inputs, Runner
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile

SAMPLING = Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8, batch=3)
TILES = [Tile(row, column, 32) for row in (0, 24) for column in (0, 20, 40, 60)]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    scene = np.random.default_rng(0).uniform(0, 0.6, (2, 64, 96)).astype(np.float32)
    reference = scene[:, ::-1].copy()
    reference[:, :20] = np.nan
    return Inputs(scene, reference, (12, -4))


def test_batches_give_what_single_tiles_give(enhancer: Enhancer, inputs: Inputs) -> None:
    runner = Runner(enhancer, inputs, SAMPLING)
    alone = {tile: layers for batch, found in runner.results(TILES) for tile, layers in zip(batch, found, strict=True)}
    sizes = []
    for batch, found in runner.in_batches(TILES):
        sizes.append(len(batch))
        for tile, layers in zip(batch, found, strict=True):
            np.testing.assert_allclose(layers, alone.pop(tile), atol=2e-5)
    assert sizes == [3, 3, 2] and not alone


def test_nothing_to_run_asks_nothing_of_the_device(enhancer: Enhancer, inputs: Inputs) -> None:
    assert list(Runner(enhancer, inputs, replace(SAMPLING, batch=None)).in_batches([])) == []


def test_what_overflows_in_a_batch_is_run_again(
    enhancer: Enhancer, inputs: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    """Bfloat16 rounds this weight to infinity; it meets zeros only where red is 0.25."""
    weight = enhancer.predictor.net.stem.weight
    before = weight[0, 2].clone()
    weight[0, 2] = 3.4e38
    grey = replace(inputs, scene=inputs.scene.copy(), reference=None)
    grey.scene[0] = 0.25
    how = Acceleration(precision=Precision.BF16)
    runner = Runner(enhancer, grey, replace(SAMPLING, acceleration=how))
    try:
        with caplog.at_level(logging.WARNING):
            found = list(runner.in_batches(TILES))
        exact = list(Runner(enhancer, grey, replace(SAMPLING, batch=1)).in_batches(TILES))
    finally:
        weight[0, 2] = before
    assert runner.redone == len(TILES)
    assert [len(batch) for batch, _ in found] == [3, 3, 2]
    np.testing.assert_allclose(
        np.concatenate([layers for _, layers in found]), np.concatenate([layers for _, layers in exact]), atol=2e-5
    )
    assert sum("float32" in record.getMessage() for record in caplog.records) == 1
