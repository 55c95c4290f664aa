"""Compiled networks, and eager ones where this machine cannot compile."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor, nn

from de_model.unet import UNet

_log = logging.getLogger(__name__)

#: On a GPU calls are recorded as CUDA graphs: at these sizes launching kernels takes longer than running them.
_MODE_ON_GPU = "reduce-overhead"


class CompiledUNet(nn.Module):
    """A U-Net compiled for every shape that it is asked about; eager from the first failure to compile on.

    Args:
        net: the network.
        recorded: the walk is a CUDA graph itself, which cannot hold others.
    """

    def __init__(self, net: UNet, *, recorded: bool = False) -> None:
        super().__init__()
        self.net, self.config = net, net.config
        alone = next(net.parameters()).is_cuda and not recorded
        self._compiled = torch.compile(net, dynamic=False, mode=_MODE_ON_GPU if alone else None)
        self._eager = False

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Return what the U-Net returns."""
        if not self._eager:
            try:
                return self._compiled(x, t, context)
            except _failures() as error:
                self._eager = True
                _say(type(error).__name__)
        return self.net(x, t, context)


@lru_cache(maxsize=1)
def _failures() -> tuple[type[Exception], ...]:
    """Return what torch raises when it cannot compile; loaded late, as the compiler takes seconds to load."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, CppCompileError, InvalidCxxCompiler


@lru_cache(maxsize=1)
def _say(reason: str) -> None:
    """Tell once in a process; both networks fail for the same reason."""
    _log.warning(
        "The model cannot be compiled here (%s) and runs as it is; install a C++ compiler, or leave `compiled` out.",
        reason,
    )
