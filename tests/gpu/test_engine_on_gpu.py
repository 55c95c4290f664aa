"""The engine on a real GPU: `make test-gpu`. Elsewhere its parts are tested on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore
from de_model.inference.sampling import SamplerKind, Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SAMPLING = Sampling(seed=3, samples=2, steps=4, tile=64, overlap=8, sampler=SamplerKind.DPMPP2M)


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


def test_a_gpu_gives_what_the_cpu_gives(on_cpu: Enhancer, on_gpu: Enhancer) -> None:
    wanted = run(on_cpu)
    found = run(on_gpu)
    assert found.tiles == wanted.tiles
    np.testing.assert_allclose(found.image, wanted.image, atol=2e-3)
    np.testing.assert_allclose(found.spread, wanted.spread, atol=2e-3)
