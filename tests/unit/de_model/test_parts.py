"""A scene restored part by part is the scene restored at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.engine import restore, restore_image
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Frame, Part, starts, surroundings
from de_model.sampling.kinds import SamplerKind

FILL = (0.1, 0.2)


def scene(height: int, width: int) -> np.ndarray:
    image = np.random.default_rng(0).uniform(0, 0.6, (2, height, width)).astype(np.float32)
    image[:, : height // 5, : width // 3] = np.nan
    return image


def by_parts(enhancer: Enhancer, image: np.ndarray, needed: np.ndarray, options: Sampling, side: int) -> np.ndarray:
    """Restore block by block, each with just the surroundings that it asks for."""
    shape, origin = needed.shape, (33, -7)
    frame, found = Frame.around(shape, origin, options.tile, options.grid), np.full_like(image, np.nan)
    for row in range(0, shape[0], side):
        for column in range(0, shape[1], side):
            rows, columns = (row, min(row + side, shape[0])), (column, min(column + side, shape[1]))
            (top, bottom), (left, right) = surroundings(rows, columns, frame, options.tile, options.overlap)
            block = np.zeros(shape, bool)
            block[slice(*rows), slice(*columns)] = needed[slice(*rows), slice(*columns)]
            window = np.s_[top:bottom, left:right]
            part = Part(shape, (top, left), FILL)
            result = restore(enhancer, image[:, *window], block[window], options, origin=origin, part=part)
            found[:, block] = result.image[:, block[window]]
    return found


@pytest.mark.parametrize("kind", [SamplerKind.DDIM, SamplerKind.PYRAMID])
@pytest.mark.parametrize(("shape", "side"), [((90, 101), 40), ((20, 90), 33)])
def test_parts_give_the_bytes_of_the_whole(
    enhancer: Enhancer, kind: SamplerKind, shape: tuple[int, int], side: int
) -> None:
    image, options = scene(*shape), Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8, sampler=kind)
    needed = np.zeros(shape, bool)
    needed[5:17, 30:70] = needed[shape[0] - 3 :, shape[1] - 4 :] = True
    whole = restore(enhancer, image, needed, options, origin=(33, -7), part=Part(shape, (0, 0), FILL))
    parts = by_parts(enhancer, image, needed, options, side)
    assert parts[:, needed].tobytes() == whole.image[:, needed].tobytes()


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


def test_a_part_without_its_surroundings_is_refused(enhancer: Enhancer) -> None:
    options, image = Sampling(samples=1, steps=1, tile=32, overlap=8), np.zeros((2, 40, 40), np.float32)
    with pytest.raises(InvalidModelInput, match="surroundings"):
        restore(enhancer, image, np.ones((40, 40), bool), options, part=Part((100, 100), (10, 10), FILL))
    with pytest.raises(InvalidModelInput, match="does not lie"):
        restore(enhancer, image, np.ones((40, 40), bool), options, part=Part((45, 45), (10, 10), FILL))


def test_an_image_restored_by_blocks_is_the_image_restored_at_once(enhancer: Enhancer) -> None:
    image, options = scene(90, 101), Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8)
    needed = np.zeros((90, 101), bool)
    needed[5:17, 30:70] = needed[80:, 50:] = True
    whole, blocks = restore(enhancer, image, needed, options), restore_image(enhancer, image, needed, options, side=40)
    assert blocks.image[:, needed].tobytes() == whole.image[:, needed].tobytes()
    assert np.isnan(blocks.image[:, ~needed]).all()
    assert blocks.mean_reference_weight == pytest.approx(whole.reference_weight[needed].mean(), rel=1e-5)
    assert blocks.mean_spread == pytest.approx(whole.spread[:, needed].mean(), rel=1e-5)
    nothing = restore_image(enhancer, image, np.zeros_like(needed), options)
    assert nothing.tiles == 0 and np.isnan(nothing.mean_spread)
