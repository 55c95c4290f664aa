"""Noise field, tiles and engine."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.engine import restore
from de_model.inference.noise_field import NoiseField, philox
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import blending_window, plan_tiles, starts

SAMPLING = Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8)


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.6, (2, height, width)).astype(np.float32)


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
    for other in (NoiseField(seed=2), NoiseField(seed=1, sample=1), NoiseField(seed=1 + 2**40)):
        assert abs(np.corrcoef(noise[0].ravel(), other.window(0, 0, (256, 256), 1).ravel())[0, 1]) < 0.02


@given(st.integers(1, 500), st.sampled_from([32, 64, 128]), st.integers(0, 16))
def test_tiles_cover_every_pixel_with_the_overlap(length: int, size: int, overlap: int) -> None:
    first = starts(length, size, overlap)
    assert first[0] == 0 and first == sorted(set(first))
    assert first[-1] + size >= length and (length < size or first[-1] + size == length)
    assert all(b - a <= size - overlap for a, b in pairwise(first))


def test_blending_windows_sum_to_one_inside() -> None:
    window, stride = blending_window(32, 8), 24
    assert np.allclose(window[:, 24:32][16] + window[:, 0:8][16], 1, atol=1e-6)
    assert window.min() > 0 and window.shape == (32, 32) and stride == 24


def test_only_tiles_with_needed_pixels_run() -> None:
    needed = np.zeros((96, 96), bool)
    needed[90, 90] = True
    assert len(plan_tiles(needed, 32, 0)) == 1
    assert plan_tiles(np.zeros((96, 96), bool), 32, 8) == []
    with pytest.raises(InvalidModelInput, match="Overlap"):
        plan_tiles(needed, 32, 17)


def test_a_pixel_does_not_depend_on_what_else_is_needed(enhancer: Enhancer) -> None:
    image, few = scene(72, 80), np.zeros((72, 80), bool)
    few[30:34, 40:44] = True
    sampling = Sampling(seed=3, samples=1, steps=2, tile=32, overlap=8)
    part, whole = (restore(enhancer, image, n, sampling) for n in (few, np.ones_like(few)))
    assert np.array_equal(part.image[:, few], whole.image[:, few])
    assert part.tiles < whole.tiles


def test_same_seed_same_bytes_other_seed_other_bytes(enhancer: Enhancer) -> None:
    image, needed = scene(40, 40), np.ones((40, 40), bool)
    first, again = (restore(enhancer, image, needed, SAMPLING) for _ in range(2))
    other = restore(enhancer, image, needed, Sampling(seed=4, samples=2, steps=2, tile=32, overlap=8))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_results_are_finite_reflectance_and_nan_outside(enhancer: Enhancer) -> None:
    image, needed = scene(100, 100), np.zeros((100, 100), bool)
    image[:, :, :20] = np.nan
    needed[50:60, 10:30] = True
    seen: list[tuple[int, int]] = []
    found = restore(enhancer, image, needed, SAMPLING, on_tile=lambda done, total: seen.append((done, total)))
    assert np.isfinite(found.image[:, needed]).all()
    assert found.image[:, needed].min() >= 0 and found.image[:, needed].max() <= 1
    assert (found.reference_weight[needed] >= 0.3 - 1e-6).all() and (found.reference_weight[needed] <= 1 + 1e-6).all()
    assert np.isnan(found.image[:, 0, 99]).all()
    assert seen[-1] == (found.tiles, found.tiles)


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (31, 33)])
def test_scenes_smaller_than_a_tile_work(enhancer: Enhancer, shape: tuple[int, int]) -> None:
    found = restore(enhancer, scene(*shape), np.ones(shape, bool), SAMPLING)
    assert found.image.shape == (2, *shape) and np.isfinite(found.image).all()


def test_all_nodata_scene_gives_finite_values(enhancer: Enhancer) -> None:
    found = restore(enhancer, np.full((2, 40, 40), np.nan, np.float32), np.ones((40, 40), bool), SAMPLING)
    assert np.isfinite(found.image).all()


def test_nothing_needed_runs_nothing(enhancer: Enhancer) -> None:
    found = restore(enhancer, scene(40, 40), np.zeros((40, 40), bool), SAMPLING)
    assert found.tiles == 0 and np.isnan(found.image).all()


@pytest.mark.parametrize(
    ("sampling", "says"),
    [(Sampling(tile=30), "multiple"), (Sampling(samples=0), "at least 1"), (Sampling(eta=-0.1), "0..1")],
)
def test_bad_options_are_refused(enhancer: Enhancer, sampling: Sampling, says: str) -> None:
    with pytest.raises(InvalidModelInput, match=says):
        restore(enhancer, scene(40, 40), np.ones((40, 40), bool), sampling)


def test_wrong_bands_are_refused(enhancer: Enhancer) -> None:
    with pytest.raises(InvalidModelInput, match=r"bands \('red', 'nir'\)"):
        restore(enhancer, np.zeros((3, 40, 40), np.float32), np.ones((40, 40), bool), SAMPLING)
