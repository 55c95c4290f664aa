"""Measure the model on every device at hand: one step, one training step, and the device's peak in the same run."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from de_model.bench.cost import Cost, step_cost, training_cost
from de_model.bench.peak import matmul_peak
from de_model.precision import Precision
from de_model.presets import Preset
from de_model.training.stages import Stage
from flows.bench.machine import machine
from flows.bench.memory import MemoryWatch
from flows.progress import tell

#: Side of the images of the single step, pixels.
_SIDE = 256
_PRESETS = (Preset.SMALL, Preset.PAPER)
#: The diffusion, and weight allocation with all networks running; they bracket the cost of a step.
_STAGES = (Stage.FINE, Stage.ALLOCATION)
_WATCH_EVERY_S = 0.02

_EXPLANATION = """\
A model of three bands with random weights. Operations are counted by torch (a multiplication and an addition count two;
normalisations and activations count nothing); the share is theirs over time over the fastest matrix product of the same
run. Times are the shortest of three or more calls, of fewer where three take over 20 s. Memory is the allocator's on a
GPU, the whole process's on a CPU."""


@dataclass(frozen=True, slots=True)
class DeviceCosts:
    """What was measured on one device."""

    #: As torch calls it, for people.
    device: str
    precision: Precision
    threads: int
    #: Floating-point operations per second of the fastest matrix product.
    peak: float
    costs: tuple[Cost, ...]


def bench_model(presets: Sequence[Preset] = _PRESETS, side: int = _SIDE) -> list[DeviceCosts]:
    """Measure the CPU in float32 and, where there is one, the GPU in bfloat16."""
    measured = [_on(torch.device("cpu"), Precision.FP32, "CPU", presets, side)]
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        measured.append(_on(torch.device("cuda"), Precision.BF16, name, presets, side))
    return measured


def _on(device: torch.device, precision: Precision, name: str, presets: Sequence[Preset], side: int) -> DeviceCosts:
    tell(f"{name}: matrix products")
    peak = matmul_peak(device, torch.bfloat16 if precision is Precision.BF16 else torch.float32)
    works = list(_works(device, precision, presets, side))
    costs = []
    for number, (title, work) in enumerate(works):
        tell(f"{name}: {title}", number, len(works))
        costs.append(_watched(work))
    return DeviceCosts(name, precision, torch.get_num_threads(), peak, tuple(costs))


def _works(
    device: torch.device, precision: Precision, presets: Sequence[Preset], side: int
) -> Iterator[tuple[str, Callable[[], Cost]]]:
    for preset in presets:
        yield f"{preset}, one step", partial(step_cost, preset, side, device, precision)
        for stage in _STAGES:
            yield f"{preset}, training {stage}", partial(training_cost, preset, stage, device, precision)


def _watched(work: Callable[[], Cost]) -> Cost:
    """Do the work; on a CPU its memory is that of this whole process."""
    gc.collect()
    with MemoryWatch(os.getpid(), _WATCH_EVERY_S) as watch:
        cost = work()
    return cost if cost.peak_bytes else replace(cost, peak_bytes=watch.peak)


def as_record(measured: Sequence[DeviceCosts]) -> dict[str, Any]:
    """Return everything as JSON values."""
    devices = [
        {
            "device": each.device,
            "precision": str(each.precision),
            "threads": each.threads,
            "peak_flops_per_s": each.peak,
            "costs": [_cost_record(cost, each.peak) for cost in each.costs],
        }
        for each in measured
    ]
    return {
        "machine": machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "devices": devices,
    }


def _cost_record(cost: Cost, peak: float) -> dict[str, Any]:
    return asdict(cost) | {"images_per_s": cost.images_per_s, "share_of_peak": cost.share(peak)}


def as_markdown(measured: Sequence[DeviceCosts]) -> str:
    """Return a results page: how it was measured, the device's peak, and a row per work."""
    made = f"{datetime.now(UTC):%Y-%m-%d}; {machine()}, torch {torch.__version__}"
    pages = ["# The model, measured", f"Command: `unveil bench model --out docs/results`; {made}.", _EXPLANATION]
    for each in measured:
        pages += [f"## {each.device}, {each.precision}, {_peak_words(each)}", _table(each)]
    return "\n\n".join(pages) + "\n"


def _peak_words(each: DeviceCosts) -> str:
    threads = f" with {each.threads} thread{'s' if each.threads > 1 else ''}" if each.device == "CPU" else ""
    return f"matrix products at {each.peak / 1e9:,.0f} Gflop/s{threads}"


def _table(each: DeviceCosts) -> str:
    head = (
        "| preset | work | images | seconds | Gflop | images/s | share of peak | memory, GiB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {c.preset} | {c.work} | {c.batch} of {c.side} px | {c.seconds:.3g} | {c.flops / 1e9:,.0f} "
        f"| {c.images_per_s:.3g} | {c.share(each.peak):.0%} | {c.peak_bytes / 2**30:.2f} |"
        for c in each.costs
    ]
    return "\n".join([head, *rows])
