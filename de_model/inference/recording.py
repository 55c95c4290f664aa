"""Walks of one shape, recorded once and then launched whole.

A walk of a small image is hundreds of kernels a step, each of which the CPU takes longer to launch than the GPU to
run. A CUDA graph launches all of them at once. It reads and writes the same memory whenever it is launched, so what
changes from batch to batch, conditions and noise, is copied into buffers first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from de_model.enhancer import Condition
from de_model.samplers.walk import NoiseSource, Sample

#: Walks all the way, given conditions and noise.
Walker = Callable[[Condition, NoiseSource], Sample]
#: Makes a launcher of a function without arguments whose tensors all stay in place.
Recorder = Callable[[Callable[[], Sample]], Callable[[], Sample]]

#: Libraries choose their kernels and their work space in the first runs, which cannot be recorded.
_WARM_UPS = 3


def on_gpu(run: Callable[[], Sample]) -> Callable[[], Sample]:
    """Record what `run` launches as a CUDA graph and return what launches it again; results stay where they are.

    Raises:
        RuntimeError: something that `run` does cannot be recorded, or memory is too small.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may copy and read meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = run()

    def launch() -> Sample:
        graph.replay()
        return found

    return launch


class RecordedWalk:
    """A walk for conditions and noise of one shape."""

    def __init__(self, walk: Walker, condition: Condition, noise: NoiseSource, record: Recorder = on_gpu) -> None:
        self._noise = _NoiseBuffers(noise)
        self._given = {name: part.clone() for name, part in _parts(condition).items()}
        self._launch = record(partial(walk, Condition(**self._given), self._noise))

    def suits(self, condition: Condition) -> bool:
        """Tell whether conditions have the shapes that were recorded."""
        return {n: p.shape for n, p in _parts(condition).items()} == {n: p.shape for n, p in self._given.items()}

    def __call__(self, condition: Condition, noise: NoiseSource) -> Sample:
        """Return what the walk gives; later launches leave it alone."""
        for name, part in _parts(condition).items():
            self._given[name].copy_(part)
        self._noise.draw(noise)
        return Sample(*(part.clone() for part in self._launch()))


class _NoiseBuffers:
    """Noise that lies in the same memory whatever source it is drawn from; the first asking makes a buffer."""

    def __init__(self, source: NoiseSource) -> None:
        self._source = source
        self._buffers: dict[tuple[int, int], Tensor] = {}

    def __call__(self, stream: int, scale: int) -> Tensor:
        if (stream, scale) not in self._buffers:
            self._buffers[stream, scale] = self._source(stream, scale)
        return self._buffers[stream, scale]

    def draw(self, source: NoiseSource) -> None:
        """Fill every buffer that was asked for."""
        for address, buffer in self._buffers.items():
            buffer.copy_(source(*address))


def _parts(condition: Condition) -> dict[str, Tensor]:
    """Return the tensors of a condition by name, those that are not there left out."""
    parts = {
        "cloudy": condition.cloudy,
        "reference": condition.reference,
        "gsd": condition.gsd,
        "band_mask": condition.band_mask,
    }
    return {name: part for name, part in parts.items() if part is not None}
