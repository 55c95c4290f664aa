"""The U-Net of Dhariwal & Nichol (2021, "ADM") that both DE networks are made of.

Residual blocks with time embedding, self-attention at chosen downsampling factors, skip connections.
Tensors are `(batch, channel, y, x)`; height and width must be divisible by `stride`.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from de_model.errors import InvalidModelInput
from de_model.presets import UNetConfig

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return the sinusoidal embedding `(batch, dim)` of timesteps `(batch,)`, float32."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def activate(x: Tensor) -> Tensor:
    """Return SiLU of a freshly made feature map; in place where no gradient needs the map (a tenth of the time)."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def added(fresh: Tensor, x: Tensor) -> Tensor:
    """Return the sum of a freshly made feature map and another; into the former where no gradient needs it."""
    return fresh + x if torch.is_grad_enabled() else fresh.add_(x)


def zeroed(layer: _Layer) -> _Layer:
    """Return `layer` with weights and bias at zero, so that its branch starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def attend(qkv: Tensor, heads: int, window: int) -> Tensor:
    """Return what each position gathers from its window.

    Global attention compares every position with every other: a map twice as wide costs sixteen times as much, and a
    model that never saw so many positions spreads its attention thinner than it learnt to. So a map larger than the
    window of training is attended to in windows of exactly that size. They overlap by a quarter and are blended
    linearly, so that no seam shows; a map that fits is one window, and the result is global attention to the bit.

    Args:
        qkv: `(batch, 3 * channel, y, x)`; for each head in turn its queries, keys and values.
        heads: number of heads.
        window: positions per side of a window.

    Returns:
        `(batch, channel, y, x)`.
    """
    height, width = qkv.shape[-2:]
    if height <= window and width <= window:
        return _attend_globally(qkv, heads)
    rows, columns = _starts(height, window), _starts(width, window)
    total = qkv.new_zeros(len(qkv), qkv.shape[1] // 3, height, width)
    weight = qkv.new_zeros(height, width)
    for top, left in product(rows, columns):
        part = (slice(top, top + window), slice(left, left + window))
        found = _attend_globally(qkv[..., *part], heads)
        share = _blend(found.shape[-2], found.shape[-1], found.device).to(found.dtype)
        total[..., *part] += found * share
        weight[part] += share
    return total / weight


def _attend_globally(qkv: Tensor, heads: int) -> Tensor:
    batch, triple, height, width = qkv.shape
    size = triple // 3 // heads
    parts = qkv.reshape(batch, heads, 3, size, height * width).transpose(-1, -2)
    if parts.stride(-1) != 1:
        # The kernels that never hold all scores at once want each position's features side by side.
        parts = parts.contiguous()
    q, k, v = parts.unbind(2)
    gathered = F.scaled_dot_product_attention(q, k, v)
    return gathered.transpose(-1, -2).reshape(batch, heads * size, height, width)


def _starts(size: int, window: int) -> list[int]:
    """Return the first positions of windows that cover `size`, evenly spread, a quarter or more shared."""
    if size <= window:
        return [0]
    step = max(1, window * 3 // 4)
    count = -(-(size - window) // step) + 1
    return [round(index * (size - window) / (count - 1)) for index in range(count)]


def _blend(height: int, width: int, device: torch.device) -> Tensor:
    """Return weights `(y, x)` that fall linearly from the middle of a window to its edges, never to zero."""
    ramps = [1 - (torch.arange(n, device=device) + 0.5 - n / 2).abs() / (n / 2) for n in (height, width)]
    return ramps[0][:, None] * ramps[1]


class Norm(nn.GroupNorm):
    """Group normalisation computed in float32 whatever the type of the features."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(batch, channel, y, x)`."""
        return super().forward(x.float()).to(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the time embedding enters between the two."""

    def __init__(self, cin: int, cout: int, embedding: int, config: UNetConfig) -> None:
        super().__init__()
        self.film = config.film
        self.norm_in = Norm(config.groups, cin)
        self.conv_in = nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(embedding, 2 * cout if config.film else cout)
        self.norm_out = Norm(config.groups, cout)
        self.conv_out = zeroed(nn.Conv2d(cout, cout, 3, padding=1))
        self.skip = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return features of `cout` channels; `time` is `(batch, embedding)`."""
        h = self.conv_in(activate(self.norm_in(x)))
        shift = self.time(F.silu(time)).to(h.dtype)[:, :, None, None]
        if self.film:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        else:
            h = self.norm_out(h + shift)
        return added(self.conv_out(activate(h)), self.skip(x))


class Attention(nn.Module):
    """Self-attention over the positions of a feature map, with a residual connection.

    Maps up to `window` positions a side attend globally, larger ones in overlapping windows of that size
    (see `attention`).
    """

    def __init__(self, channels: int, config: UNetConfig, factor: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.window = max(1, config.attention_window // factor)
        self.norm = Norm(config.groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus what each position gathers from the others."""
        return added(self.out(attend(self.qkv(self.norm(x)), self.heads, self.window)), x)


class Stage(nn.Module):
    """One residual block, attention where the level has it, and a change of size after the last block."""

    def __init__(
        self, block: ResidualBlock, attention: Attention | None = None, resize: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()
        #: Identity where the size stays.
        self.resize: nn.Module = resize or nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the features after block and attention; `resize` is the caller's, skips come first."""
        return self.attention(self.block(x, time))


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, channel, 2 y, 2 x)`."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """Image and timestep in, image out; the last convolution starts at zero."""

    def __init__(self, cin: int, cout: int, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        embedding = 4 * config.base
        self.time = nn.Sequential(nn.Linear(config.base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = nn.Conv2d(cin, config.base, 3, padding=1)
        skips = self._build_down(embedding)
        width = skips[-1]
        self.middle_in = Stage(ResidualBlock(width, width, embedding, config), Attention(width, config, config.stride))
        self.middle_out = Stage(ResidualBlock(width, width, embedding, config))
        width = self._build_up(embedding, skips)
        self.norm = Norm(config.groups, width)
        self.head = zeroed(nn.Conv2d(width, cout, 3, padding=1))

    def _attention(self, channels: int, level: int) -> Attention | None:
        wanted = 2**level in self.config.attention_factors
        return Attention(channels, self.config, 2**level) if wanted else None

    def _build_down(self, embedding: int) -> list[int]:
        """Create the contracting path; return the channel count of every skip connection, stem first."""
        config, width = self.config, self.config.base
        skips, stages = [width], []
        for level, multiplier in enumerate(config.multipliers):
            for index in range(config.res_blocks):
                block = ResidualBlock(width, multiplier * config.base, embedding, config)
                width = multiplier * config.base
                last = index == config.res_blocks - 1 and level < len(config.multipliers) - 1
                resize = nn.Conv2d(width, width, 3, stride=2, padding=1) if last else None
                stages.append(Stage(block, self._attention(width, level), resize))
                skips.extend([width, width] if last else [width])
        self.down = nn.ModuleList(stages)
        return skips

    def _build_up(self, embedding: int, skips: list[int]) -> int:
        """Create the expanding path, one block more per level than down; return its last channel count."""
        config, width, stages = self.config, skips[-1], []
        remaining = list(skips)
        for level in reversed(range(len(config.multipliers))):
            for index in range(config.res_blocks + 1):
                block = ResidualBlock(
                    width + remaining.pop(), config.multipliers[level] * config.base, embedding, config
                )
                width = config.multipliers[level] * config.base
                resize = Upsample(width) if index == config.res_blocks and level > 0 else None
                stages.append(Stage(block, self._attention(width, level), resize))
        self.up = nn.ModuleList(stages)
        return width

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `(batch, cout, y, x)` for features `(batch, cin, y, x)` and timesteps `(batch,)`.

        Raises:
            InvalidModelInput: height or width is not divisible by `config.stride`.
        """
        stride = self.config.stride
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise InvalidModelInput(f"Image of {x.shape[-2]} x {x.shape[-1]} px: sides must be divisible by {stride}.")
        time = self.time(timestep_embedding(t, self.config.base).to(self.stem.weight.dtype))
        h = self.stem(x)
        skips = [h]
        for stage in cast("list[Stage]", self.down):
            h = stage(h, time)
            skips.append(h)
            if not isinstance(stage.resize, nn.Identity):
                h = stage.resize(h)
                skips.append(h)
        h = self.middle_out(self.middle_in(h, time), time)
        for stage in cast("list[Stage]", self.up):
            h = stage.resize(stage(torch.cat([h, skips.pop()], dim=1), time))
        return self.head(activate(self.norm(h)))
