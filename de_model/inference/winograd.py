"""3 x 3 convolutions with fewer multiplications, where that is faster: Winograd's algorithm on a CPU.

Lavin and Gray (2016, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308) compute 6 x 6 outputs with
64 products for each pair of channels where the sum as it is written takes 324. NNPACK, a part of torch, does so; its
results differ from the direct sum by a few units of the fifth decimal for values around one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Channels on either side, and pixels of a map, from which Winograd's algorithm is faster (measured with AVX2): below,
#: transforming weights costs more than it saves. Many channels pay from smaller maps on.
_LEAST_CHANNELS, _LEAST_PIXELS = 48, 48 * 48
_MANY_CHANNELS, _FEWER_PIXELS = 128, 32 * 32


@torch.library.custom_op("unveil::winograd_conv2d", mutates_args=())
def by_nnpack(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Call NNPACK; an operator of our own, as the compiler cannot look into torch's."""
    return torch._nnpack_spatial_convolution(x, weight, bias, padding=1)


@by_nnpack.register_fake
def _unfilled(x: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    """Return what the operator returns, as far as the compiler must know: shape, type and layout."""
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


class WinogradConv2d(nn.Module):
    """A 3 x 3 convolution of stride 1 that keeps the size of the map."""

    innermost: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        # Small maps are convolved as usual, which is fastest with channels innermost.
        self.register_buffer("innermost", conv.weight.detach().contiguous(memory_format=torch.channels_last), False)
        many = min(conv.in_channels, conv.out_channels) >= _MANY_CHANNELS
        self.least_pixels = _FEWER_PIXELS if many else _LEAST_PIXELS

    def forward(self, x: Tensor) -> Tensor:
        """Return features `(batch, cout, y, x)`."""
        small = x.shape[-1] * x.shape[-2] < self.least_pixels
        if small or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return F.conv2d(x, self.innermost, self.bias, padding=1)
        return by_nnpack(x, self.weight, self.bias)


def suits(module: nn.Module) -> bool:
    """Tell whether a layer is a convolution that the algorithm can take over with gain."""
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
        and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
    )


def available() -> bool:
    """Tell whether this build of torch runs NNPACK on this processor."""
    return torch.backends.nnpack.is_available() and hasattr(torch, "_nnpack_spatial_convolution")


def put_in(network: nn.Module) -> None:
    """Replace all convolutions of a network that suit."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and suits(child):
                parent.add_module(name, WinogradConv2d(child))
