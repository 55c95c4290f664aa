"""Ways to run the networks faster: what they leave alone, and what happens where they fail."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference import execution
from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.engine import Restoration, restore
from de_model.inference.execution import accelerated
from de_model.inference.sampling import Sampling
from de_model.inference.whole import restore_image
from tests.unit.de_model.tiny_model import tiny_model

SAMPLING = Sampling(seed=3, samples=2, steps=4, tile=32, overlap=8)
BF16 = Acceleration(precision=Precision.BF16)
#: Little of it: processors without a unit for bfloat16 take long.
SHORT = replace(SAMPLING, samples=1, steps=1, acceleration=BF16)


def scene(height: int = 48, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.6, (2, height, width)).astype(np.float32)


def run(enhancer: Enhancer, how: Acceleration, image: np.ndarray | None = None, **values: object) -> Restoration:
    image = scene() if image is None else image
    sampling = replace(SAMPLING, acceleration=how, **values)
    return restore(enhancer, image, np.ones(image.shape[1:], bool), sampling)


def test_nothing_asked_for_leaves_the_model_itself(enhancer: Enhancer) -> None:
    assert accelerated(enhancer, Acceleration()) is enhancer
    assert accelerated(enhancer, BF16) is enhancer


def test_a_changed_model_is_made_once_and_leaves_the_first_alone() -> None:
    own = tiny_model().channels_last()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    plain = accelerated(own, Acceleration(channels_last=False))
    assert plain is not own and accelerated(own, Acceleration(channels_last=False)) is plain
    innermost = own.predictor.net.stem.weight
    assert innermost.is_contiguous(memory_format=torch.channels_last)
    assert plain.predictor.net.stem.weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert np.abs(run(own, Acceleration(channels_last=False)).image - run(own, Acceleration()).image).max() < 1e-4


def test_short_numbers_change_little_where_they_suffice(enhancer: Enhancer) -> None:
    exact, short = (run(enhancer, how, samples=1, steps=1) for how in (Acceleration(), BF16))
    assert short.redone == 0 and short.image.dtype == np.float32
    assert 0 < np.abs(short.image - exact.image).max() < 0.1


def overflowing() -> Enhancer:
    """A weight that float32 holds and bfloat16 rounds to infinity; it meets zeros only where red is 0.25."""
    enhancer = tiny_model()
    enhancer.predictor.net.stem.weight[0, 2] = 3.4e38
    return enhancer


def quarter() -> np.ndarray:
    """A scene whose red band is exactly the middle of the networks' range."""
    image = scene()
    image[0] = 0.25
    return image


def test_what_overflows_is_run_again_in_float32_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    enhancer = overflowing()
    exact = run(enhancer, Acceleration(), quarter(), samples=1, steps=1)
    with caplog.at_level(logging.WARNING):
        found = run(enhancer, BF16, quarter(), samples=1, steps=1)
    assert exact.redone == 0 and found.redone == found.tiles > 1
    assert found.image.tobytes() == exact.image.tobytes()
    assert [record.getMessage() for record in caplog.records if "float32" in record.getMessage()] == [
        "values are not finite in bf16; such tiles are run again in float32"
    ]
    needed = np.ones(quarter().shape[1:], bool)
    whole = restore_image(enhancer, quarter(), needed, SHORT, side=32)
    assert whole.redone == whole.tiles > 1


@pytest.mark.parametrize("how", [Acceleration(), BF16])
def test_what_is_not_finite_in_float32_either_is_refused(how: Acceleration) -> None:
    with pytest.raises(InvalidModelInput, match="float32 too"):
        run(overflowing(), how, samples=1, steps=1)


def test_without_a_compiler_the_model_runs_as_it_is(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The real compiler of torch, told of a C++ compiler that is not there."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch.compiler.reset()
    execution._warn_eager.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = run(enhancer, Acceleration(compiled=True), steps=1)
    assert found.image.tobytes() == run(enhancer, Acceleration(), steps=1).image.tobytes()
    assert sum("cannot be compiled" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.slow
def test_a_compiled_model_gives_nearly_the_same() -> None:
    pytest.importorskip("torch._inductor")
    own = tiny_model()
    exact, compiled = run(own, Acceleration()), run(own, Acceleration(compiled=True))
    assert np.abs(exact.image - compiled.image).max() < 1e-3


def test_options_are_recorded_where_they_differ() -> None:
    assert Acceleration().recorded == {}
    assert Acceleration(precision=Precision.BF16, compiled=True).recorded == {"precision": "bf16", "compiled": True}
