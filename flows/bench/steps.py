"""One step of a preset's networks in every way that the engine can make it, on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from de_model.bench.clock import one_thread
from de_model.bench.peak import matmul_peak
from de_model.bench.steps import PLAIN, StepTime, Way, step_times
from de_model.inference.acceleration import Acceleration
from de_model.precision import Precision
from de_model.presets import Preset
from flows.bench.machine import machine
from flows.progress import tell

#: What is asked of a CPU, times faster than as written, and of an H200, share of its peak in bfloat16.
_GOAL, _SHARE_GOAL = 1.5, 0.30
#: Side of an image, pixels: the default tile of whole scenes.
_SIDE = 128
#: Images in a batch: a CPU's thread has one, and a GPU as many as the engine gives it where memory is large.
_ON_CPU, _ON_GPU = 1, 64
_WAYS = {
    "as written: eager, channels outermost, attention by its formula, nothing in place": Way(PLAIN, written_out=True),
    "fused attention": Way(PLAIN),
    "channels last": Way(Acceleration()),
    "Winograd": Way(Acceleration(winograd=True)),
    "compiled": Way(Acceleration(compiled=True)),
    "compiled, Winograd": Way(Acceleration(compiled=True, winograd=True)),
}
#: On a GPU only: processors without a unit for it take many times longer.
_SHORT = {
    "bfloat16": Way(Acceleration(precision=Precision.BF16)),
    "compiled, bfloat16": Way(Acceleration(precision=Precision.BF16, compiled=True)),
}


@dataclass(frozen=True, slots=True)
class Steps:
    """What was measured on one device."""

    device: str
    preset: Preset
    images: int
    side: int
    #: Floating-point operations per second of the fastest matrix product: in float32, and in bfloat16 on a GPU.
    peak: float
    short_peak: float | None
    times: tuple[StepTime, ...]

    @property
    def fastest(self) -> StepTime:
        """The fastest in float32."""
        return min((step for step in self.times if step.name not in _SHORT), key=lambda step: step.seconds)

    def share(self, step: StepTime) -> float:
        """Return the operations as written over time over the peak of the step's number format, 0..1 and beyond."""
        peak = self.short_peak if step.name in _SHORT and self.short_peak else self.peak
        return step.flops / step.seconds / peak


def bench_steps(preset: Preset = Preset.PAPER, side: int = _SIDE) -> Steps:
    """Measure one step on the GPU where there is one, else on one thread of the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    images = _ON_GPU if on_gpu else _ON_CPU
    with one_thread():
        tell("matrix products")
        peak = matmul_peak(device, torch.float32)
        short = matmul_peak(device, torch.bfloat16) if on_gpu else None
        tell(f"one step of preset {preset}")
        times = step_times(preset, images, side, device, _WAYS | _SHORT if on_gpu else _WAYS)
    return Steps(torch.cuda.get_device_name() if on_gpu else "CPU", preset, images, side, peak, short, tuple(times))


def as_markdown(found: Steps, command: str) -> str:
    """Return the results page."""
    first = found.times[0]
    rows = [
        f"| {s.name} | {s.seconds:.3g} | {first.seconds / s.seconds:.2f} | {found.share(s):.0%} | {s.difference:.1e} |"
        for s in found.times
    ]
    pages = [
        "# One step of the networks, made in every way",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}, torch {torch.__version__}; {found.device}.",
        _about(found),
        "\n".join(["| | seconds | times faster | share of the peak | largest difference |", "|---" * 5 + "|", *rows]),
        _verdict(found),
    ]
    return "\n\n".join(pages) + "\n"


def _about(found: Steps) -> str:
    return (
        f"Preset `{found.preset}`, three bands, {found.images} x {found.side} px, random weights; noise predictor and "
        "weight allocation once each. The ways are measured in turns, six times; the shortest counts. On a CPU "
        "everything runs in one thread and seconds are its processor time. The share is that of the operations as "
        f"written in the rate of matrix products ({found.peak / 1e9:,.0f} Gflop/s in float32); an algorithm with fewer "
        "multiplications can go beyond what the machine multiplies. The difference is the largest of the clear image's "
        "estimate, which lies in -1..1."
    )


def _verdict(found: Steps) -> str:
    short = [step for step in found.times if step.name in _SHORT]
    return _verdict_on_gpu(found, short) if short else _verdict_on_cpu(found)


def _verdict_on_cpu(found: Steps) -> str:
    first, best = found.times[0], found.fastest
    gain, share = first.seconds / best.seconds, found.share(first)
    return (
        f"Goal in float32: {_GOAL} times faster than as written. {_reached(gain >= _GOAL)}: "
        f"{gain:.2f} times, {best.name}. As written the step reaches {share:.0%} of the rate of matrix products, so "
        f"with the same operations nothing could be more than {1 / share:.2f} times faster."
    )


def _verdict_on_gpu(found: Steps, short: Sequence[StepTime]) -> str:
    best = min(short, key=lambda step: step.seconds)
    share = found.share(best)
    return (
        f"Goal on an H200: {_SHARE_GOAL:.0%} of the rate of matrix products in bfloat16 "
        f"({(found.short_peak or 0) / 1e12:,.0f} Tflop/s). {_reached(share >= _SHARE_GOAL)}: {share:.0%}, {best.name}."
    )


def _reached(reached: bool) -> str:
    return "Reached" if reached else "**Missed**"


def as_record(found: Steps) -> dict[str, Any]:
    """Return everything as JSON values."""
    made = {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": str(torch.__version__)}
    figures = asdict(found) | {"preset": str(found.preset)}
    return made | figures | {"times_faster": found.times[0].seconds / found.fastest.seconds}
