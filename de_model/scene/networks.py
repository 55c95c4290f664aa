"""The networks of the second edition: one residual trunk at half resolution, three heads on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from de_model.scene.design import SceneSizes
from de_model.scene.surroundings import coarse_to_fine, surroundings

#: Share of clear pixels below which a scene has no level of its own.
_LEAST_CLEAR = 0.01
#: Limits of the logarithm of a variance.
_LEAST, _MOST = -7.0, 4.0
#: Numbers of a scene that mean the same everywhere: pixel size, days, share of clear ground. The levels themselves
#: would only say which of the training's places it is.
_TRAVELLING = 3

#: Channels of `Inputs.maps`: image, four classes, composite, its validity and spread, nearest date, its validity.
#: Numbers of one scene: level and deviation per band, pixel size, days to the nearest date, share of clear ground.


def map_channels(bands: int) -> int:
    """Return the channels of `Inputs.maps`."""
    return 3 * bands + 7


class Inputs:
    """What the networks are given, already standardised.

    `maps` `(batch, map, y, x)`; sides divisible by 16. `numbers` `(batch, number)`.
    """

    def __init__(self, maps: Tensor, numbers: Tensor, bands: int) -> None:
        self.maps, self.numbers, self.bands = maps, numbers, bands
        n = bands
        self.image, self.classes = maps[:, :n], maps[:, n : n + 4]
        self.composite, self.known = maps[:, n + 4 : 2 * n + 4], maps[:, 2 * n + 4 : 2 * n + 5]
        self.spread = maps[:, 2 * n + 5 : 2 * n + 6]
        self.date, self.dated = maps[:, 2 * n + 6 : 3 * n + 6], maps[:, 3 * n + 6 : 3 * n + 7]

    @property
    def clear(self) -> Tensor:
        """Pixels that show the ground `(batch, 1, y, x)`."""
        return self.classes[:, :1]

    @property
    def blind(self) -> Tensor:
        """Where the scene shows less than 1 % clear ground, and no other date any: the levels are a guess.

        The reference is believed alone there. `(batch, 1, 1, 1)`.
        """
        unclear = self.numbers[:, -1] < 2 * _LEAST_CLEAR - 1
        return (unclear & ~(self.known > 0).flatten(1).any(dim=1)).view(-1, 1, 1, 1)

    def kept(self, knots: tuple[tuple[float, float], ...]) -> Tensor:
        """Return the share of an estimate that is kept `(batch, 1, y, x)`: 1 where another date saw the ground.

        Args:
            knots: share of clear ground and share kept; empty keeps all.
        """
        if not knots:
            return torch.ones_like(self.known)
        at, share = (np.array(column) for column in zip(*knots, strict=True))
        clear = (self.numbers[:, -1].double().cpu().numpy() + 1) / 2
        kept = torch.from_numpy(np.interp(clear, at, share)).to(self.known)
        return torch.where(self.known > 0, 1.0, kept.view(-1, 1, 1, 1))

    @property
    def visible(self) -> Tensor:
        """Pixels that show the ground through thin cloud or in shadow `(batch, 1, y, x)`."""
        return self.classes[:, 1:2] + self.classes[:, 3:4]


def _zero(layer: nn.Module) -> None:
    """Let a layer begin by giving zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class _Block(nn.Module):
    """Two convolutions around a residual connection, scaled and shifted by the scene's numbers."""

    def __init__(self, channels: int, embedding: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        self.dropout = nn.Dropout2d(dropout)
        nn.init.zeros_(self.second.weight)
        _zero(self.film)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(x)) * (1 + scale) + shift
        return x + self.second(self.dropout(F.silu(h)))


class Trunk(nn.Module):
    """A residual U-Net; no layer depends on statistics of the tile, so tiles agree away from their borders.

    It works on blocks of `factor` pixels, and sees some hundred pixels through its levels and the dilated middle.
    """

    def __init__(
        self, channels: int, numbers: int, widths: tuple[int, ...], out: int, factor: int, dropout: float
    ) -> None:
        super().__init__()
        base, self.factor = widths[0], factor
        embedding = 64
        self.embed = nn.Sequential(nn.Linear(numbers, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.stem = nn.Conv2d(factor * factor * channels, base, 3, padding=1)
        self.encode = nn.ModuleList(_Block(w, embedding, 1, dropout) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = nn.ModuleList(_Block(widths[-1], embedding, d, dropout) for d in (2, 4, 1))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(_Block(w, embedding, 1, dropout) for w in widths[:-1])
        self.head = nn.Conv2d(base, out, 1)
        _zero(self.head)

    def forward(self, maps: Tensor, numbers: Tensor) -> Tensor:
        """Return `(batch, out, y / factor, x / factor)` for maps `(batch, channel, y, x)`."""
        embedding = self.embed(numbers)
        h = self.stem(F.pixel_unshuffle(maps, self.factor))
        skips: list[Tensor] = []
        for level, block in enumerate(self.encode):
            h = block(h, embedding)
            if level < len(self.down):
                skips.append(h)
                h = self.down[level](h)
        for block in self.middle:
            h = block(h, embedding)
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.up[level](h), scale_factor=2.0, mode="bilinear", align_corners=False)
            h = self.decode[level](h + skips[level], embedding)
        return self.head(F.silu(h))


@dataclass(frozen=True, slots=True)
class Belief:
    """A mean and its uncertainty, both `(batch, band, y, x)` in standardised reflectance."""

    mean: Tensor
    #: Logarithm of the variance.
    log_variance: Tensor
    #: Where the mean was given instead of estimated `(batch, 1, y, x)`; None for nowhere.
    given: Tensor | None = None


class Estimator(nn.Module):
    """Mean and variance of the ground, as corrections of what is known without a network.

    Starts exactly at the composite, and at the interpolated surroundings where there is none. The image enters the
    result only where the ground shines through: opaque cloud cannot leak.
    """

    def __init__(
        self, bands: int, sizes: SceneSizes, widths: tuple[int, ...], factor: int, more: tuple[int, int] = (0, 0)
    ) -> None:
        """Make the network.

        Args:
            bands: of the image.
            sizes: of the model: scales of the surroundings, start and dropout.
            widths: channels of the trunk's levels.
            factor: side of the blocks of pixels that the trunk works on.
            more: maps and numbers that the trunk is given besides the inputs.
        """
        super().__init__()
        self.bands, self.scales, self.factor = bands, sizes.scales, factor
        self.nearest = sizes.start == "coarse to fine"
        count = len(sizes.scales)
        #: Per band: a weight of every candidate, of the image, a residual, and the logarithm of the variance.
        self.candidates = count + 3
        out = bands * (self.candidates + 3)
        channels = map_channels(bands) + count * (bands + 1) + more[0]
        self.net = Trunk(channels, _TRAVELLING + more[1], widths, out, factor, sizes.dropout)
        #: What the trunk says of a block, made sharp by what is known of every pixel.
        self.sharpen = nn.Conv2d(4 + 3 + count, out, 1)
        _zero(self.sharpen)

    def start(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return the starting point, the surroundings and their shares."""
        around, share = surroundings(inputs.image, inputs.clear, self.scales)
        each = around.unflatten(1, (len(self.scales), self.bands))
        middle = coarse_to_fine(each, share) if self.nearest else each.mean(dim=1)
        return torch.where(inputs.known > 0, inputs.composite, middle), around, share

    def believed(
        self,
        inputs: Inputs,
        start: tuple[Tensor, Tensor, Tensor],
        maps: Sequence[Tensor] = (),
        level: Tensor | None = None,
    ) -> Belief:
        """Return the belief that corrects a starting point (`start`), given more maps and numbers."""
        begin, around, share = start
        numbers = travelling(inputs) if level is None else torch.cat([travelling(inputs), level], dim=1)
        raw = self.net(torch.cat([compressed(inputs), squashed(around), share, *maps], dim=1), numbers).float()
        raw = F.interpolate(raw, scale_factor=float(self.factor), mode="bilinear", align_corners=False)
        raw = raw + self.sharpen(torch.cat([inputs.classes, inputs.known, inputs.dated, inputs.spread, share], dim=1))
        raw = raw.unflatten(1, (self.candidates + 3, self.bands))
        weights = torch.tanh(raw[:, : self.candidates])
        known, dated = inputs.known, inputs.dated
        candidates = [
            torch.zeros_like(begin),
            torch.where(known > 0, inputs.composite, begin),
            torch.where(dated > 0, inputs.date, begin),
            *around.chunk(len(self.scales), dim=1),
        ]
        mean = begin
        for index, candidate in enumerate(candidates):
            mean = mean + weights[:, index] * (candidate - begin)
        through = inputs.visible * inputs.image.clamp(-10, 30)
        mean = mean + 0.2 * raw[:, self.candidates] * through + raw[:, self.candidates + 1]
        return Belief(mean, (raw[:, self.candidates + 2] - 1.0).clamp(_LEAST, _MOST))


class SceneReference(Estimator):
    """The frozen reference: what is estimated from the inputs alone."""

    def __init__(self, bands: int, sizes: SceneSizes) -> None:
        super().__init__(bands, sizes, sizes.reference, sizes.reference_factor)

    def forward(self, inputs: Inputs) -> Belief:
        """Return the belief about the ground."""
        return self.believed(inputs, self.start(inputs))


def travelling(inputs: Inputs) -> Tensor:
    """Return the numbers that the networks are given, `(batch, number)`."""
    return inputs.numbers[:, -_TRAVELLING:]


def squashed(z: Tensor) -> Tensor:
    """Return values drawn into -5..5, near themselves around 0."""
    return z / (1 + 0.2 * z.abs())


def compressed(inputs: Inputs) -> Tensor:
    """Return the maps with reflectance drawn together, so that cloud does not drown the ground."""
    n = inputs.bands
    maps = inputs.maps
    return torch.cat(
        [
            squashed(maps[:, :n]),
            maps[:, n : n + 4],
            squashed(maps[:, n + 4 : 2 * n + 4]),
            maps[:, 2 * n + 4 : 2 * n + 6],
            squashed(maps[:, 2 * n + 6 : 3 * n + 6]),
            maps[:, 3 * n + 6 :],
        ],
        dim=1,
    )


class IndependentPredictor(Estimator):
    """Conditional diffusion that does not see the reference: the ground from the noised state and the inputs.

    It estimates as the reference does, from the same starting point, and then corrects every pixel at full resolution.
    What it gets wrong is not what the reference gets wrong, so that W has something to choose.
    """

    #: Channels of the correction at full resolution.
    _FINE = 32

    def __init__(self, bands: int, sizes: SceneSizes) -> None:
        super().__init__(bands, sizes, sizes.predictor, sizes.predictor_factor, (bands, 2))
        self.fine = nn.Conv2d(7 + 5 * bands, self._FINE, 3, padding=1)
        self.finer = nn.Conv2d(self._FINE, self._FINE, 3, padding=2, dilation=2)
        self.corrected = nn.Conv2d(self._FINE, 2 * bands, 1)
        _zero(self.corrected)

    @property
    def last(self) -> nn.ModuleList:
        """Layers after the trunk's last block."""
        return nn.ModuleList([self.net.head, self.sharpen, self.fine, self.finer, self.corrected])

    @torch.no_grad()
    def begin_at(self, reference: SceneReference) -> None:
        """Take over a trained reference of the same widths where nothing was trained yet; more inputs count nothing."""
        own = self.state_dict()
        known = {name: value for name, value in reference.state_dict().items() if own[name].ndim == value.ndim}
        if bool(self.corrected.weight.any()) or any(own[n].shape[0] != v.shape[0] for n, v in known.items()):
            return
        for name, value in known.items():
            own[name].zero_()[tuple(slice(length) for length in value.shape)] = value

    def forward(self, x_t: Tensor, inputs: Inputs, signal: Tensor, noise: Tensor) -> Belief:
        """Return the belief about the ground.

        Args:
            x_t: state `(batch, band, y, x)`.
            inputs: as given to the reference.
            signal: `sqrt(abar_t)`, `(batch, 1, 1, 1)`.
            noise: `sqrt(1 - abar_t)`, likewise.
        """
        start = self.start(inputs)
        reduced = squashed((x_t - signal * start[0]) / noise.clamp_min(0.3))
        found = self.believed(inputs, start, [reduced], torch.cat([signal.flatten(1), noise.flatten(1)], dim=1))
        n, maps = self.bands, compressed(inputs)
        seen = [squashed(found.mean), found.log_variance / 4, inputs.visible * maps[:, :n], maps[:, n:]]
        h = F.silu(self.fine(torch.cat(seen, dim=1)))
        h = h + F.silu(self.finer(h))
        change, log_variance = self.corrected(h).float().chunk(2, dim=1)
        return Belief(found.mean + change, (found.log_variance + log_variance).clamp(_LEAST, _MOST))


class ScenePredictor(nn.Module):
    """Conditional diffusion: the ground from its noised state, the inputs and the reference (x0-prediction).

    The estimate is the reference plus a preconditioned share of the state plus a learnt residual.
    """

    def __init__(self, bands: int, sizes: SceneSizes) -> None:
        super().__init__()
        self.bands = bands
        channels, factor = map_channels(bands) + 3 * bands, sizes.predictor_factor
        out = 2 * bands * factor * factor
        self.net = Trunk(channels, _TRAVELLING + 2, sizes.predictor, out, factor, sizes.dropout)

    @property
    def last(self) -> nn.ModuleList:
        """Layers after the trunk's last block."""
        return nn.ModuleList([self.net.head])

    def forward(self, x_t: Tensor, inputs: Inputs, reference: Belief, signal: Tensor, noise: Tensor) -> Belief:
        """Return the belief about the ground.

        Args:
            x_t: state `(batch, band, y, x)`.
            inputs: as given to the reference.
            reference: frozen.
            signal: `sqrt(abar_t)`, `(batch, 1, 1, 1)`.
            noise: `sqrt(1 - abar_t)`, likewise.
        """
        level = torch.cat([signal.flatten(1), noise.flatten(1)], dim=1)
        reduced = (x_t - signal * reference.mean) / noise.clamp_min(0.05)
        maps = torch.cat([compressed(inputs), reduced, squashed(reference.mean), reference.log_variance / 4], dim=1)
        raw = self.net(maps, torch.cat([travelling(inputs), level], dim=1)).float()
        raw = F.pixel_shuffle(raw, self.net.factor)
        change, log_variance = raw.chunk(2, dim=1)
        deviation = (0.5 * reference.log_variance).exp()
        return Belief(reference.mean + deviation * change, (reference.log_variance + log_variance).clamp(_LEAST, _MOST))


class SceneAllocation(nn.Module):
    """W, the reference's share, from both estimates and their variances; it starts at the inverse-variance rule."""

    def __init__(self, bands: int, sizes: SceneSizes) -> None:
        super().__init__()
        width = sizes.allocation
        self.factor, self.added = sizes.share_logit
        channels = 6 * bands + 6 + 2
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.third = nn.Conv2d(width, width, 3, padding=4, dilation=4)
        self.head = nn.Conv2d(width, bands, 1)
        _zero(self.head)

    def forward(
        self, x_t: Tensor, inputs: Inputs, reference: Belief, found: Belief, signal: Tensor, noise: Tensor
    ) -> Tensor:
        """Return W in 0..1, `(batch, band, y, x)`."""
        rule = found.log_variance - reference.log_variance
        ones = torch.ones_like(x_t[:, :1])
        image = inputs.visible * inputs.image.clamp(-10, 30)
        maps = torch.cat(
            [
                squashed(found.mean - reference.mean) * 2,
                squashed(reference.mean),
                squashed(found.mean),
                reference.log_variance / 4,
                found.log_variance / 4,
                squashed(image),
                inputs.classes,
                inputs.known,
                inputs.spread,
                signal * ones,
                noise * ones,
            ],
            dim=1,
        )
        h = F.silu(self.first(maps))
        h = h + F.silu(self.second(h))
        h = h + F.silu(self.third(h))
        return torch.sigmoid(self.factor * (rule + self.head(h)) + self.added)
