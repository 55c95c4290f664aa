"""Scaled dot-product attention over the positions of a feature map, in memory that grows with its area only.

Global attention compares every position with every other: a map twice as wide costs sixteen times as much,
and a model that never saw so many positions spreads its attention thinner than it learnt to. So a map
larger than the window of training is attended to in windows of exactly that size. They overlap by a quarter
and are blended linearly, so that no seam shows; a map that fits is one window, and the result is global
attention to the bit.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(qkv: Tensor, heads: int, window: int) -> Tensor:
    """Return what each position gathers from its window.

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
