"""Models with parts taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from de_model.enhancer import Enhancer
from de_model.networks import WeightAllocation

#: Raw output that either way of limiting turns into eta.
_LOWEST = -1e4


class FloorAllocation(WeightAllocation):
    """Always gives the least W that eta allows, so that eta is W."""

    def __init__(self, origin: WeightAllocation) -> None:
        nn.Module.__init__(self)
        # The model asks its networks for their stride.
        self.net, self.context = origin.net, origin.context

    def forward(self, x_t: Tensor, *_: object) -> Tensor:
        """Return W before it is limited, of the shape of `x_t`."""
        return torch.full_like(x_t, _LOWEST)


def without_allocation(enhancer: Enhancer) -> Enhancer:
    """Take weight allocation out of a model, in place: W is eta everywhere; with eta = 0 the diffusion is alone."""
    enhancer.allocation = FloorAllocation(enhancer.allocation)
    return enhancer
