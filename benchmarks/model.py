"""What the networks cost: a sampling step and a training step of each preset, and one step made in every way.

On the CPU in float32 and, where there is one, on the GPU in bfloat16; beside the rate of matrix products.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measuring import MemoryWatch, flops_of, matmul_peak, one_thread, seconds_of
from benchmarks.report import Page, goal, parser, publish, table
from de_model.card import ModelCard
from de_model.data.pairs import Patches
from de_model.enhancer import Condition, Enhancer, autocast
from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.execution import accelerated
from de_model.presets import Preset
from de_model.training.objective import draw
from de_model.training.options import TrainingOptions
from de_model.training.sources import FixedPatches
from de_model.training.stage_run import StageRun
from de_model.training.stages import Stage, StageOptions, schedule_for
from flows.cli.console import progress_bar
from flows.progress import report_progress

_BANDS = ("red", "green", "blue")
#: Side of the images of a costed step, and of a step in every way (the default tile of whole scenes), pixels.
_SIDE, _WAY_SIDE = 256, 128
_PRESETS = (Preset.SMALL, Preset.PAPER)
#: The diffusion, and the weight network with all networks running; they bracket the cost of a step.
_STAGES = (Stage.FINE, Stage.ALLOCATION)
#: Images of a way's batch on a CPU, which one thread has, and on a GPU, as the engine gives it where memory is large.
_ON_CPU, _ON_GPU = 1, 64
#: Every way is measured so many times in turns; the shortest counts: machines that others share vary.
_ROUNDS = 6
#: What is asked of a CPU, times faster than as written, and of an H200, share of its peak in bfloat16.
_GOAL, _SHARE_GOAL = 1.5, 0.30

_EXPLANATION = """\
A model of three bands with random weights. Operations are counted by torch (a multiplication and an addition count two;
normalisations and activations count nothing); the share is theirs over time over the fastest matrix product of the same
run. Times are the shortest of three or more calls, of fewer where three take over 20 s. Memory is the allocator's on a
GPU, the whole process's on a CPU."""


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
    #: Most memory in use at once, bytes.
    peak_bytes: int

    def share(self, peak: float) -> float:
        """Return the share of a device's peak, 0..1."""
        return self.flops / self.seconds / peak


@dataclass(frozen=True, slots=True)
class Way:
    """One way of making a step."""

    how: Acceleration
    #: Attention as its formula has it, all scores in memory, instead of torch's fused kernel; no operation in place.
    written_out: bool = False


#: The networks as they are written: float32, eager, channels outermost.
PLAIN = Acceleration(channels_last=False)
WAYS = {
    "as written: eager, channels outermost, attention by its formula, nothing in place": Way(PLAIN, written_out=True),
    "fused attention": Way(PLAIN),
    "channels last": Way(Acceleration()),
    "compiled": Way(Acceleration(compiled=True)),
}
#: On a GPU only: processors without a unit for it take many times longer.
_SHORT = {
    "bfloat16": Way(Acceleration(precision=Precision.BF16)),
    "compiled, bfloat16": Way(Acceleration(precision=Precision.BF16, compiled=True)),
}


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step made in one way."""

    name: str
    seconds: float
    #: Largest difference of the clear image's estimate from the first way's, its range being -1..1.
    difference: float


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """What was measured on one device."""

    #: As torch calls it, for people.
    device: str
    precision: Precision
    threads: int
    #: Floating-point operations per second of the fastest matrix product in this precision.
    peak: float
    costs: tuple[Cost, ...]
    #: One step of preset `paper` in every way, and its operations as written.
    ways: tuple[StepTime, ...]
    way_flops: int


def measure(
    presets: Sequence[Preset] = _PRESETS, side: int = _SIDE, ways: Mapping[str, Way] = WAYS
) -> list[DeviceFigures]:
    """Measure the CPU in float32 and, where there is one, the GPU in bfloat16; ways with the last preset."""
    found = [_on(torch.device("cpu"), Precision.FP32, "CPU", presets, side, ways)]
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        found.append(_on(torch.device("cuda"), Precision.BF16, name, presets, side, {**ways, **_SHORT}))
    return found


def _on(
    device: torch.device,
    precision: Precision,
    name: str,
    presets: Sequence[Preset],
    side: int,
    ways: Mapping[str, Way],
) -> DeviceFigures:
    report_progress(f"{name}: matrix products")
    peak = matmul_peak(device, torch.bfloat16 if precision is Precision.BF16 else torch.float32)
    costs = []
    for preset in presets:
        report_progress(f"{name}: {preset}")
        costs.append(_step_cost(preset, side, device, precision))
        costs += [_training_cost(preset, stage, device, precision) for stage in _STAGES]
    with one_thread():
        report_progress(f"{name}: one step in every way")
        times, flops = step_times(presets[-1], min(side, _WAY_SIDE), device, ways)
    return DeviceFigures(name, precision, torch.get_num_threads(), peak, tuple(costs), tuple(times), flops)


def _model(preset: Preset, device: torch.device) -> Enhancer:
    """Return an untrained RGB model; what it costs does not depend on its weights."""
    torch.manual_seed(0)
    return Enhancer(ModelCard(preset, _BANDS, 10.0)).to(device).channels_last()


def _step_cost(preset: Preset, side: int, device: torch.device, precision: Precision) -> Cost:
    """Return the cost of noise predictor and the weight network, once each; the reference runs once per image."""
    enhancer = _model(preset, device).eval().requires_grad_(False)
    x_t, condition, t = _inputs(enhancer, 1, side, device)

    def step() -> object:
        with autocast(device, precision), torch.inference_mode():
            return enhancer.estimate(x_t, condition, t, enhancer.card.eta)

    return _cost(Cost(preset, "CNP + WA, one step", side, 1, 0.0, 0, 0), step, device)


def _training_cost(preset: Preset, stage: Stage, device: torch.device, precision: Precision) -> Cost:
    """Return the cost of one training step: forward, backward, optimiser and moving average."""
    enhancer = _model(preset, device)
    (options,) = schedule_for(preset, stages=(stage,))
    if device.type == "cpu":  # images per second hardly depend on the batch there
        options = replace(options, batch=1)
    run = StageRun(enhancer, options, TrainingOptions(precision=precision))
    batch = draw(_noise(options), options, 0, 0, enhancer.schedule.timesteps)
    cost = Cost(preset, f"training, stage {stage}", options.patch, options.batch, 0.0, 0, 0)
    return _cost(cost, lambda: run.advance(batch), device)


def _inputs(enhancer: Enhancer, images: int, side: int, device: torch.device) -> tuple[Tensor, Condition, Tensor]:
    random = torch.Generator().manual_seed(0)
    shape = (images, len(_BANDS), side, side)
    cloudy, x_t = (torch.rand(shape, generator=random).to(device) for _ in range(2))
    return x_t, enhancer.condition(cloudy, cloudy), torch.full((images,), 500, device=device)


def _noise(stage: StageOptions) -> FixedPatches:
    """Return patches of noise: arithmetic takes as long on any picture."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, stage.batch, len(_BANDS), stage.patch, stage.patch, generator=random)
    mask = torch.ones(stage.batch, 1, stage.patch, stage.patch)
    return FixedPatches(Patches(images[0], images[1], mask, mask))


def _cost(cost: Cost, work: Callable[[], object], device: torch.device) -> Cost:
    """Return the cost with its time, operations and peak memory."""
    gc.collect()
    if on_gpu := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with MemoryWatch(os.getpid(), 0.02) as watch:
        flops = flops_of(work)
        peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
        seconds = seconds_of(work, device)
    return replace(cost, seconds=seconds, flops=flops, peak_bytes=peak or watch.peak)


def step_times(preset: Preset, side: int, device: torch.device, ways: Mapping[str, Way]) -> tuple[list[StepTime], int]:
    """Return what one step costs in each way, compared with the first one, and its operations as written."""
    images = _ON_GPU if device.type == "cuda" else _ON_CPU
    enhancer = _model(preset, device).eval().requires_grad_(False)
    for parameter in enhancer.parameters():  # layers that start as nothing would hide what differs
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    x_t, condition, t = _inputs(enhancer, images, side, device)

    def step_of(way: Way) -> Callable[[], Tensor]:
        model = accelerated(enhancer, way.how)

        def step() -> Tensor:
            attention = sdpa_kernel(SDPBackend.MATH) if way.written_out else nullcontext()
            # Without inference mode the networks leave every map as it is (`unet.activate`); no gradient is wanted.
            with torch.inference_mode(not way.written_out), attention, autocast(device, way.how.precision):
                return model.estimate(x_t, condition, t, enhancer.card.eta).x0_hat.float()

        return step

    steps = {name: step_of(way) for name, way in ways.items()}
    results, first = {name: step() for name, step in steps.items()}, next(iter(steps))
    flops, seconds = flops_of(steps[first]), dict.fromkeys(steps, math.inf)
    for name, step in [*steps.items()] * _ROUNDS:
        seconds[name] = min(seconds[name], seconds_of(step, device))
    times = [StepTime(name, seconds[name], float((results[name] - results[first]).abs().max())) for name in steps]
    return times, flops


def page_of(measured: Sequence[DeviceFigures]) -> Page:
    """Return the results page, two tables per device."""
    parts = [_EXPLANATION]
    for each in measured:
        threads = f" with {each.threads} thread{'s' if each.threads > 1 else ''}" if each.device == "CPU" else ""
        parts += [
            f"## {each.device}, {each.precision}, matrix products at {each.peak / 1e9:,.0f} Gflop/s{threads}",
            _costs(each),
            (
                "One step in every way, largest preset, one thread of a CPU; the difference is the largest of the "
                "clear image's estimate, which lies in -1..1."
            ),
            _ways(each),
            _verdict(each),
        ]
    return Page("The model, measured", tuple(parts), [asdict(each) for each in measured])


def _costs(each: DeviceFigures) -> str:
    rows = [
        (
            c.preset,
            c.work,
            f"{c.batch} of {c.side} px",
            f"{c.seconds:.3g}",
            f"{c.flops / 1e9:,.0f}",
            f"{c.batch / c.seconds:.3g}",
            f"{c.share(each.peak):.0%}",
            f"{c.peak_bytes / 2**30:.2f}",
        )
        for c in each.costs
    ]
    return table(("preset", "work", "images", "seconds", "Gflop", "images/s", "share of peak", "memory, GiB"), rows)


def _ways(each: DeviceFigures) -> str:
    first = each.ways[0].seconds
    rows = [(w.name, f"{w.seconds:.3g}", f"{first / w.seconds:.2f}", f"{w.difference:.1e}") for w in each.ways]
    return table(("way", "seconds", "times faster", "largest difference"), rows)


def _verdict(each: DeviceFigures) -> str:
    best = min(each.ways, key=lambda way: way.seconds)
    if each.precision is Precision.BF16:
        share = each.way_flops / best.seconds / each.peak
        return (
            f"Fastest: {best.name}, {share:.0%} of the peak ({goal(f'goal {_SHARE_GOAL:.0%}', share >= _SHARE_GOAL)})."
        )
    gain = each.ways[0].seconds / best.seconds
    return f"Fastest: {best.name}, {gain:.2f} times ({goal(f'goal {_GOAL} times', gain >= _GOAL)})."


if __name__ == "__main__":
    chosen = parser("model", __doc__).parse_args()
    with progress_bar():
        found = measure()
    publish("model", page_of(found), chosen)
