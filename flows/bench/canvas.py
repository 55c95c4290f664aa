"""A scene that is cloudy everywhere, restored by the model alone: time and memory by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.bench.clock import clock
from de_model.enhancer import Enhancer
from de_model.inference.sampling import Sampling
from de_model.inference.whole import RestoredImage, restore_image
from flows.bench.engine_case import engine_case
from flows.bench.machine import machine
from flows.progress import tell

FloatArray = NDArray[np.float32]

#: Sides of the scene, pixels: what a CPU does in a minute, and what is asked of a GPU, with seconds and GiB beyond the
#: scene itself.
SIDES_ON_CPU, SIDES_ON_GPU = (512,), (4096, 10980)
_SECONDS, _GIB = {4096: 3.3, 10980: 24.0}, 16.0


@dataclass(frozen=True, slots=True)
class CanvasTime:
    """One scene."""

    side: int
    #: From pixels in memory to pixels in memory.
    seconds: float
    tiles: int
    #: Of these, tiles run again in float32.
    redone: int
    #: Most memory that tensors held on the GPU, bytes; None on a CPU.
    gpu_bytes: int | None

    @property
    def goal(self) -> float | None:
        """Seconds that an H200 may take; None where nothing is asked."""
        return None if self.gpu_bytes is None else _SECONDS.get(self.side)


@dataclass(frozen=True, slots=True)
class Canvases:
    """Scenes of several sizes on one device."""

    device: str
    threads: int
    sampling: Sampling
    bands: int
    times: tuple[CanvasTime, ...]


def bench_canvas(single: Sampling, sides: Sequence[int] = ()) -> Canvases:
    """Restore scenes of several sizes, hidden everywhere, in one sample.

    Args:
        single: how the model restores whole clouds by default, without other dates.
        sides: of the scenes, pixels; those that suit the device when left out.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    enhancer, sampling = checkpoint.load(checkpoint.shipped_weights(), device.type), replace(single, samples=1)
    chosen = tuple(sides) or (SIDES_ON_GPU if on_gpu else SIDES_ON_CPU)
    tell("warming up")
    _restored(enhancer, sampling, 2 * sampling.tile)
    times = tuple(_time(enhancer, sampling, side, device) for side in chosen)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    return Canvases(name, torch.get_num_threads(), sampling, len(enhancer.card.bands), times)


def _time(enhancer: Enhancer, sampling: Sampling, side: int, device: torch.device) -> CanvasTime:
    tell(f"{side} x {side} px")
    if on_gpu := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    scene, needed = _scene(side), np.ones((side, side), bool)
    began = clock(device)
    made = restore_image(enhancer, scene, needed, sampling)
    seconds = clock(device) - began
    held = torch.cuda.max_memory_allocated(device) if on_gpu else None
    return CanvasTime(side, seconds, made.tiles, made.redone, held)


def _restored(enhancer: Enhancer, sampling: Sampling, side: int) -> RestoredImage:
    return restore_image(enhancer, _scene(side), np.ones((side, side), bool), sampling)


def _scene(side: int) -> FloatArray:
    """Return the sample's cloudy date, mirrored on and on, `(band, y, x)`."""
    case = engine_case()
    image = np.nan_to_num(case.stack.reflectance(case.target)[:, :side, :side])
    grown = [(0, 0), *((0, side - have) for have in image.shape[1:])]
    return np.pad(image, grown, mode="symmetric")


def as_record(found: Canvases) -> dict[str, Any]:
    """Return everything as JSON values."""
    made = {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": str(torch.__version__)}
    return made | asdict(found)


def as_markdown(found: Canvases, command: str) -> str:
    """Return the results page."""
    how, threads = found.sampling, f" with {found.threads} threads" if found.device == "CPU" else ""
    extras = ", ".join(f"{name} {value}" for name, value in how.acceleration.recorded.items()) or "none"
    rows = [
        f"| {t.side} x {t.side} x {found.bands} | {t.seconds:.1f} | {_goal(t)} | {t.side**2 / 1e6 / t.seconds:.2f} "
        f"| {t.tiles} | {t.redone} | {'-' if t.gpu_bytes is None else f'{t.gpu_bytes / 2**30:.1f}'} |"
        for t in found.times
    ]
    made = f"{datetime.now(UTC):%Y-%m-%d}; {machine()}, torch {torch.__version__}; {found.device}{threads}"
    about = (
        f"The shipped small model, one sample, {how.steps} evaluations of {how.sampler}, tiles of {how.tile} px that "
        f"share {how.overlap}; options of speed: {extras}. From pixels in memory to pixels in memory, first use and "
        f"compilation left out. On an H200 {_goals()} are asked, with at most {_GIB:g} GiB of its memory beyond the "
        "scene."
    )
    head = "| pixels and bands | seconds | goal | megapixels/s | tiles | redone in float32 | GPU memory, GiB |"
    table = "\n".join([head, "|---" * 7 + "|", *rows])
    pages = ["# A scene that is cloudy everywhere, measured", f"Command: `{command}`; {made}.", about, table]
    return "\n\n".join(pages) + "\n"


def _goal(time: CanvasTime) -> str:
    if time.goal is None:
        return "-"
    return f"{time.goal:g}, {'reached' if time.seconds <= time.goal else '**missed**'}"


def _goals() -> str:
    return " and ".join(f"{seconds:g} s for {side} px" for side, seconds in _SECONDS.items())
