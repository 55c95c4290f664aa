"""Walks that are launched whole: the same results, and steps one by one where nothing can be recorded.

A graph runs what was recorded on the memory that it was recorded with. Here the same is done by calling the walk again
on its buffers and leaving results where the first ones lay; tests/gpu records real graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from de_model.conditioning import Conditioning
from de_model.enhancer import Condition, Enhancer
from de_model.inference import walking
from de_model.inference.acceleration import Acceleration
from de_model.inference.conditioning import condition_of
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.inference.walking import walk, walk_whole
from de_model.samplers.kinds import SamplerKind
from de_model.samplers.walk import Sample
from tests.unit.de_model.tiny_model import tiny_model

SAMPLING = Sampling(steps=3, tile=32, overlap=8, sampler=SamplerKind.DPMPP2M)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    walking._KEPT.clear()
    walking._REFUSED.clear()
    walking._say.cache_clear()
    with torch.inference_mode():
        yield


def batch(enhancer: Enhancer, seed: int, tiles: int = 2) -> tuple[Condition, TileNoise]:
    cloudy = torch.rand(tiles, 2, 32, 32, generator=torch.Generator().manual_seed(seed))
    places = tuple(Tile(0, 32 * number, 32) for number in range(tiles))
    return condition_of(enhancer, cloudy, None), TileNoise((NoiseField(seed),), places, (0, 0), 2, CPU)


@dataclass
class Replaying:
    """Calls again what it was given; results stay in the memory of the first."""

    recorded: int = 0

    def __call__(self, run: Callable[[], Sample]) -> Callable[[], Sample]:
        self.recorded += 1
        kept = Sample(*(part.clone() for part in run()))

        def launch() -> Sample:
            for place, part in zip(kept, run(), strict=True):
                place.copy_(part)
            return kept

        return launch


def same(found: Sample, wanted: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("start", [None, 400])
@pytest.mark.parametrize("kind", SamplerKind)
def test_a_recorded_walk_gives_what_its_steps_give(enhancer: Enhancer, kind: SamplerKind, start: int | None) -> None:
    sampling, replaying = replace(SAMPLING, sampler=kind, start=start, steps=4), Replaying()
    first, second = batch(enhancer, 1), batch(enhancer, 2)
    found = [walk_whole(enhancer, sampling, *given, replaying) for given in (first, second, first)]
    assert replaying.recorded == 1
    wanted = [walk(enhancer, sampling, *given) for given in (first, second, first)]
    assert not same(wanted[0], wanted[1])
    assert all(same(a, b) for a, b in zip(found, wanted, strict=True)), "a later launch changed an earlier result"


def test_conditions_beside_the_images_are_copied_too() -> None:
    enhancer = tiny_model(gsd_conditioning=True, band_conditioning=True)
    assert enhancer.card.conditioning == Conditioning(gsd=True, bands=True)
    (condition, noise), replaying = batch(enhancer, 1), Replaying()
    assert condition.gsd is not None and condition.band_mask is not None
    mask = condition.band_mask.clone()
    mask[:, 0] = False
    for given in (condition, replace(condition, gsd=2 * condition.gsd), replace(condition, band_mask=mask)):
        assert same(walk_whole(enhancer, SAMPLING, given, noise, replaying), walk(enhancer, SAMPLING, given, noise))
    assert replaying.recorded == 1


def test_a_walk_is_recorded_again_only_where_it_differs(enhancer: Enhancer) -> None:
    replaying = Replaying()

    def recorded(sampling: Sampling, tiles: int = 2) -> int:
        walk_whole(enhancer, sampling, *batch(enhancer, 1, tiles), replaying)
        return replaying.recorded

    assert recorded(SAMPLING) == 1
    assert recorded(replace(SAMPLING, seed=9, samples=7, overlap=4, batch=3)) == 1
    assert recorded(SAMPLING, tiles=3) == 2
    assert recorded(replace(SAMPLING, eta=0.5), tiles=3) == 3
    assert recorded(replace(SAMPLING, eta=0.5), tiles=3) == 3
    assert len(walking._KEPT) == 1, "every recorded walk holds the memory of a batch"


def test_what_cannot_be_recorded_goes_step_by_step_and_says_so_once(
    enhancer: Enhancer, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[object] = []

    def refusing(run: Callable[[], Sample]) -> Callable[[], Sample]:
        tried.append(run)
        raise RuntimeError("operation not permitted when stream is capturing\nlong story")

    given = batch(enhancer, 1)
    with caplog.at_level(logging.WARNING):
        found = [walk_whole(enhancer, SAMPLING, *given, refusing) for _ in range(2)]
    assert all(same(one, walk(enhancer, SAMPLING, *given)) for one in found)
    assert len(tried) == 1
    (record,) = caplog.records
    assert "stream is capturing);" in record.getMessage()


def test_memory_that_runs_out_is_the_batchs_matter(enhancer: Enhancer) -> None:
    def greedy(run: Callable[[], Sample]) -> Callable[[], Sample]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        walk_whole(enhancer, SAMPLING, *batch(enhancer, 1), greedy)
    assert walk_whole(enhancer, SAMPLING, *batch(enhancer, 1), Replaying()).image.isfinite().all()


class _OneDevice(TorchDispatchMode):
    """Refuses operations between devices: copies, for one, cannot be recorded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in (*args, found) if isinstance(t, Tensor)}
        assert len(devices) <= 1, func
        return found


# Within the window of attention, and beyond it.
@pytest.mark.parametrize(("kind", "side"), [*((kind, 32) for kind in SamplerKind), (SamplerKind.DDIM, 96)])
def test_a_walk_neither_asks_the_gpu_nor_copies_to_it(kind: SamplerKind, side: int) -> None:
    """On a device without values torch refuses to read one, and to mix its tensors with the CPU's."""
    enhancer = tiny_model(gsd_conditioning=True, band_conditioning=True).to("meta")
    image = torch.empty(2, 2, side, side, device="meta")
    beside = torch.empty(2, device="meta"), torch.empty(2, 2, dtype=torch.bool, device="meta")
    sampling = replace(SAMPLING, sampler=kind, steps=4, start=300, acceleration=Acceleration(allocation_every=2))
    with _OneDevice():
        found = walk(
            enhancer,
            sampling,
            Condition(image, image, *beside),
            lambda _, scale: torch.empty(2, 2, side // scale, side // scale, device="meta"),
        )
    assert found.image.shape == image.shape and found.image.is_meta


def test_the_watch_over_copies_sees_one() -> None:
    with _OneDevice(), pytest.raises(AssertionError, match=r"aten\.to"):
        torch.ones(2).to("meta")
