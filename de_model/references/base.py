"""What every reference promises, whichever network gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from de_model.errors import InvalidModelInput


class Reference(nn.Module, ABC):
    """Cloudy image in, clear image out, both `(batch, band, y, x)` in [0, 1] (DE section 1.3).

    A reference is trained on its own, before the diffusion, and frozen ever after.
    """

    #: Height and width must be divisible by this.
    stride: ClassVar[int]
    #: Smallest height and width the network can work on.
    smallest: ClassVar[int] = 1

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    @abstractmethod
    def _stages(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        """Return what `training_outputs` promises, for an image that was checked."""

    def training_outputs(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        """Return every image the network gives, coarsest first; the last is the estimate.

        Each is `(batch, band, y, x)` and takes part in the loss. They are not clamped, so that training
        keeps its gradient.

        Raises:
            InvalidModelInput: the image has other bands than the network, or its sides do not fit `stride`.
        """
        _, bands, height, width = cloudy.shape
        if bands != self.bands:
            raise InvalidModelInput(f"Image of {bands} bands for a reference of {self.bands}; give the model's bands.")
        if height % self.stride or width % self.stride or min(height, width) < self.smallest:
            raise InvalidModelInput(
                f"Image of {height} x {width} px: sides must be divisible by {self.stride}"
                f" and at least {max(self.stride, self.smallest)} px."
            )
        return self._stages(cloudy)

    def forward(self, cloudy: Tensor) -> Tensor:
        """Return the estimate of the clear image, not clamped."""
        return self.training_outputs(cloudy)[-1]

    @torch.no_grad()
    def estimate(self, cloudy: Tensor) -> Tensor:
        """Return the estimate clamped to [0, 1], without gradient: the form in which DE uses it."""
        return self(cloudy).clamp(0, 1)
