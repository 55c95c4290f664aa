"""Ways to run the networks faster: what they leave alone, and what happens where they fail."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference import compiling, winograd
from de_model.inference.accelerated import accelerated
from de_model.inference.acceleration import Acceleration
from de_model.inference.engine import Restoration, restore
from de_model.inference.sampling import Sampling
from de_model.inference.whole import restore_image
from de_model.precision import Precision
from de_model.presets import Preset
from de_model.samplers.kinds import SamplerKind
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


@pytest.mark.parametrize(("every", "asked"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 1, 4]), (9, [0, 4])])
def test_weight_allocation_is_always_asked_first_and_last(every: int, asked: list[int]) -> None:
    how = Acceleration(allocation_every=every)
    assert [step for step in range(5) if how.asks_allocation(step, 5)] == asked


@pytest.mark.parametrize("kind", SamplerKind)
def test_kept_weights_save_calls_and_stay_within_their_limits(kind: SamplerKind) -> None:
    enhancer = tiny_model(spread=0.2)  # with less, W would rest at its floor from the first step on
    calls: list[object] = []
    handle = enhancer.allocation.register_forward_hook(lambda *_: calls.append(0))
    try:
        exact = run(enhancer, Acceleration(), sampler=kind)
        every, calls[:] = len(calls), []
        kept = run(enhancer, Acceleration(allocation_every=4), sampler=kind)
    finally:
        handle.remove()
    assert len(calls) < every
    assert not np.array_equal(kept.image, exact.image) or kind is SamplerKind.PYRAMID
    assert kept.image.min() >= 0 and kept.image.max() <= 1
    assert kept.reference_weight.min() >= SAMPLING.eta - 1e-6 and kept.reference_weight.max() <= 1 + 1e-6


def test_nothing_asked_for_leaves_the_model_itself(enhancer: Enhancer) -> None:
    assert accelerated(enhancer, Acceleration()) is enhancer
    assert accelerated(enhancer, Acceleration(precision=Precision.BF16, allocation_every=2)) is enhancer


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


def test_winograd_gives_the_same_convolution() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(48, 64, 3, padding=1).requires_grad_(False)
    assert winograd.suits(conv)
    for side in (16, 53):
        x = torch.randn(2, 48, side, side)
        assert torch.allclose(winograd.WinogradConv2d(conv)(x), conv(x), atol=1e-3)
    for other in (
        torch.nn.Conv2d(48, 48, 1),
        torch.nn.Conv2d(48, 48, 3, stride=2, padding=1),
        torch.nn.Conv2d(48, 48, 3),
        torch.nn.Conv2d(48, 48, 3, padding=1, groups=2),
        torch.nn.Conv2d(8, 48, 3, padding=1),
    ):
        assert not winograd.suits(other)


@pytest.mark.skipif(not winograd.available(), reason="torch has no NNPACK for this processor")
def test_the_compiler_is_told_the_truth_about_winograds_operator() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 48, 53, 50), torch.randn(64, 48, 3, 3), torch.randn(64)
    torch.library.opcheck(winograd.by_nnpack, (x, weight, bias), test_utils=("test_schema", "test_faketensor"))
    wide = torch.nn.Conv2d(128, 128, 3, padding=1)
    assert (
        winograd.WinogradConv2d(wide).least_pixels < winograd.WinogradConv2d(torch.nn.Conv2d(48, 128, 3)).least_pixels
    )


@pytest.mark.skipif(not winograd.available(), reason="torch has no NNPACK for this processor")
def test_winograd_takes_over_the_wide_convolutions_of_the_paper() -> None:
    card = ModelCard(Preset.PAPER, ("red", "green", "blue"), 10.0)
    enhancer = Enhancer(card).eval().requires_grad_(False)
    fast = accelerated(enhancer, Acceleration(winograd=True))
    replaced = [m for m in fast.predictor.modules() if isinstance(m, winograd.WinogradConv2d)]
    assert len(replaced) > 40
    assert not any(isinstance(m, winograd.WinogradConv2d) for m in enhancer.modules())


def test_without_a_compiler_the_model_runs_as_it_is(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The real compiler of torch, told of a C++ compiler that is not there."""
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch.compiler.reset()
    compiling._say.cache_clear()
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
    assert Acceleration(precision=Precision.BF16, winograd=True).recorded == {"precision": "bf16", "winograd": True}
    with pytest.raises(InvalidModelInput, match="at least 1"):
        run(tiny_model(), Acceleration(allocation_every=0))
