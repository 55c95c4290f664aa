"""Moving tiles onto a device and layers back while it computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]


class Arriving:
    """Layers on their way to the CPU."""

    def __init__(self, host: Tensor, landed: torch.cuda.Event | None = None) -> None:
        self._host, self._landed = host, landed

    def result(self) -> FloatArray:
        """Return the layers once they are here; on a CPU they always are."""
        if self._landed is not None:
            self._landed.synchronize()
        return self._host.numpy()


class Transfers:
    """Copies between pinned memory and a GPU in streams of their own, one each way; on a CPU nothing moves.

    A copy waits for no kernel but those that made what it copies, and no kernel waits for a copy but those that read
    it. Pinned blocks come from torch's cache, which gives none out again before the copies of it are done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if on_gpu else None
        self._down = torch.cuda.Stream(device) if on_gpu else None

    def upload(self, windows: Sequence[FloatArray]) -> Tensor:
        """Return windows of one shape, stacked along a new first axis, on the device."""
        shape = (len(windows), *windows[0].shape)
        host = torch.empty(shape, dtype=torch.float32, pin_memory=self._up is not None)
        np.stack(windows, out=host.numpy())
        if self._up is None:
            return host.to(self._device)
        with torch.cuda.stream(self._up):
            there = host.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._up)
        # Its memory belongs to the stream of the copy, which must not have it back before the kernels are done.
        there.record_stream(computing)
        return there

    def download(self, layers: Tensor) -> Arriving:
        """Send layers to the CPU; the device goes on meanwhile."""
        if self._down is None:
            return Arriving(layers.cpu())
        host = torch.empty(layers.shape, dtype=layers.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            host.copy_(layers, non_blocking=True)
            layers.record_stream(self._down)
            landed = torch.cuda.Event()
            landed.record(self._down)
        return Arriving(host, landed)
