"""The engine on a real GPU: `make test-gpu`. Elsewhere its parts are tested on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.engine import Restoration, restore
from de_model.inference.execution import batch_size
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.sampling.kinds import SamplerKind

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SAMPLING = Sampling(seed=3, samples=2, steps=4, tile=64, overlap=8, batch=8, sampler=SamplerKind.DPMPP2M)


@pytest.fixture(scope="module")
def on_cpu() -> Enhancer:
    return checkpoint.load(checkpoint.shipped_weights())


@pytest.fixture(scope="module")
def on_gpu() -> Enhancer:
    return checkpoint.load(checkpoint.shipped_weights(), "cuda")


@pytest.fixture(autouse=True)
def _whole_numbers() -> Iterator[None]:
    """Float32 as it is: TF32 would hide what differs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def scene(side: int = 200) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.4, (4, side, side + 40)).astype(np.float32)


def run(enhancer: Enhancer, side: int = 200, **values: object) -> Restoration:
    image = scene(side)
    return restore(enhancer, image, np.ones(image.shape[1:], bool), replace(SAMPLING, **values))


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the engine said, without what torch says."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("de_model")]


def test_a_gpu_gives_what_the_cpu_gives(on_cpu: Enhancer, on_gpu: Enhancer) -> None:
    wanted = run(on_cpu)
    for size in (8, 5, None):
        found = run(on_gpu, batch=size)
        assert found.tiles == wanted.tiles
        np.testing.assert_allclose(found.image, wanted.image, atol=2e-3)
        np.testing.assert_allclose(found.spread, wanted.spread, atol=2e-3)


def test_nothing_needed_runs_nothing(on_gpu: Enhancer) -> None:
    image = scene()
    found = restore(on_gpu, image, np.zeros(image.shape[1:], bool), replace(SAMPLING, batch=None))
    assert found.tiles == 0 and np.isnan(found.image).all()


def test_compiled_networks_in_bfloat16_change_little(on_gpu: Enhancer, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    how = Acceleration(compiled=True, precision=Precision.BF16)
    with caplog.at_level(logging.WARNING):
        found = run(on_gpu, acceleration=how)
    assert not ours(caplog) and found.redone == 0
    assert np.abs(found.image - run(on_gpu).image).mean() < 5e-3


def test_noise_is_the_same_on_both(on_gpu: Enhancer) -> None:
    tiles, fields = (Tile(0, 5, 64), Tile(900, 64, 64)), tuple(NoiseField(7, sample) for sample in range(2))
    cpu, gpu = (TileNoise(fields, tiles, (-3, 2**31), 4, torch.device(device))(1, 2) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.cpu().numpy(), cpu.numpy(), rtol=1e-5, atol=1e-6)


def test_the_batch_suits_the_memory_and_is_halved_where_it_does_not(
    on_gpu: Enhancer, caplog: pytest.LogCaptureFixture
) -> None:
    assert batch_size(on_gpu, replace(SAMPLING, batch=None), lambda: run(on_gpu, side=64)) >= 1
    wanted = run(on_gpu, side=1000, batch=4)
    held = torch.cuda.memory_allocated()
    limit = (held + 2**29) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit)
    try:
        with caplog.at_level(logging.WARNING):
            found = run(on_gpu, side=1000, batch=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("do not fit into memory" in message for message in ours(caplog))
    np.testing.assert_allclose(found.image, wanted.image, atol=2e-3)
