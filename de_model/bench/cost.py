"""What one evaluation of DE and one step of its training cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Size
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from de_model.autocast import autocast
from de_model.bench.peak import seconds_of
from de_model.card import ModelCard
from de_model.data.pairs import Patches
from de_model.enhancer import Enhancer
from de_model.precision import Precision
from de_model.presets import Preset
from de_model.training.objective import draw
from de_model.training.options import TrainingOptions
from de_model.training.parallel import World
from de_model.training.sources import FixedPatches
from de_model.training.stage_run import StageRun
from de_model.training.stages import Stage, StageOptions, schedule_for

_BANDS = ("red", "green", "blue")
#: Patches of a training step on a CPU; images per second hardly depend on it there.
_CPU_BATCH = 1


def _attention(query: Size, key: Size, value: Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Size, query: Size, key: Size, value: Size, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


#: The counter knows attention on GPUs only.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs on a device."""

    preset: Preset
    #: What was run.
    work: str
    #: Side of the images, pixels, and how many at once.
    side: int
    batch: int
    seconds: float
    #: Floating-point operations; a multiplication and an addition count two.
    flops: int
    #: Most GPU memory in use at once, bytes; 0 on a CPU, where only the whole process can be watched.
    peak_bytes: int

    @property
    def images_per_s(self) -> float:
        """Images per second."""
        return self.batch / self.seconds

    def share(self, peak: float) -> float:
        """Return the share of a device's peak, 0..1."""
        return self.flops / self.seconds / peak


def model_of(preset: Preset, device: torch.device) -> Enhancer:
    """Return an untrained RGB model; what it costs does not depend on its weights."""
    torch.manual_seed(0)
    return Enhancer(ModelCard(preset, _BANDS, 10.0)).to(device).channels_last()


def step_cost(preset: Preset, side: int, device: torch.device, precision: Precision) -> Cost:
    """Return the cost of one sampling step at `side` px: noise predictor and weight allocation, once each.

    The reference is not in it: it runs once per image.
    """
    enhancer = model_of(preset, device).eval().requires_grad_(False)
    cloudy, x_t = (torch.rand(1, len(_BANDS), side, side, device=device) for _ in range(2))
    condition = enhancer.condition(cloudy, cloudy)
    t = torch.full((1,), 500, device=device)

    def step() -> object:
        with autocast(device, precision), torch.inference_mode():
            return enhancer.estimate(x_t, condition, t, enhancer.card.eta)

    flops, peak = _measured(step, device)
    return Cost(preset, "CNP + WA, one step", side, 1, seconds_of(step, device), flops, peak)


def training_cost(preset: Preset, stage: Stage, device: torch.device, precision: Precision) -> Cost:
    """Return the cost of one training step of a stage: forward, backward, optimiser and moving average."""
    enhancer = model_of(preset, device)
    (options,) = schedule_for(preset, stages=(stage,))
    if device.type == "cpu":
        options = replace(options, batch=_CPU_BATCH)
    run = StageRun(enhancer, options, TrainingOptions(precision=precision), World(device=device))
    batch = draw(_noise(options), options, 0, 0, enhancer.schedule.timesteps)

    def step() -> object:
        return run.advance(batch)

    flops, peak = _measured(step, device)
    return Cost(preset, f"training, stage {stage}", options.patch, options.batch, seconds_of(step, device), flops, peak)


def _noise(stage: StageOptions) -> FixedPatches:
    """Return patches of noise: arithmetic takes as long on any picture."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, stage.batch, len(_BANDS), stage.patch, stage.patch, generator=random)
    mask = torch.ones(stage.batch, 1, stage.patch, stage.patch)
    return FixedPatches(Patches(images[0], images[1], mask, mask))


def flops_of(work: Callable[[], object]) -> int:
    """Run once and return floating-point operations; a multiplication and an addition count two."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


def _measured(work: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """Run once and return floating-point operations and peak memory, bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    flops = flops_of(work)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return flops, peak
