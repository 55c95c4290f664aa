"""The engine with every sampler: what it gives, at the edges of its input too, and that no bit depends on the cut."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from threading import Event, Thread

import numpy as np
import pytest
import torch

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference import tiles
from de_model.inference.engine import restore, restore_image
from de_model.inference.running import in_threads
from de_model.inference.sampling import SamplerKind, Sampling
from de_model.inference.tiles import Part, Tile
from de_model.packaging import NEEDED, SCENE, answer, default_parameters, example

KINDS = pytest.mark.parametrize("kind", SamplerKind)
SAMPLING = Sampling(seed=3, samples=2, steps=2, tile=32, overlap=8)


def sampling(kind: SamplerKind = SamplerKind.DDIM, **values: object) -> Sampling:
    return replace(SAMPLING, **{"samples": 1, "steps": 3, "sampler": kind, **values})


def scene(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.6, (2, height, width)).astype(np.float32)


def full(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), bool)


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
def test_seed_and_samples_reach_every_sampler(enhancer: Enhancer, kind: SamplerKind) -> None:
    options = sampling(kind, samples=3, eta=0.0)
    first, again, other = (
        restore(enhancer, scene(32, 32), full(32, 32), each) for each in (options, options, replace(options, seed=4))
    )
    assert first.spread.max() > 0 and first.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_samples_are_those_of_their_own_noise(enhancer: Enhancer) -> None:
    """Twice the mean of two, less the first, is the second; their distance is the spread."""
    one, two = (restore(enhancer, scene(32, 32), full(32, 32), sampling(samples=n, eta=0.0)) for n in (1, 2))
    second = 2 * two.image - one.image
    assert np.allclose(np.abs(one.image - second) / np.sqrt(2), two.spread, atol=1e-5)


def test_samplers_and_starts_differ(enhancer: Enhancer) -> None:
    options = [sampling(kind) for kind in SamplerKind] + [sampling(start=400), sampling(start=100)]
    images = {restore(enhancer, scene(32, 32), full(32, 32), o).image.tobytes() for o in options}
    assert len(images) == len(options)


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


def test_a_start_begins_at_the_reference(enhancer: Enhancer) -> None:
    """At t = 0 the state is the reference with noise of 0.01, and x0_hat can only be near it."""
    options, given = sampling(eta=0.0, steps=1, start=0), np.full((2, 32, 32), 0.25, np.float32)
    own, other = (restore(enhancer, scene(32, 32), full(32, 32), options, reference=each) for each in (None, given))
    assert np.abs(own.image - own.reference).mean() < 0.03
    assert np.abs(other.image - 0.25).mean() < 0.03


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


@KINDS
def test_a_scene_of_one_pixel_without_data_is_restored_by_every_sampler(enhancer: Enhancer, kind: SamplerKind) -> None:
    nothing = np.full((2, 1, 1), np.nan, np.float32)
    found = restore_image(enhancer, nothing, full(1, 1), replace(SAMPLING, sampler=kind))
    assert found.image.shape == (2, 1, 1) and np.isfinite(found.image).all() and found.tiles == 1
    assert found.image.min() >= 0 and found.image.max() <= 1


@pytest.mark.parametrize("shape", [(5, 200), (31, 33)])
def test_scenes_smaller_than_a_tile_and_tiles_of_the_stride_work(enhancer: Enhancer, shape: tuple[int, int]) -> None:
    for options in (SAMPLING, replace(SAMPLING, tile=enhancer.card.stride, overlap=0)):
        found = restore(enhancer, scene(*shape), full(*shape), options)
        assert found.image.shape == (2, *shape) and np.isfinite(found.image).all()


def test_nothing_needed_and_no_pixels_run_nothing(enhancer: Enhancer) -> None:
    found = restore(enhancer, scene(40, 40), ~full(40, 40), SAMPLING)
    assert found.tiles == 0 and np.isnan(found.image).all()
    empty = restore_image(enhancer, np.zeros((2, 0, 5), np.float32), full(0, 5), SAMPLING)
    assert empty.image.shape == (2, 0, 5) and empty.tiles == 0 and np.isnan(empty.mean_spread)


def test_a_pixel_does_not_depend_on_what_else_is_needed(enhancer: Enhancer) -> None:
    image, few = scene(72, 80), np.zeros((72, 80), bool)
    few[30:34, 40:44] = True
    part, whole = (restore(enhancer, image, needed, sampling()) for needed in (few, full(72, 80)))
    assert np.array_equal(part.image[:, few], whole.image[:, few])
    assert part.tiles < whole.tiles


def test_no_bit_depends_on_the_order_of_the_tiles(enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two neighbours meet in a sum of two, which has one order; where four meet, the order is that of the grid."""
    image, needed = scene(32, 88), full(32, 88)
    forwards = restore(enhancer, image, needed, SAMPLING)
    plan = tiles.plan_tiles
    monkeypatch.setattr(tiles, "plan_tiles", lambda *given: plan(*given)[::-1])
    backwards = restore(enhancer, image, needed, SAMPLING)
    assert forwards.tiles > 3 and forwards.image.tobytes() == backwards.image.tobytes()


def test_no_bit_depends_on_the_threads(enhancer: Enhancer) -> None:
    image, needed = scene(72, 80), full(72, 80)
    expected = restore(enhancer, image, needed, SAMPLING).image.tobytes()
    broken, before = deepcopy(enhancer), torch.get_num_threads()
    broken.predictor.net.stem.weight[0] = torch.nan
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with pytest.raises(InvalidModelInput, match="not finite"):
                restore(broken, image, needed, SAMPLING)
            assert restore(enhancer, image, needed, SAMPLING).image.tobytes() == expected
            assert torch.get_num_threads() == threads, "what is set for tiles is not left behind"
    finally:
        torch.set_num_threads(before)


def test_scenes_restored_at_the_same_time_do_not_change_each_others_threads() -> None:
    """Units of a run share the process, and torch its number of threads; sums divided among threads differ in bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    tile, begin, fresh = Tile(0, 0, 8), Event(), list[int]()

    def beside() -> None:
        torch.get_num_threads()
        begin.wait(10)
        list(in_threads([tile] * 2, lambda _: None))
        newcomer = Thread(target=lambda: fresh.append(torch.get_num_threads()))
        newcomer.start()
        newcomer.join()

    other = Thread(target=beside)
    other.start()

    def threads_of_a_tile(_: list[Tile]) -> int:
        begin.set()
        other.join()
        return torch.get_num_threads()

    try:
        assert [found for _, found in in_threads([tile] * 3, threads_of_a_tile)] == [1, 1, 1]
        assert fresh == [2], "the next scene has all threads"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", [SamplerKind.DDIM, SamplerKind.PYRAMID])
@pytest.mark.parametrize(("shape", "side"), [((90, 101), 40), ((20, 90), 33)])
def test_no_bit_depends_on_the_blocks(enhancer: Enhancer, kind: SamplerKind, shape: tuple[int, int], side: int) -> None:
    image, options = scene(*shape), replace(SAMPLING, sampler=kind)
    image[:, : shape[0] // 5, : shape[1] // 3] = np.nan
    needed = np.zeros(shape, bool)
    needed[5:17, 30:70] = needed[shape[0] - 3 :, shape[1] - 4 :] = True
    whole, blocks = (
        restore(enhancer, image, needed, options),
        restore_image(enhancer, image, needed, options, side=side),
    )
    assert blocks.image[:, needed].tobytes() == whole.image[:, needed].tobytes()
    assert np.isnan(blocks.image[:, ~needed]).all()
    assert blocks.mean_reference_weight == pytest.approx(whole.reference_weight[needed].mean(), rel=1e-5)
    assert blocks.mean_spread == pytest.approx(whole.spread[:, needed].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (sampling("euler"), "euler is unknown; choose one of ddim, dpmpp2m"),
        (sampling(steps=0), "1 to 1000"),
        (sampling(start=1000), "0 to 999"),
        (sampling(start=1, steps=3), "1 to 2"),
        (sampling(SamplerKind.PYRAMID, tile=36), "multiple of 32 px for sampler pyramid"),
        (sampling(SamplerKind.PYRAMID, overlap=6), "Overlap of 6 px; choose a multiple of 4 px"),
        (sampling(tile=30), "choose a multiple of 8 px"),
        (sampling(samples=0), "at least 1"),
        (sampling(eta=-0.1), "0..1"),
    ],
)
def test_options_that_do_not_fit_are_refused(enhancer: Enhancer, options: Sampling, says: str) -> None:
    with pytest.raises(InvalidModelInput, match=says):
        restore(enhancer, scene(40, 40), full(40, 40), options)


def test_arrays_that_do_not_fit_are_refused(enhancer: Enhancer) -> None:
    image, needed = scene(40, 40), full(40, 40)
    with pytest.raises(InvalidModelInput, match="Reference of shape"):
        restore(enhancer, image, needed, SAMPLING, reference=scene(40, 41))
    with pytest.raises(InvalidModelInput, match=r"bands \('red', 'nir'\)"):
        restore(enhancer, np.zeros((3, 40, 40), np.float32), needed, SAMPLING)
    for place, says in (
        (Part((100, 100), (10, 10), (0.1, 0.2)), "surroundings"),
        (Part((45, 45), (10, 10), ()), "not lie"),
    ):
        with pytest.raises(InvalidModelInput, match=says):
            restore(enhancer, image, needed, SAMPLING, part=place)


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
