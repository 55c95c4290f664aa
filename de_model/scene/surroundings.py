"""The clear ground around every pixel, at several scales, and how the scales are joined."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Weight of the scene's own level, zero in standardised reflectance, against the surroundings.
_PRIOR = 0.05
#: Share of ground in a Gaussian that is believed alone.
_ENOUGH = 1 / 8


def _kernel(sigma: float, like: Tensor) -> Tensor:
    radius = max(1, math.ceil(2.5 * sigma))
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32, device=like.device)
    kernel = torch.exp(-0.5 * (offset / sigma).square())
    return (kernel / kernel.sum()).to(like)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Return `(batch, channel, y, x)` convolved with a Gaussian of `sigma` pixels; nothing lies outside."""
    channels, kernel = image.shape[1], _kernel(sigma, image)
    size = len(kernel)
    rows = F.conv2d(
        image, kernel.view(1, 1, size, 1).expand(channels, 1, -1, 1), padding=(size // 2, 0), groups=channels
    )
    return F.conv2d(
        rows, kernel.view(1, 1, 1, size).expand(channels, 1, 1, -1), padding=(0, size // 2), groups=channels
    )


def surroundings(z: Tensor, weight: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the clear ground around every pixel, drawn towards zero where none is near.

    Args:
        z: standardised reflectance `(batch, band, y, x)`; any finite value where `weight` is 0.
        weight: `(batch, 1, y, x)`, how far a pixel shows the ground, 0..1.
        scales: standard deviations of the Gaussians, pixels; every one is worked out on a grid of a quarter of it.

    Returns:
        `(batch, scale * band, y, x)` and the share of ground in each Gaussian, `(batch, scale, y, x)`.
    """
    with torch.autocast(z.device.type, enabled=False):
        return _surroundings(z, weight, scales)


def _surroundings(z: Tensor, weight: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    size, found, shares = z.shape[-2:], [], []
    both = torch.cat([z * weight, weight], dim=1)
    for scale in scales:
        factor = max(1, 2 ** int(math.log2(max(scale / 3, 1))))
        factor = min(factor, 2 ** int(math.log2(max(min(size), 1))))
        small = F.avg_pool2d(both, factor, ceil_mode=True, count_include_pad=False) if factor > 1 else both
        small = blurred(small, scale / factor)
        small = torch.cat([small[:, :-1] / (small[:, -1:] + _PRIOR), small[:, -1:]], dim=1)
        if factor > 1:
            small = F.interpolate(small, scale_factor=float(factor), mode="bilinear", align_corners=False)
            small = small[..., : size[0], : size[1]]
        found.append(small[:, :-1])
        shares.append(small[:, -1:])
    return torch.cat(found, dim=1), torch.cat(shares, dim=1)


def coarse_to_fine(around: Tensor, share: Tensor) -> Tensor:
    """Return the surroundings of the finest scale that sees enough ground, `(batch, band, y, x)`.

    Every scale counts as far as ground lies within it; what it leaves is the next coarser one's, and at last zero.

    Args:
        around: of every scale, fine to coarse, `(batch, scale, band, y, x)`.
        share: of ground, `(batch, scale, y, x)`.
    """
    joined = torch.zeros_like(around[:, 0])
    for index in reversed(range(around.shape[1])):
        seen = share[:, index : index + 1]
        here = around[:, index] * (seen + _PRIOR) / seen.clamp_min(1e-4)
        joined = torch.lerp(joined, here, (seen / _ENOUGH).clamp(max=1))
    return joined
