"""References made worse on purpose: does the weight network notice?"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from de_model.errors import InvalidModelInput

#: Reach of the blur's kernel, in standard deviations.
_REACH = 3


@dataclass(frozen=True, slots=True)
class Degradation:
    """What is done to a reference in [0, 1], in this order; zeros leave it as it is.

    Raises:
        InvalidModelInput: a value is not finite, negative (the bias may be), or a share above 1.
    """

    #: Share of the cloudy image mixed in, 0..1: clouds that the reference failed to remove.
    cloudy_share: float = 0.0
    #: Standard deviation of a Gaussian blur, pixels: detail that it lost.
    blur_sigma: float = 0.0
    #: Added to every band and pixel, companded units: another season's or sun's brightness.
    bias: float = 0.0
    #: Standard deviation of added Gaussian noise, companded units.
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, astuple(self))):
            raise InvalidModelInput(f"{self} holds a value that is not finite.")
        if min(self.blur_sigma, self.noise) < 0 or not 0 <= self.cloudy_share <= 1:
            raise InvalidModelInput(f"{self}: blur and noise must be 0 or more, the cloudy share within 0..1.")


def degrade(reference: Tensor, cloudy: Tensor, degradation: Degradation, generator: torch.Generator) -> Tensor:
    """Return the reference made worse, within [0, 1].

    Args:
        reference: `(batch, band, y, x)` in [0, 1].
        cloudy: the image that it was made from, same shape and range.
        degradation: what to do.
        generator: source of the noise, on the CPU.

    Raises:
        InvalidModelInput: the two images differ in shape.
    """
    if reference.shape != cloudy.shape:
        raise InvalidModelInput(
            f"Reference {tuple(reference.shape)} and cloudy image {tuple(cloudy.shape)} must share one shape."
        )
    if degradation == Degradation():
        return reference
    worse = torch.lerp(reference, cloudy, degradation.cloudy_share)
    worse = blurred(worse, degradation.blur_sigma) + degradation.bias
    if degradation.noise:
        noise = torch.randn(worse.shape, generator=generator).to(worse)
        worse = worse + degradation.noise * noise
    return worse.clamp(0, 1)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Return `(batch, band, y, x)` convolved with a Gaussian of `sigma` pixels; edges repeat their last pixel."""
    if sigma == 0:
        return image
    radius = max(1, math.ceil(_REACH * sigma))
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offset / sigma).square())
    kernel = (kernel / kernel.sum()).to(image)
    bands = image.shape[1]
    padded = pad(image, (radius,) * 4, mode="replicate")
    rows = conv2d(padded, kernel.view(1, 1, -1, 1).expand(bands, 1, -1, 1), groups=bands)
    return conv2d(rows, kernel.view(1, 1, 1, -1).expand(bands, 1, 1, -1), groups=bands)
