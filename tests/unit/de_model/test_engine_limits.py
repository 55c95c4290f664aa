"""What the engine does at the edges of its input, and that no bit depends on how the work is cut."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference import tiles
from de_model.inference.engine import restore, restore_image
from de_model.inference.sampling import Sampling
from de_model.sampling.kinds import SamplerKind

SAMPLING = Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8)


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.6, (2, height, width)).astype(np.float32)


def test_tiles_smaller_than_the_stride_are_refused_with_the_number_that_fits(enhancer: Enhancer) -> None:
    small = replace(SAMPLING, tile=enhancer.stride - 1, overlap=0)
    with pytest.raises(InvalidModelInput, match=f"choose a multiple of {enhancer.stride} px"):
        restore(enhancer, scene(40, 40), np.ones((40, 40), bool), small)


def test_tiles_of_the_stride_itself_are_smaller_than_the_field_of_view_and_work(enhancer: Enhancer) -> None:
    smallest = replace(SAMPLING, tile=enhancer.stride, overlap=0)
    found = restore(enhancer, scene(6, 7), np.ones((6, 7), bool), smallest)
    assert np.isfinite(found.image).all() and found.tiles == -(-6 // enhancer.stride) * -(-7 // enhancer.stride)


@pytest.mark.parametrize("kind", SamplerKind)
def test_a_scene_of_one_pixel_without_data_is_restored_by_every_sampler(enhancer: Enhancer, kind: SamplerKind) -> None:
    nothing = np.full((2, 1, 1), np.nan, np.float32)
    found = restore_image(enhancer, nothing, np.ones((1, 1), bool), replace(SAMPLING, sampler=kind))
    assert found.image.shape == (2, 1, 1) and np.isfinite(found.image).all() and found.tiles == 1
    assert found.image.min() >= 0 and found.image.max() <= 1


def test_a_scene_of_no_pixels_gives_none(enhancer: Enhancer) -> None:
    found = restore_image(enhancer, np.zeros((2, 0, 5), np.float32), np.zeros((0, 5), bool), SAMPLING)
    assert found.image.shape == (2, 0, 5) and found.tiles == 0


def test_no_bit_depends_on_the_order_of_the_tiles(enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two neighbours meet in a sum of two, which has one order; where four meet, the order is that of the grid."""
    image, needed = scene(32, 88), np.ones((32, 88), bool)
    forwards = restore(enhancer, image, needed, SAMPLING)
    plan = tiles.plan_tiles
    monkeypatch.setattr(tiles, "plan_tiles", lambda *given: plan(*given)[::-1])
    backwards = restore(enhancer, image, needed, SAMPLING)
    assert forwards.tiles > 3 and forwards.image.tobytes() == backwards.image.tobytes()


def test_no_bit_depends_on_the_threads(enhancer: Enhancer) -> None:
    image, needed = scene(72, 80), np.ones((72, 80), bool)
    expected = restore(enhancer, image, needed, SAMPLING).image.tobytes()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert restore(enhancer, image, needed, SAMPLING).image.tobytes() == expected
            assert torch.get_num_threads() == threads, "what is set for tiles is not left behind"
    finally:
        torch.set_num_threads(before)


def test_a_failure_in_one_of_many_threads_ends_the_work(enhancer: Enhancer) -> None:
    before = torch.get_num_threads()
    image, needed = scene(72, 80), np.ones((72, 80), bool)
    broken = deepcopy(enhancer)
    broken.predictor.net.stem.weight[0] = torch.nan
    try:
        torch.set_num_threads(3)
        with pytest.raises(InvalidModelInput, match="not finite"):
            restore(broken, image, needed, SAMPLING)
        assert torch.get_num_threads() == 3
        assert np.isfinite(restore(enhancer, image, needed, SAMPLING).image).all()
    finally:
        torch.set_num_threads(before)


def test_no_bit_depends_on_the_blocks(enhancer: Enhancer) -> None:
    image, needed = scene(90, 101), np.zeros((90, 101), bool)
    needed[3:50, 20:90] = True
    results = {restore_image(enhancer, image, needed, SAMPLING, side=side).image.tobytes() for side in (33, 64, 1024)}
    assert len(results) == 1
