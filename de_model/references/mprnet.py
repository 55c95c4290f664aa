"""MPRNet (Zamir et al. 2021, arXiv 2102.02808), the reference that the DE code calls MemoryNet.

Three stages restore progressively: an encoder-decoder on quarters of the image, another on its halves, and
a network that never leaves full resolution. Each stage hands its features to the next twice: through a
supervised attention module (SAM, section 3.3 of the paper) and through cross-stage feature fusion (CSFF,
section 3.2). Sizes are those of DE section 7.1: 3,637,249 parameters for RGB.

Feature maps are `(batch, channel, y, x)`; a pyramid is a list of three, finest first.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from de_model.presets import ReferenceKind
from de_model.references.base import Reference

#: Channels of the three scales of the encoder-decoders.
_WIDTHS = (40, 60, 80)
#: Channels of the full-resolution stage, its number of blocks, and attention blocks in each.
_FULL_WIDTH, _FULL_BLOCKS, _FULL_DEPTH = 56, 3, 8
#: Channels per hidden unit of channel attention.
_REDUCTION = 4
_ROWS, _COLUMNS = -2, -1

Pyramid = list[Tensor]


def _conv(cin: int, cout: int, kernel: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size; none of MPRNet's has a bias."""
    return nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _halve(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)


def _split(x: Tensor, axis: int) -> Tensor:
    """Return the two halves along `axis` as one batch, so that both go through a network at once."""
    return torch.cat(x.chunk(2, dim=axis))


def _join(x: Tensor, axis: int) -> Tensor:
    """Undo `_split`."""
    return torch.cat(x.chunk(2), dim=axis)


class _AttentionBlock(nn.Module):
    """Channel attention block (CAB): two convolutions, then every channel is weighted by the image's mean of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels, 3), _conv(channels, channels, 3)
        self.squeeze = _conv(channels, channels // _REDUCTION)
        self.excite = _conv(channels // _REDUCTION, channels)

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        """Return `x` plus the weighted features; `slope` is the PReLU's, shared by the whole network."""
        h = self.second(F.prelu(self.first(x), slope))
        mean = h.mean(dim=(2, 3), keepdim=True)
        return x + h * torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))


class _AttentionBlocks(nn.ModuleList):
    """Several in a row."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(_AttentionBlock(channels) for _ in range(count))

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        """Return features of the same shape."""
        for block in self:
            x = block(x, slope)
        return x


class _Encoder(nn.Module):
    """Contracting path; with `fused` it also takes in the pyramids of the stage before (CSFF)."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_AttentionBlocks(width, 2) for width in _WIDTHS)
        self.down = nn.ModuleList(_conv(fine, coarse) for fine, coarse in pairwise(_WIDTHS))
        fusion = _WIDTHS if fused else ()
        self.from_encoder = nn.ModuleList(_conv(width, width) for width in fusion)
        self.from_decoder = nn.ModuleList(_conv(width, width) for width in fusion)

    def forward(self, x: Tensor, slope: Tensor, before: tuple[Pyramid, Pyramid] | None = None) -> Pyramid:
        """Return the features of each scale; `before` is what encoder and decoder gave one stage earlier."""
        pyramid: Pyramid = []
        for scale, level in enumerate(self.levels):
            x = level(x if scale == 0 else self.down[scale - 1](_halve(x)), slope)
            if before is not None:
                encoded, decoded = (features[scale] for features in before)
                x = x + self.from_encoder[scale](encoded) + self.from_decoder[scale](decoded)
            pyramid.append(x)
        return pyramid


class _Decoder(nn.Module):
    """Expanding path over the encoder's features, with an attention block on every skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_AttentionBlocks(width, 2) for width in _WIDTHS)
        self.skips = nn.ModuleList(_AttentionBlock(width) for width in _WIDTHS[:-1])
        self.up = nn.ModuleList(_conv(coarse, fine) for fine, coarse in pairwise(_WIDTHS))

    def forward(self, encoded: Pyramid, slope: Tensor) -> Pyramid:
        """Return the decoded features of each scale."""
        x = self.levels[-1](encoded[-1], slope)
        pyramid = [x]
        for scale in reversed(range(len(self.skips))):
            # A pointwise convolution and interpolation commute; this order costs a quarter.
            x = _double(self.up[scale](x)) + self.skips[scale](encoded[scale], slope)
            x = self.levels[scale](x, slope)
            pyramid.insert(0, x)
        return pyramid


class _SupervisedAttention(nn.Module):
    """SAM: turns features into an image that the loss sees, and lets that image weight the features."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        width = _WIDTHS[0]
        self.features, self.to_image, self.from_image = _conv(width, width), _conv(width, bands), _conv(bands, width)

    def forward(self, x: Tensor, cloudy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features for the next stage and this stage's image."""
        image = cloudy + self.to_image(x)
        return x + self.features(x) * torch.sigmoid(self.from_image(image)), image


class _Lift(nn.Module):
    """Brings the features of one scale to full resolution and to the full-resolution stage's width."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        widths = _WIDTHS[scale::-1]
        self.up = nn.ModuleList(_conv(coarse, fine) for coarse, fine in pairwise(widths))
        self.out = _conv(_WIDTHS[0], _FULL_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, 56, y, x)` at full resolution."""
        for layer in self.up:
            x = _double(layer(x))
        return self.out(x)


class _FullResolutionBlock(nn.Module):
    """Original-resolution block (ORB) and the fusion of one scale of stage 2 behind it."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.blocks = _AttentionBlocks(_FULL_WIDTH, _FULL_DEPTH)
        self.last = _conv(_FULL_WIDTH, _FULL_WIDTH, 3)
        self.from_encoder, self.from_decoder = _Lift(scale), _Lift(scale)

    def forward(self, x: Tensor, encoded: Tensor, decoded: Tensor, slope: Tensor) -> Tensor:
        """Return features of the shape of `x`; the other two are one scale of stage 2."""
        x = x + self.last(self.blocks(x, slope))
        return x + self.from_encoder(encoded) + self.from_decoder(decoded)


class _Shallow(nn.Module):
    """First features of the cloudy image; every stage makes its own."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.conv = _conv(bands, _WIDTHS[0], 3)
        self.block = _AttentionBlock(_WIDTHS[0])

    def forward(self, image: Tensor, slope: Tensor) -> Tensor:
        """Return `(batch, 40, y, x)`."""
        return self.block(self.conv(image), slope)


class MprnetReference(Reference):
    """Three-stage restoration with any number of bands.

    Patches are cut at the middle of the image given, so a tile's estimate depends on where the tile lies.
    """

    #: Two halvings of scale inside patches of half the height and width.
    stride = ReferenceKind.MPRNET.stride

    def __init__(self, bands: int) -> None:
        super().__init__(bands)
        width = _WIDTHS[0]
        #: The one PReLU of the network.
        self.slope = nn.Parameter(torch.full((1,), 0.25))
        self.shallow = nn.ModuleList(_Shallow(bands) for _ in range(3))
        self.encoders = nn.ModuleList([_Encoder(fused=False), _Encoder(fused=True)])
        self.decoders = nn.ModuleList([_Decoder(), _Decoder()])
        self.attention = nn.ModuleList([_SupervisedAttention(bands), _SupervisedAttention(bands)])
        self.merge = nn.ModuleList([_conv(2 * width, width, 3), _conv(2 * width, _FULL_WIDTH, 3)])
        self.full = nn.ModuleList(_FullResolutionBlock(scale) for scale in range(_FULL_BLOCKS))
        self.tail = _conv(_FULL_WIDTH, bands, 3)

    def _stages(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        slope, halves = self.slope, _split(cloudy, _ROWS)
        # Stage 1: encode quarters, decode halves.
        quarters = self.encoders[0](self.shallow[0](_split(halves, _COLUMNS), slope), slope)
        encoded = [_join(features, _COLUMNS) for features in quarters]
        decoded = self.decoders[0](encoded, slope)
        passed, first = self.attention[0](decoded[0], halves)
        # Stage 2: encode halves, decode the whole.
        merged = self.merge[0](torch.cat([self.shallow[1](halves, slope), passed], dim=1))
        encoded = [_join(features, _ROWS) for features in self.encoders[1](merged, slope, (encoded, decoded))]
        decoded = self.decoders[1](encoded, slope)
        passed, second = self.attention[1](decoded[0], cloudy)
        # Stage 3: full resolution.
        x = self.merge[1](torch.cat([self.shallow[2](cloudy, slope), passed], dim=1))
        for block, *features in zip(self.full, encoded, decoded, strict=True):
            x = block(x, *features, slope)
        return _join(first, _ROWS), second, cloudy + self.tail(x)
