"""Which network a reference's name stands for: the `light` one, or one of the published ones."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from de_model.presets import ReferenceKind, Sizes
from de_model.references.base import Reference
from de_model.references.mprnet import MprnetReference
from de_model.references.msda import MsdaReference


class _Block(nn.Module):
    """Two convolutions around a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


class LightReference(Reference):
    """A residual U-Net without normalisation statistics, small enough for a laptop.

    Four levels give a receptive field of about 180 px, so that the inside of a cloud sees its clear
    surroundings. No layer depends on the tile's statistics, so tiles agree away from their borders.
    """

    stride = ReferenceKind.LIGHT.stride

    def __init__(self, bands: int, base: int = 32) -> None:
        super().__init__(bands)
        widths = (base, 2 * base, 3 * base, 4 * base)
        self.stem = nn.Conv2d(bands, base, 3, padding=1)
        self.encode = nn.ModuleList(_Block(w) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = nn.Sequential(*(_Dilated(widths[-1], d) for d in (2, 4, 2)))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(_Block(w) for w in widths[:-1])
        self.head = nn.Conv2d(base, bands, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def _stages(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        h = self.stem(cloudy)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encode):
            h = block(h)
            if level < len(self.down):
                skips.append(h)
                h = self.down[level](h)
        h = self.middle(h)
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.up[level](h), scale_factor=2.0, mode="bilinear", align_corners=False)
            h = self.decode[level](h + skips[level])
        return (cloudy + self.head(F.silu(h)),)


class _Dilated(nn.Module):
    """A residual block whose first convolution looks further."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


def build_reference(kind: ReferenceKind, bands: int, sizes: Sizes) -> Reference:
    """Return an untrained reference; only `light` depends on the preset's sizes, the others are as published."""
    match kind:
        case ReferenceKind.LIGHT:
            return LightReference(bands, sizes.reference_base)
        case ReferenceKind.MPRNET:
            return MprnetReference(bands)
        case ReferenceKind.MSDA:
            return MsdaReference(bands)
