"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Keeps a smoothed copy of a module's parameters.

    The rate rises from 0 to `rate` as `(1 + n) / (10 + n)`, so that short trainings are not held back by
    their random start; after some thousand steps it is the paper's constant rate.
    """

    def __init__(self, module: nn.Module, rate: float = 0.9999) -> None:
        self.rate, self.updates = rate, 0
        self.shadow: dict[str, Tensor] = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the copy towards the module's present weights."""
        rate = min(self.rate, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in module.named_parameters():
            self.shadow[name].lerp_(parameter.detach(), 1 - rate)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the smoothed weights into the module."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.shadow[name])

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Use the smoothed weights while the context is open, then put the raw ones back bit by bit."""
        raw = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(raw[name])
