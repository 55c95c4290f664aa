"""The engine with every sampler: determinism, tiling, starts and given references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference import tiles
from de_model.inference.engine import Restoration, restore
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.running import BoundEstimator
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Frame, Tile, plan_tiles
from de_model.packaging import NEEDED, SCENE, answer, default_parameters, example
from de_model.radiometry import from_unit, to_unit, to_unsigned
from de_model.sampling.kinds import SamplerKind
from de_model.sampling.samplers import Trajectory, ddim

KINDS = pytest.mark.parametrize("kind", SamplerKind)


def sampling(kind: SamplerKind = SamplerKind.DDIM, **values: object) -> Sampling:
    plain = Sampling(seed=3, samples=1, steps=3, tile=32, overlap=8, sampler=kind)
    return dataclasses.replace(plain, **values)


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.6, (2, height, width)).astype(np.float32)


def full(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), bool)


def same_bytes(a: Restoration, b: Restoration) -> bool:
    return all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in ("image", "spread", "reference_weight"))


@KINDS
def test_tile_order_does_not_matter(enhancer: Enhancer, kind: SamplerKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over up to four tiles are rounded differently; nothing else may change."""
    forward = restore(enhancer, scene(56, 56), full(56, 56), sampling(kind))
    monkeypatch.setattr(tiles, "plan_tiles", lambda *a: plan_tiles(*a)[::-1])
    backward = restore(enhancer, scene(56, 56), full(56, 56), sampling(kind))
    assert np.allclose(forward.image, backward.image, rtol=0, atol=1e-6)


@KINDS
def test_a_tile_gives_the_same_bytes_wherever_it_is_read_from(enhancer: Enhancer, kind: SamplerKind) -> None:
    image, options = scene(64, 64), sampling(kind, overlap=0)
    whole = restore(enhancer, image, full(64, 64), options, origin=(8, -4))
    part = restore(enhancer, image[:, 32:, 32:], full(32, 32), options, origin=(40, 28))
    assert whole.image[:, 32:, 32:].tobytes() == part.image.tobytes()


@KINDS
@pytest.mark.parametrize("start", [None, 200])
def test_eta_one_gives_the_reference(enhancer: Enhancer, kind: SamplerKind, start: int | None) -> None:
    found = restore(enhancer, scene(45, 33), full(45, 33), sampling(kind, eta=1.0, start=start), origin=(5, 6))
    assert np.array_equal(found.image, found.reference) and found.image.shape == (2, 45, 33)
    assert np.allclose(found.reference_weight, 1, atol=1e-6) and np.isfinite(found.image).all()


@KINDS
def test_one_step_works(enhancer: Enhancer, kind: SamplerKind) -> None:
    found = restore(enhancer, scene(32, 32), full(32, 32), sampling(kind, steps=1))
    assert np.isfinite(found.image).all()


@KINDS
def test_seed_and_samples_reach_every_sampler(enhancer: Enhancer, kind: SamplerKind) -> None:
    found = restore(enhancer, scene(32, 32), full(32, 32), sampling(kind, samples=3, eta=0.0))
    other = restore(enhancer, scene(32, 32), full(32, 32), sampling(kind, samples=3, eta=0.0, seed=4))
    assert found.spread.max() > 0 and not np.array_equal(found.image, other.image)


def test_a_sample_is_the_same_alone_and_among_others(enhancer: Enhancer) -> None:
    image, mask = scene(32, 32), full(32, 32)
    together = restore(enhancer, image, mask, sampling(samples=6, eta=0.0))
    condition, found = enhancer.condition(to_unit(torch.from_numpy(image)[None])), []
    for sample in range(6):
        noise = TileNoise(NoiseField(3, sample), (Tile(0, 0, 32),), (0, 0), 2, torch.device("cpu"))
        trajectory = Trajectory(enhancer.schedule, 3, noise)
        found.append(from_unit(to_unsigned(ddim(BoundEstimator(enhancer, condition, 0.0), trajectory).image))[0])
    assert np.allclose(together.image, torch.stack(found).mean(dim=0), atol=1e-5)
    assert np.allclose(together.spread, torch.stack(found).std(dim=0), atol=1e-5)


def test_samplers_and_starts_differ(enhancer: Enhancer) -> None:
    options = [sampling(kind) for kind in SamplerKind] + [sampling(start=400), sampling(start=100)]
    images = {restore(enhancer, scene(32, 32), full(32, 32), o).image.tobytes() for o in options}
    assert len(images) == len(options)


def test_a_start_without_noise_left_stays_near_the_reference(enhancer: Enhancer) -> None:
    """At t = 0 the state is the reference with noise of 0.01, and x0_hat can only be near it."""
    options = sampling(eta=0.0, steps=1, start=0)
    found = restore(enhancer, scene(32, 32), full(32, 32), options)
    assert np.abs(found.image - found.reference).max() < 0.2
    assert np.abs(found.image - found.reference).mean() < 0.03


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_tiles_see_the_same_noise_where_they_overlap(scale: int) -> None:
    field, origin, cpu = NoiseField(7), (12, -8), torch.device("cpu")
    tiles = (Tile(0, 0, 32), Tile(16, 24, 32))
    first, second = TileNoise(field, tiles, origin, 3, cpu)(2, scale)
    assert first.shape == (3, 32 // scale, 32 // scale)
    assert torch.equal(first[:, 16 // scale :, 24 // scale :], second[:, : 16 // scale, : 8 // scale])


def test_streams_of_noise_are_independent_and_the_first_is_the_plain_field() -> None:
    field, shape = NoiseField(1), (128, 128)
    plain = field.window(0, 0, shape, 2)
    assert np.array_equal(field.window(0, 0, shape, 2, stream=0), plain)
    for stream in (1, 2, 65535):
        other = field.window(0, 0, shape, 2, stream)
        assert abs(other.std() - 1) < 0.02
        assert abs(np.corrcoef(plain.ravel(), other.ravel())[0, 1]) < 0.03


def test_frames_begin_on_the_grid() -> None:
    frame = Frame.around((31, 30), (33, -6), 32, 4)
    assert frame.origin == (32, -8) and frame.padding == ((1, 0), (2, 0))
    image = np.arange(2 * 31 * 30, dtype=np.float32).reshape(2, 31, 30)
    assert frame.mirror(image).shape == (2, 32, 32)
    assert np.array_equal(frame.crop(frame.mirror(image)), image)
    assert frame.surround(full(31, 30)).sum() == 31 * 30
    assert Frame.around((100, 7), (33, 34), 32).padding == ((0, 0), (0, 25))
    assert Frame.around((101, 40), (0, 0), 32, 4).padding == ((0, 3), (0, 0))


@KINDS
def test_a_given_reference_is_used_where_it_is_finite(enhancer: Enhancer, kind: SamplerKind) -> None:
    image, given = scene(40, 40), np.full((2, 40, 40), 0.25, np.float32)
    given[:, :, :20] = np.nan
    given[1, :5, 30] = np.inf  # one band is not enough
    own = restore(enhancer, image, full(40, 40), sampling(kind, eta=1.0))
    found = restore(enhancer, image, full(40, 40), sampling(kind, eta=1.0), reference=given)
    usable = np.isfinite(given).all(axis=0)
    assert np.allclose(found.image[:, usable], 0.25, atol=1e-6)
    assert np.array_equal(found.image[:, ~usable], own.image[:, ~usable])


def test_a_start_begins_at_the_given_reference(enhancer: Enhancer) -> None:
    given = np.full((2, 32, 32), 0.25, np.float32)
    options = sampling(eta=0.0, steps=1, start=0)
    found = restore(enhancer, scene(32, 32), full(32, 32), options, reference=given)
    assert np.abs(found.image - 0.25).mean() < 0.03


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (sampling("euler"), "euler is unknown; choose one of ddim, dpmpp2m"),
        (sampling(steps=0), "1 to 1000"),
        (sampling(start=1000), "0 to 999"),
        (sampling(start=1, steps=3), "1 to 2"),
        (sampling(SamplerKind.PYRAMID, tile=36), "multiple of 32 px for sampler pyramid"),
        (sampling(SamplerKind.PYRAMID, overlap=6), "Overlap of 6 px; choose a multiple of 4 px"),
    ],
)
def test_options_that_do_not_fit_are_refused(enhancer: Enhancer, options: Sampling, says: str) -> None:
    with pytest.raises(InvalidModelInput, match=says):
        restore(enhancer, scene(40, 40), full(40, 40), options)


def test_a_reference_of_another_shape_is_refused(enhancer: Enhancer) -> None:
    with pytest.raises(InvalidModelInput, match="Reference of shape"):
        restore(enhancer, scene(40, 40), full(40, 40), sampling(), reference=scene(40, 41))


def test_the_packaged_model_takes_sampler_and_start(enhancer: Enhancer) -> None:
    defaults = default_parameters(enhancer.card)
    assert defaults["sampler"] == "ddim" and defaults["start"] is None
    tensors = example(enhancer.card)
    chosen = {"tile": 32.0, "overlap": 8, "steps": "2", "samples": 1, "sampler": "dpmpp2m", "start": 300}
    found = answer(enhancer, tensors, chosen)
    direct = restore(
        enhancer,
        tensors[SCENE][0],
        tensors[NEEDED][0],
        Sampling(samples=1, steps=2, tile=32, overlap=8, sampler=SamplerKind.DPMPP2M, start=300),
    )
    where = tensors[NEEDED][0]
    assert np.array_equal(found.image[0][:, where], direct.image[:, where])
    same = answer(enhancer, tensors, chosen | {"start": None})
    assert not np.array_equal(same.image, found.image)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"steps": 2.5}, "steps is 2.5; give a whole number"),
        ({"steps": "many"}, "steps is 'many'; give a number"),
        ({"start": float("inf")}, "start is inf; give a whole number"),
        ({"eta": None}, "eta is None; give a number"),
        ({"sampler": "euler"}, "euler is unknown"),
        ({"colour": 1}, "colour is unknown"),
    ],
)
def test_wrong_parameters_of_the_packaged_model_are_named(
    enhancer: Enhancer, parameters: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidModelInput, match=says):
        answer(enhancer, example(enhancer.card), parameters)
