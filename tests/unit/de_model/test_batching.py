"""Batches that do not fit into memory are halved, and nothing is lost or done twice."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from de_model.enhancer import Enhancer
from de_model.errors import OutOfMemory
from de_model.inference.running import Canvases, in_batches, layers_of, on_device
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile


class Memory:
    """Runs tiles as long as at most so many come at once, else fails as torch does."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, list[int]()

    def __call__(self, batch: list[Tile]) -> np.ndarray:
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return np.array([[[[tile.row]]] for tile in batch], np.float32)


@given(st.integers(0, 40), st.integers(1, 16), st.integers(1, 16))
def test_every_tile_runs_once_and_in_order(count: int, size: int, room: int) -> None:
    tiles, memory = [Tile(row, 0, 32) for row in range(count)], Memory(room)
    found = list(in_batches(tiles, size, memory))
    assert [tile for batch, _ in found for tile in batch] == tiles
    assert [int(v) for _, layers in found for v in layers[:, 0, 0, 0]] == list(range(count))
    assert sum(tried > room for tried in memory.tried) <= size.bit_length(), "what did not fit is not tried again"


def test_halving_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(in_batches([Tile(0, 0, 32)] * 8, 8, Memory(3)))
    assert [record.getMessage()[:14] for record in caplog.records] == ["8 tiles at onc", "4 tiles at onc"]


def test_no_room_for_one_tile_and_other_failures_are_distinguished() -> None:
    with pytest.raises(OutOfMemory, match="smaller tile"):
        list(in_batches([Tile(0, 0, 32)], 4, Memory(0)))

    def broken(batch: list[Tile]) -> np.ndarray:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches([Tile(0, 0, 32)], 4, broken))


def test_what_torch_says_when_a_cpu_has_no_room_counts() -> None:
    def greedy(batch: list[Tile]) -> np.ndarray:
        return torch.empty(2**50).numpy()

    with pytest.raises(OutOfMemory):
        list(in_batches([Tile(0, 0, 32)], 1, greedy))


def test_batches_give_what_single_tiles_give(enhancer: Enhancer) -> None:
    scene = np.random.default_rng(0).uniform(0, 0.6, (2, 64, 96)).astype(np.float32)
    reference = scene[:, ::-1].copy()
    reference[:, :20] = np.nan
    canvases, sampling = Canvases(scene, reference, (12, -4)), Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8)
    tiles = [Tile(row, column, 32) for row in (0, 24) for column in (0, 20, 40, 60)]
    alone = {
        tile: layers
        for batch, found in on_device(tiles, partial(layers_of, enhancer, canvases, sampling), torch.device("cpu"), 1)
        for tile, layers in zip(batch, found, strict=True)
    }
    together = layers_of(enhancer, canvases, sampling, tiles)
    for tile, layers in zip(tiles, together, strict=True):
        np.testing.assert_allclose(layers, alone[tile], atol=2e-5)
