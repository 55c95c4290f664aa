"""One sampling step as each way of running the networks makes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from de_model.autocast import autocast
from de_model.bench.cost import flops_of, model_of
from de_model.bench.peak import seconds_of
from de_model.enhancer import Condition, Enhancer
from de_model.inference.accelerated import accelerated
from de_model.inference.acceleration import Acceleration
from de_model.presets import Preset

#: The networks as they are written: float32, eager, channels outermost.
PLAIN = Acceleration(channels_last=False)
#: Every way is measured so many times, three calls or more each; the shortest counts: machines that others share vary.
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Way:
    """One way of making a step."""

    how: Acceleration
    #: Attention as its formula has it, all scores in memory, instead of torch's fused kernel; no operation in place.
    written_out: bool = False


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step made in one way."""

    name: str
    seconds: float
    #: Floating-point operations of the networks as they are written; a faster algorithm may make fewer.
    flops: int
    #: Largest difference of the clear image's estimate from the first way's, its range being -1..1.
    difference: float


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a model, ready to be made again and again."""

    model: Enhancer
    way: Way
    x_t: Tensor
    condition: Condition
    t: Tensor

    def __call__(self) -> Tensor:
        written_out = self.way.written_out
        # Without inference mode the networks leave every map as it is (`unet.activate`); no gradient is wanted.
        with (
            torch.inference_mode(not written_out),
            self._attention(),
            autocast(self.x_t.device, self.way.how.precision),
        ):
            return self.model.estimate(self.x_t, self.condition, self.t, self.model.card.eta).x0_hat.float()

    def _attention(self) -> AbstractContextManager[None]:
        return sdpa_kernel(SDPBackend.MATH) if self.way.written_out else nullcontext()


def step_times(preset: Preset, images: int, side: int, device: torch.device, ways: Mapping[str, Way]) -> list[StepTime]:
    """Return what one step (noise predictor and weight allocation) costs in each way; the first is compared with.

    Args:
        preset: size of the model of three bands; its weights are random, none of them zero.
        images: in a batch.
        side: of an image, pixels.
        device: where it runs.
        ways: by name.
    """
    enhancer = _model(preset, device)
    random = torch.Generator().manual_seed(0)
    shape = (images, len(enhancer.card.bands), side, side)
    cloudy, x_t = (torch.rand(shape, generator=random).to(device) for _ in range(2))
    t, condition = torch.full((images,), 500, device=device), enhancer.condition(cloudy, cloudy)
    steps = {name: _Step(accelerated(enhancer, way.how), way, x_t, condition, t) for name, way in ways.items()}
    results = {name: step() for name, step in steps.items()}
    first = next(iter(steps))
    flops = flops_of(steps[first])
    seconds = dict.fromkeys(steps, math.inf)
    # In turns, as a machine is not equally fast all the time.
    for name, step in [*steps.items()] * _ROUNDS:
        seconds[name] = min(seconds[name], seconds_of(step, device))
    return [StepTime(name, seconds[name], flops, float((results[name] - results[first]).abs().max())) for name in steps]


def _model(preset: Preset, device: torch.device) -> Enhancer:
    """Return a model in which every layer does something: those that start as nothing would hide what differs."""
    enhancer = model_of(preset, device).eval().requires_grad_(False)
    for parameter in enhancer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    return enhancer
