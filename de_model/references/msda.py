"""MSDA-CR: multiscale distortion-aware network (Yu, Zhang, Pun, IEEE GRSL, document 9686746).

A grid of three scales and six columns: columns 0-2 pass features down to coarser scales, columns 3-5 up again.
Every cell is a distortion-aware block after the physics of cloud: what the sensor sees is reflection dimmed
by transmission, plus the cloud's own light. Wiring and sizes are those of the published baseline (DE
section 7.2): 3,907,714 parameters for RGB, of which the forward pass uses 2,903,465; `Dormant` holds the rest.

Feature maps are `(batch, channel, y, x)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from de_model.presets import ReferenceKind
from de_model.references.base import Reference

#: Channels of the three rows of the grid, finest first; each row halves the resolution.
_WIDTHS = (16, 32, 64)
_COLUMNS = 6
#: First column that passes features up.
_TURN = _COLUMNS // 2
_DENSE_LAYERS, _GROWTH = 4, 16
_REDUCTION = 4
#: Dilations of the branch that looks far, from the coarsest row.
_DILATIONS = (1, 2, 4, 8, 16, 1)


def _conv(cin: int, cout: int, dilation: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(cin, cout, 3, padding=dilation, dilation=dilation)


def _down(channels: int) -> nn.Sequential:
    """Return the step to the next coarser row: half the size, twice the channels."""
    halved = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    return nn.Sequential(halved, nn.ReLU(), _conv(channels, 2 * channels), nn.ReLU())


def _up(channels: int) -> nn.Sequential:
    """Return the step to the next finer row: twice the size, half the channels."""
    doubled = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(doubled, nn.ReLU(), _conv(channels, channels // 2), nn.ReLU())


def _cell(row: int, column: int) -> str:
    """Return the name of a cell of the grid."""
    return f"row{row}column{column}"


class _ResidualDense(nn.Module):
    """Densely connected convolutions, each seeing all before it, around a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(channels + i * _GROWTH, _GROWTH) for i in range(_DENSE_LAYERS))
        self.fuse = nn.Conv2d(channels + _DENSE_LAYERS * _GROWTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`."""
        seen = x
        for layer in self.layers:
            seen = torch.cat([seen, F.relu(layer(seen))], dim=1)
        return x + self.fuse(seen)


class Dormant(nn.Module):
    """Layers that every published block creates and its forward pass never calls.

    A second dense branch for the transmission, a convolution behind it, a one-channel ratio and two
    coefficients. They are kept so that the network is the published one, parameter for parameter; no
    gradient reaches them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = _ResidualDense(channels)
        self.conv = _conv(channels, channels)
        self.ratio = _conv(channels, 1)
        self.coefficients = nn.Parameter(torch.ones(1, 2))


class _DistortionAwareBlock(nn.Module):
    """Separates the scene from the cloud's influence and mixes three corrections of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.distorted, self.normalised = _ResidualDense(channels), _ResidualDense(channels)
        #: Features that separate reflection and transmission, half the channels each.
        self.features = _conv(channels, 2 * half)
        self.moments = nn.Linear(half, 2 * channels)
        self.reflection, self.transmission = _conv(half, 2 * channels), _conv(half, 2 * channels)
        self.attention = _conv(channels, 2)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)
        self.squeeze = nn.Conv2d(channels, channels // _REDUCTION, 1)
        self.excite = nn.Conv2d(channels // _REDUCTION, channels, 1)
        self.dormant = Dormant(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`."""
        distorted = self.distorted(x)
        scene = F.instance_norm(self.normalised(F.instance_norm(x)))
        h = self.fuse(torch.cat([distorted, self._corrected(distorted, scene)], dim=1))
        weight = self.excite(F.relu(self.squeeze(h.mean(dim=(2, 3), keepdim=True))))
        return x + h * torch.sigmoid(weight)

    def _corrected(self, distorted: Tensor, scene: Tensor) -> Tensor:
        """Return `R a + (T (1 - b) + G b) (1 - a)`: the scene modulated by R(eflection), T(ransmission), G(lobal)."""
        of_reflection, of_transmission = F.relu(self.features(distorted)).chunk(2, dim=1)
        mean, deviation = self.moments(of_reflection.mean(dim=(2, 3)))[:, :, None, None].chunk(2, dim=1)
        g = deviation * scene + mean
        r, t = (
            scene * (1 + scale) + shift
            for scale, shift in (
                self.reflection(of_reflection).chunk(2, dim=1),
                self.transmission(of_transmission).chunk(2, dim=1),
            )
        )
        a, b = torch.sigmoid(self.attention(scene)).chunk(2, dim=1)
        return r * a + (t * (1 - b) + g * b) * (1 - a)


class MsdaReference(Reference):
    """Grid network with any number of bands; its sigmoid keeps the output within (0, 1).

    Instance normalisation and global means depend on the whole image given, so tiles of one scene agree
    less than those of `light`.
    """

    #: Two halvings.
    stride = ReferenceKind.MSDA.stride
    #: The coarsest row needs more than one position to be normalised.
    smallest = 8

    def __init__(self, bands: int) -> None:
        super().__init__(bands)
        fine, middle, coarse = _WIDTHS
        self.stem, self.head = _conv(bands, fine), _conv(fine, bands)
        self.entry, self.exit = _DistortionAwareBlock(fine), _DistortionAwareBlock(fine)
        #: Steps of the grid by the cell they lead to.
        self.along, self.down, self.up = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for row, width in enumerate(_WIDTHS):
            for column in range(1, _COLUMNS):
                self.along[_cell(row, column)] = _DistortionAwareBlock(width)
            if row > 0:
                self.down.update({_cell(row, column): _down(width // 2) for column in range(_TURN)})
            if width < coarse:
                self.up.update({_cell(row, column): _up(2 * width) for column in range(_TURN, _COLUMNS)})
        self.far = nn.Sequential(*(m for d in _DILATIONS for m in (_conv(coarse, coarse, d), nn.ReLU())))
        self.far_up = nn.ModuleList([_up(coarse), _up(middle)])
        self.far_blocks = nn.ModuleList([_DistortionAwareBlock(middle), _DistortionAwareBlock(fine)])
        #: Weights `(row, column, stream, channel)` of the two streams that meet; only those are read.
        self.shares = nn.Parameter(torch.ones(len(_WIDTHS), _COLUMNS, 2, coarse))
        #: The offsets of a deformable convolution that the published forward pass leaves out.
        self.dormant_offsets = nn.ModuleList([_conv(coarse, middle), _conv(middle, coarse)])

    def _meet(self, row: int, column: int, along: Tensor, across: Tensor) -> Tensor:
        share = self.shares[row, column, :, : along.shape[1], None, None]
        return share[0] * along + share[1] * across

    def _first_column(self, cloudy: Tensor) -> list[Tensor]:
        features = [self.entry(self.stem(cloudy))]
        for row in range(1, len(_WIDTHS)):
            features.append(self.down[_cell(row, 0)](features[-1]))
        return features

    def _next_column(self, column: int, before: list[Tensor]) -> list[Tensor]:
        """Return the features of a column's rows, worked out in the order in which they pass across."""
        falling = column < _TURN
        steps, rows = (self.down, range(len(_WIDTHS))) if falling else (self.up, range(len(_WIDTHS))[::-1])
        found: dict[int, Tensor] = {}
        for row in rows:
            h = self.along[_cell(row, column)](before[row])
            if found:
                source = found[row - 1 if falling else row + 1]
                h = self._meet(row, column, h, steps[_cell(row, column)](source))
            found[row] = h
        return [found[row] for row in sorted(found)]

    def _stages(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        features = self._first_column(cloudy)
        for column in range(1, _COLUMNS):
            features = self._next_column(column, features)
        fine, middle, coarse = features
        # Column 0 is not a meeting point of the grid; its shares serve the far branch.
        far = self.far_up[0](self.far(coarse))
        far = self.far_up[1](self.far_blocks[0](self._meet(1, 0, middle, far)))
        h = self.far_blocks[1](self._meet(0, 0, self.exit(fine), far))
        return (torch.sigmoid(self.head(h)),)
