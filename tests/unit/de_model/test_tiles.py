"""What scenes are cut into: the noise field, tiles, their borders, and batches that do not fit into memory."""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput, OutOfMemory
from de_model.inference.layers import Canvases, layers_of
from de_model.inference.noise_field import NoiseField, philox
from de_model.inference.running import in_batches, on_device
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Frame, Tile, blending_window, plan_tiles, starts, surroundings


def test_philox_gives_the_published_vectors() -> None:
    """Known answers that Random123 publishes for Philox 4x32-10."""
    zero = np.zeros(1, np.uint64)
    words = philox((zero, zero, zero, zero), (0, 0))
    assert [int(w[0]) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    full = np.full(1, 0xFFFFFFFF, np.uint64)
    words = philox((full, full, full, full), (0xFFFFFFFF, 0xFFFFFFFF))
    assert [int(w[0]) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@given(st.integers(-50, 2**20), st.integers(-50, 2**20), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_noise_windows_agree_where_they_overlap(row: int, column: int, dy: int, dx: int) -> None:
    field = NoiseField(seed=7)
    first, second = (field.window(row + a, column + b, (32, 40), 3) for a, b in ((0, 0), (dy, dx)))
    assert np.array_equal(first[:, dy:, dx:], second[:, : 32 - dy, : 40 - dx])


def test_noise_is_gaussian_and_independent() -> None:
    noise = NoiseField(seed=1).window(0, 0, (256, 256), 4)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1
    rows = noise.reshape(4, -1)
    assert abs(np.corrcoef(rows) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(noise[0, :, :-1].ravel(), noise[0, :, 1:].ravel())[0, 1]) < 0.02
    others = [NoiseField(seed=2), NoiseField(seed=1, sample=1), NoiseField(seed=1 + 2**40)]
    fields = [other.window(0, 0, (256, 256), 1) for other in others]
    fields += [NoiseField(seed=1).window(0, 0, (256, 256), 1, stream) for stream in (1, 2, 65535)]
    for field in fields:
        assert abs(np.corrcoef(noise[0].ravel(), field.ravel())[0, 1]) < 0.02


@given(st.integers(1, 500), st.sampled_from([32, 64, 128]), st.integers(0, 16))
def test_tiles_cover_every_pixel_with_the_overlap(length: int, size: int, overlap: int) -> None:
    first = starts(length, size, overlap)
    assert first[0] == 0 and first == sorted(set(first))
    assert first[-1] + size >= length and (length < size or first[-1] + size == length)
    assert all(b - a <= size - overlap for a, b in pairwise(first))


def test_blending_windows_sum_to_one_inside() -> None:
    window = blending_window(32, 8)
    assert np.allclose(window[:, 24:32][16] + window[:, 0:8][16], 1, atol=1e-6)
    assert window.min() > 0 and window.shape == (32, 32)


def test_only_tiles_with_needed_pixels_run() -> None:
    needed = np.zeros((96, 96), bool)
    needed[90, 90] = True
    assert len(plan_tiles(needed, 32, 0)) == 1
    assert plan_tiles(np.zeros((96, 96), bool), 32, 8) == []
    with pytest.raises(InvalidModelInput, match="Overlap"):
        plan_tiles(needed, 32, 17)


@given(st.integers(1, 400), st.integers(0, 399), st.integers(1, 100), st.sampled_from([(32, 8), (64, 0), (64, 32)]))
@settings(deadline=None)
def test_surroundings_hold_every_tile_that_touches_the_pixels(
    length: int, first: int, extent: int, tiling: tuple[int, int]
) -> None:
    size, overlap = tiling
    first = min(first, length - 1)
    last = min(first + extent, length)
    frame = Frame.around((length, length), (0, 0), size)
    (top, bottom), _ = surroundings((first, last), (first, last), frame, size, overlap)
    touching = [s for s in starts(frame.canvas_shape[0], size, overlap) if s < last and s + size > first]
    assert top == touching[0] and bottom == min(touching[-1] + size, length)
    assert 0 <= top <= first and last <= bottom <= length


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
    with pytest.raises(OutOfMemory):  # as torch says it of a CPU
        list(in_batches([Tile(0, 0, 32)], 1, lambda _: torch.empty(2**50).numpy()))

    def broken(batch: list[Tile]) -> np.ndarray:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches([Tile(0, 0, 32)], 4, broken))


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
