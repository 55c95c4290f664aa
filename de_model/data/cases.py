"""Training cases drawn from an archive: real clouds on other clear ground, gaps of real shapes, real pairs.

A case depends on the archive, the seed and its number only, so that a training that was stopped goes on with the same
cases, whoever draws them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from de_model.data.archive import Layer, Scene, matched
from de_model.data.variation import (
    OtherDate,
    changed,
    fitted,
    haloed,
    hazy,
    invented,
    jittered,
    random_span,
    shadow,
    spread_of,
    turned,
    varied,
)
from de_model.scene.observation import Observation, SceneClass, levels_of, maps_of, thin_of

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Random = np.random.Generator


#: Shares of cloud of the cloudy date of a pair, least share of clear ground of the other, days between, and pixels that
#: both show.
_CLOUDY, _CLEAR, _PAIR_DAYS, _FEWEST_SHARED = (0.05, 0.9), 0.8, 40, 1000
#: Share of hidden pixels below which a window of a pair shows nothing.
_LEAST_HIDDEN = 0.02
#: Batches that a worker draws ahead.
_AHEAD = 4
_MOST_WORKERS = 8
#: Fewer batches are drawn in the process itself: workers take seconds to start.
_WORTH_WORKERS = 64


class CaseKind(StrEnum):
    """What hides the ground of a case."""

    #: A real cloud of another scene, with a shadow.
    TRANSPLANT = "transplant"
    #: A hole of a cloud's shape: nothing is seen inside, all around is clear.
    GAP = "gap"
    #: A cloudy and a clear image of the same ground.
    PAIR = "pair"


@dataclass(frozen=True, slots=True)
class CaseMixture:
    """How often each kind of case is drawn, and what is varied."""

    transplant: float = 0.58
    gap: float = 0.34
    pair: float = 0.08
    #: Share of cases of a series that are given other dates.
    with_dates: float = 0.75
    #: Share of cases without a series that are given an invented other date.
    invented_dates: float = 0.12
    #: Share of transplants over which haze lies that the mask does not know.
    haze: float = 0.45
    #: Share of transplants whose clouds go on, ever thinner, outside of the mask.
    halo: float = 0.5
    #: Share of cases whose ground is changed in contrast, and mixed with that of another scene.
    changed: float = 0.5
    mixed: float = 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs and truth of one patch."""

    maps: FloatArray
    numbers: FloatArray
    #: Standardised reflectance `(band, y, x)`.
    truth: FloatArray
    #: Pixels that are hidden and whose truth is known `(y, x)`.
    wanted: BoolArray
    #: Pixels whose truth is known.
    valid: BoolArray
    kind: CaseKind


@dataclass(frozen=True, slots=True)
class Pair:
    """A cloudy date and a clear one of the same ground."""

    cloudy: Scene
    clear: Scene
    #: What the clear date shows, in the radiometry of the cloudy one, `(band, y, x)`.
    truth: FloatArray

    @property
    def name(self) -> str:
        """The pair in one line."""
        return f"{self.cloudy.info.name} <- {self.clear.info.name}"


@dataclass
class CaseSource:
    """Draws cases of `size` pixels from the scenes of an archive."""

    scenes: Sequence[Scene]
    size: int = 128
    seed: int = 0
    mixture: CaseMixture = field(default_factory=CaseMixture)
    #: Side of the window whose clear ground gives the levels.
    window: int = 256
    #: Names of the scenes whose ground is shown; the others lend clouds and other dates. Empty for all.
    shown: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        shown = [s for s in self.scenes if not self.shown or s.info.name in self.shown]
        self.grounds = [s for s in shown if s.clear.sum() > 8000 and min(s.classes.shape) >= self.size + 16]
        self.layers = [s.layer for s in self.scenes if s.layer is not None]
        # Every place counts alike, its scenes by the root of their number.
        self.ground_weight = _weights([s.info.place for s in self.grounds])
        self.series: dict[str, list[Scene]] = defaultdict(list)
        for scene in self.scenes:
            if scene.info.series:
                self.series[scene.info.series].append(scene)
        self.pairs = _pairs_of(self.series.values()) if self.mixture.pair else []
        self.pair_weight = _weights([pair.cloudy.info.place for pair in self.pairs])

    def case(self, number: int) -> Case:
        """Return case `number`; the same at every call."""
        random = np.random.default_rng((self.seed, number))
        while True:
            found = self._draw(random)
            if found is not None:
                return found

    def _draw(self, random: Random) -> Case | None:
        m = self.mixture
        pair = m.pair if self.pairs else 0.0
        kind = random.choice(list(CaseKind), p=np.array([m.transplant, m.gap, pair]) / (m.transplant + m.gap + pair))
        if kind == CaseKind.PAIR:
            return self._pair(random)
        scene = self.grounds[int(random.choice(len(self.grounds), p=self.ground_weight))]
        side = min(self.window, *scene.classes.shape)
        rows, columns = (random_span(length, side, random) for length in scene.classes.shape)
        valid = scene.clear[rows, columns]
        if valid.mean() < 0.6:
            return None
        turn = int(random.integers(8))
        truth, valid = turned(scene.image[:, rows, columns], turn), turned(valid, turn)
        dates = self._dates(scene, rows, columns, turn, random)
        if random.random() < m.changed:
            truth, dates = changed(truth, dates, random)
        if not dates and random.random() < m.mixed:
            truth, valid = self._mixed(truth, valid, side, random)
        truth, dates = jittered(truth, dates, random)
        nodata = ~turned(scene.classes[rows, columns] != SceneClass.NODATA, turn)
        if kind == CaseKind.GAP:
            hidden = self._gap(side, random)
            if hidden is None:
                return None
            classes = np.where(hidden, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
            image = truth
        else:
            laid = self._clouded(truth, side, random)
            if laid is None:
                return None
            image, classes, hidden = laid
        classes[~valid] = SceneClass.THICK
        classes[nodata] = SceneClass.NODATA
        return self._finish(image, classes, truth, valid, hidden, dates, scene.info.gsd_m, random, CaseKind(kind))

    def _mixed(self, truth: FloatArray, valid: BoolArray, side: int, random: Random) -> tuple[FloatArray, BoolArray]:
        """Return the ground with some of another scene's laid over it, and what is known of both."""
        other = self.grounds[int(random.choice(len(self.grounds), p=self.ground_weight))]
        if min(other.classes.shape) < side:
            return truth, valid
        rows, columns = (random_span(length, side, random) for length in other.classes.shape)
        seen = valid & other.clear[rows, columns]
        if seen.mean() < 0.6:
            return truth, valid
        image = other.image[:, rows, columns]
        own, its = (spread_of(part, seen) for part in (truth, image))
        share = random.uniform(0.2, 0.7)
        added = (image - its[0]) * (own[1] / its[1])
        mixed = own[0] + np.sqrt(1 - share**2) * (truth - own[0]) + share * added
        return mixed.astype(np.float32), seen

    def _pair(self, random: Random) -> Case | None:
        pair = self.pairs[int(random.choice(len(self.pairs), p=self.pair_weight))]
        own, side = pair.cloudy.classes, min(self.window, *pair.cloudy.classes.shape)
        rows, columns = (random_span(length, side, random) for length in own.shape)
        turn = int(random.integers(8))
        image, truth = (turned(each[:, rows, columns], turn) for each in (pair.cloudy.image, pair.truth))
        both, _ = jittered(np.concatenate([image, truth]), [], random, bands=len(image))
        image, truth = both[: len(image)], both[len(image) :]
        own = turned(own[rows, columns], turn)
        cloud, dark, nodata = (
            varied(own == SceneClass.THICK, random),
            own == SceneClass.SHADOW,
            own == SceneClass.NODATA,
        )
        classes = np.where(cloud, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
        classes[dark & ~cloud] = SceneClass.SHADOW
        classes[nodata] = SceneClass.NODATA
        valid, hidden = turned(pair.clear.clear[rows, columns], turn) & ~nodata, cloud | dark
        if hidden.mean() < _LEAST_HIDDEN:
            return None
        return self._finish(image, classes, truth, valid, hidden, [], pair.cloudy.info.gsd_m, random, CaseKind.PAIR)

    def _gap(self, side: int, random: Random) -> BoolArray | None:
        """Return the shape of one or two clouds, or a strip as at the edge of a swath."""
        if random.random() < 0.08:
            y, x = np.mgrid[:side, :side] / side - 0.5
            angle = random.uniform(0, np.pi)
            return np.asarray(np.cos(angle) * x + np.sin(angle) * y > random.uniform(0.0, 0.35))
        hidden = self._layer(side, random).opacity > random.uniform(0.1, 0.5)
        if random.random() < 0.4:
            hidden &= self._layer(side, random).opacity > 0.15
        if random.random() < 0.5:
            hidden = binary_dilation(hidden, iterations=int(random.integers(1, 6)))
        share = hidden.mean()
        return hidden if 0.01 < share < 0.85 else None

    def _layer(self, side: int, random: Random) -> Layer:
        """Return a window of a real cloud, turned, and enlarged where it is too small."""
        layer = self.layers[int(random.integers(len(self.layers)))]
        turn, factor = int(random.integers(8)), 1.0
        least = min(layer.opacity.shape)
        if least < side:
            factor = side / least
        elif least >= 2 * side and random.random() < 0.5:
            factor = 0.5
        span = min(int(np.ceil(side / factor)), least)
        rows, columns = (random_span(length, span, random) for length in layer.opacity.shape)
        opacity = fitted(layer.opacity[None, rows, columns], side)[0]
        path = fitted(layer.path[:, rows, columns], side)
        mask = fitted(layer.mask[None, rows, columns].astype(np.float32), side)[0] > 0.5
        return Layer(turned(opacity, turn), turned(path, turn), turned(mask, turn))

    def _clouded(
        self, truth: FloatArray, side: int, random: Random
    ) -> tuple[FloatArray, NDArray[np.uint8], BoolArray] | None:
        """Return the ground below a real cloud, its classes, and what is hidden."""
        layer = self._layer(side, random)
        power = float(np.exp(random.normal(0, 0.5)))
        opacity = 1 - (1 - np.clip(layer.opacity, 0, 0.9999)) ** power
        path = layer.path * (opacity / np.maximum(layer.opacity, 1e-3)).clip(0, 3)
        mask = varied(layer.mask & (opacity > 0.02), random)
        if not 0.02 < mask.mean() < 0.95:
            return None
        image, classes = truth, np.zeros((side, side), np.uint8)
        if random.random() < 0.7:
            light, dark = shadow(opacity, side, random, len(truth))
            image = image * light
            if random.random() < 0.6:
                classes[dark] = SceneClass.SHADOW
        image = path + (1 - opacity) * image
        if random.random() < self.mixture.halo:
            image = haloed(image, opacity, random)
        if random.random() < self.mixture.haze:
            image = hazy(image, random)
        classes[mask] = SceneClass.THICK
        return image.astype(np.float32), classes, mask | (classes == SceneClass.SHADOW)

    def _dates(self, scene: Scene, rows: slice, columns: slice, turn: int, random: Random) -> list[OtherDate]:
        """Return other dates of the same window, nearest first, with what they saw and their days."""
        m = self.mixture
        others = [s for s in self.series.get(scene.info.series, []) if s is not scene and s.clear.mean() > 0.1]
        if others and random.random() < m.with_dates:
            others.sort(key=lambda s: abs(s.info.day - scene.info.day) + float(random.uniform(0, 25)))
            count = int(random.integers(1, 5))
            return [
                OtherDate(
                    turned(s.image[:, rows, columns], turn),
                    turned(s.clear[rows, columns], turn),
                    float(abs(s.info.day - scene.info.day)),
                )
                for s in others[:count]
            ]
        if not others and random.random() < m.invented_dates:
            image = turned(scene.image[:, rows, columns], turn)
            return [invented(image, random) for _ in range(int(random.integers(1, 4)))]
        return []

    def _finish(
        self,
        image: FloatArray,
        classes: NDArray[np.uint8],
        truth: FloatArray,
        valid: BoolArray,
        hidden: BoolArray,
        dates: list[OtherDate],
        gsd_m: float,
        random: Random,
        kind: CaseKind,
    ) -> Case | None:
        """Standardise, look at the dates, and cut the patch out."""
        levels = levels_of(image, classes)
        if levels.clear_share < 0.01 and random.random() < 0.8:
            return None
        cloud = classes == SceneClass.THICK
        if kind != CaseKind.GAP:
            classes[thin_of(image, cloud & valid, levels)] = SceneClass.THIN
        corner = _corner(hidden & valid, self.size, random)
        if corner is None:
            return None
        at = (slice(corner[0], corner[0] + self.size), slice(corner[1], corner[1] + self.size))
        composite = spread = date = None
        days = 0.0
        if dates:
            composite, spread, date, days = composite_of(image, classes == SceneClass.CLEAR, dates, at)
        seen = Observation(
            image[:, *at],
            classes[at],
            composite,
            spread,
            None if random.random() < 0.3 else date,
            days,
            gsd_m,
        )
        maps, numbers = maps_of(seen, levels)
        wanted = (hidden & valid)[at]
        return Case(maps, numbers, levels.standardised(truth[:, *at]), wanted, valid[at], kind)


def _pairs_of(series: Iterable[Sequence[Scene]]) -> list[Pair]:
    """Return the pairs of all series: a date that is cloudy in part, and a clear one of the days around."""
    found = []
    for scenes in series:
        for cloudy in (s for s in scenes if _CLOUDY[0] < s.cloud.mean() < _CLOUDY[1]):
            for clear in (s for s in scenes if s is not cloudy and s.clear.mean() >= _CLEAR):
                both = cloudy.clear & clear.clear
                if abs(clear.info.day - cloudy.info.day) <= _PAIR_DAYS and both.sum() >= _FEWEST_SHARED:
                    found.append(Pair(cloudy, clear, matched(clear.image, cloudy.image, both)))
    return found


def composite_of(
    image: FloatArray,
    clear: BoolArray,
    dates: Sequence[OtherDate],
    at: tuple[slice, slice] = (slice(None), slice(None)),
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return composite, spread, nearest date (all NaN where nothing was seen) and its days.

    The composite is the mean of the nearest two dates that saw a pixel, each in the radiometry of the image.

    Args:
        image: reflectance `(band, y, x)`.
        clear: what it shows of the ground.
        dates: images, what they saw, days; nearest first.
        at: the window that is wanted; all pixels make the fits.
    """
    own = [(matched(d.image, image, clear & d.seen, at), d.seen[at]) for d in dates]
    total = np.zeros_like(own[0][0])
    squares, count = np.zeros(total.shape[1:], np.float32), np.zeros(total.shape[1:], np.float32)
    for other, seen in own:
        use = seen & (count < 2)
        first = use & (count == 1)
        squares[first] = np.abs(other - total)[:, first].mean(axis=0) / 2
        total[:, use] += other[:, use]
        count[use] += 1
    composite = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    spread = np.where(count > 1, squares, 0.02).astype(np.float32)
    nearest, seen = own[0]
    return composite, spread, np.where(seen, nearest, np.nan).astype(np.float32), dates[0].days


def _weights(places: Sequence[str]) -> NDArray[np.float64]:
    """Return how often each of some things is drawn, by its place: the root of how many there are counts."""
    weight = np.array([places.count(place) ** -0.5 for place in places])
    return weight / weight.sum()


def _corner(wanted: BoolArray, size: int, random: Random) -> tuple[int, int] | None:
    """Return the corner of a patch that holds enough of what is wanted."""
    best, found = 0.0, None
    for _ in range(3):
        row, column = (int(random.integers(0, length - size + 1)) for length in wanted.shape)
        share = float(wanted[row : row + size, column : column + size].mean())
        if share > 0.05 and (found is None or abs(share - 0.5) < abs(best - 0.5)):
            best, found = share, (row, column)
    return found


class Batch(NamedTuple):
    """Several cases."""

    #: `(batch, map, y, x)` and `(batch, number)`, as the networks take them.
    maps: Tensor
    numbers: Tensor
    #: Standardised reflectance `(batch, band, y, x)`.
    truth: Tensor
    #: Hidden pixels whose truth is known, and all whose truth is known, `(batch, 1, y, x)`.
    wanted: Tensor
    valid: Tensor


class CaseStream:
    """Batches of fresh cases, drawn by worker processes; what a batch holds depends on its number alone.

    Args:
        source: draws case 0, 1, ...
        workers: processes; None for one fewer than there are processors.
    """

    def __init__(self, source: CaseSource, workers: int | None = None) -> None:
        self.source = source
        own = len(os.sched_getaffinity(0)) - 1
        self.workers = min(own, _MOST_WORKERS) if workers is None else workers

    def batches(self, first: int, last: int, size: int) -> Iterator[Batch]:
        """Yield batch `first` to `last - 1`, each of `size` cases."""
        workers = self.workers if last - first >= _WORTH_WORKERS else 0
        loader: DataLoader[Batch] = DataLoader(
            _Batches(self.source, size),
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            # A copy of a process that runs a flow would inherit its threads' locks, and ends with an error.
            multiprocessing_context="forkserver" if workers else None,
        )
        yield from loader


class _Batches(Dataset[Batch]):
    def __init__(self, source: CaseSource, size: int) -> None:
        self.source, self.size = source, size

    def __getitem__(self, number: int) -> Batch:
        cases = [self.source.case(number * self.size + index) for index in range(self.size)]
        return Batch(
            _joined([case.maps for case in cases]),
            _joined([case.numbers for case in cases]),
            _joined([case.truth for case in cases]),
            _joined([case.wanted[None] for case in cases]),
            _joined([case.valid[None] for case in cases]),
        )


def _joined(arrays: list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
