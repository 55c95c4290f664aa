"""Training cases drawn from an archive: real clouds on other clear ground, gaps of real shapes, real pairs.

A case depends on the archive, the seed and its number only, so that a training that was stopped goes on with the same
cases, whoever draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, zoom

from de_model.data.archive import Layer, Scene, matched
from de_model.scene.observation import FLOOR, Observation, SceneClass, levels_of, maps_of, thin_of

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Random = np.random.Generator
_Value = TypeVar("_Value", bound=np.generic)


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
        names = {s.info.name: s for s in self.scenes}
        self.pairs = [
            (s, names[s.info.name.removesuffix("_cloudy") + "_clear"])
            for s in self.scenes
            if s.info.name.endswith("_cloudy")
            and s.layer is not None
            and s.cloud.mean() > 0.05
            and s.info.name.removesuffix("_cloudy") + "_clear" in names
        ]
        places = [s.info.place for s in self.grounds]
        # Every place counts alike, its scenes by the root of their number.
        weight = np.array([places.count(p) ** -0.5 * (0.3 if "T29" in p else 1.0) for p in places])
        self.ground_weight = weight / weight.sum()
        self.series: dict[str, list[Scene]] = {}
        for scene in self.scenes:
            if scene.info.series:
                self.series.setdefault(scene.info.series, []).append(scene)

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
        rows, columns = (_window(length, side, random) for length in scene.classes.shape)
        valid = scene.clear[rows, columns]
        if valid.mean() < 0.6:
            return None
        turn = int(random.integers(8))
        truth, valid = _turned(scene.image[:, rows, columns], turn), _turned(valid, turn)
        dates = self._dates(scene, rows, columns, turn, random)
        if random.random() < m.changed:
            truth, dates = _changed(truth, dates, random)
        if not dates and random.random() < m.mixed:
            truth, valid = self._mixed(truth, valid, side, random)
        truth, dates = _jittered(truth, dates, random)
        nodata = ~_turned(scene.classes[rows, columns] != SceneClass.NODATA, turn)
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
        rows, columns = (_window(length, side, random) for length in other.classes.shape)
        seen = valid & other.clear[rows, columns]
        if seen.mean() < 0.6:
            return truth, valid
        image = other.image[:, rows, columns]
        own, its = (_spread_of(part, seen) for part in (truth, image))
        share = random.uniform(0.2, 0.7)
        added = (image - its[0]) * (own[1] / its[1])
        mixed = own[0] + np.sqrt(1 - share**2) * (truth - own[0]) + share * added
        return mixed.astype(np.float32), seen

    def _pair(self, random: Random) -> Case | None:
        cloudy, clear = self.pairs[int(random.integers(len(self.pairs)))]
        turn = int(random.integers(8))
        image, truth = _turned(cloudy.image, turn), _turned(clear.image, turn)
        both, _ = _jittered(np.concatenate([image, truth]), [], random, bands=len(image))
        image, truth = both[: len(image)], both[len(image) :]
        cloud = _varied(_turned(cloudy.cloud, turn), random)
        valid = _turned(clear.clear, turn)
        classes = np.where(cloud, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
        return self._finish(image, classes, truth, valid, cloud, [], cloudy.info.gsd_m, random, CaseKind.PAIR)

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
        rows, columns = (_window(length, span, random) for length in layer.opacity.shape)
        opacity = _fitted(layer.opacity[None, rows, columns], side)[0]
        path = _fitted(layer.path[:, rows, columns], side)
        mask = _fitted(layer.mask[None, rows, columns].astype(np.float32), side)[0] > 0.5
        return Layer(_turned(opacity, turn), _turned(path, turn), _turned(mask, turn))

    def _clouded(
        self, truth: FloatArray, side: int, random: Random
    ) -> tuple[FloatArray, NDArray[np.uint8], BoolArray] | None:
        """Return the ground below a real cloud, its classes, and what is hidden."""
        layer = self._layer(side, random)
        power = float(np.exp(random.normal(0, 0.5)))
        opacity = 1 - (1 - np.clip(layer.opacity, 0, 0.9999)) ** power
        path = layer.path * (opacity / np.maximum(layer.opacity, 1e-3)).clip(0, 3)
        mask = _varied(layer.mask & (opacity > 0.02), random)
        if not 0.02 < mask.mean() < 0.95:
            return None
        image, classes = truth, np.zeros((side, side), np.uint8)
        if random.random() < 0.7:
            light, dark = _shadow(opacity, side, random, len(truth))
            image = image * light
            if random.random() < 0.6:
                classes[dark] = SceneClass.SHADOW
        image = path + (1 - opacity) * image
        if random.random() < self.mixture.halo:
            image = _haloed(image, opacity, random)
        if random.random() < self.mixture.haze:
            image = _hazy(image, random)
        classes[mask] = SceneClass.THICK
        return image.astype(np.float32), classes, mask | (classes == SceneClass.SHADOW)

    def _dates(
        self, scene: Scene, rows: slice, columns: slice, turn: int, random: Random
    ) -> list[tuple[FloatArray, BoolArray, float]]:
        """Return other dates of the same window, nearest first, with what they saw and their days."""
        m = self.mixture
        others = [s for s in self.series.get(scene.info.series, []) if s is not scene and s.clear.mean() > 0.1]
        if others and random.random() < m.with_dates:
            others.sort(key=lambda s: abs(s.info.day - scene.info.day) + float(random.uniform(0, 25)))
            count = int(random.integers(1, 5))
            return [
                (
                    _turned(s.image[:, rows, columns], turn),
                    _turned(s.clear[rows, columns], turn),
                    float(abs(s.info.day - scene.info.day)),
                )
                for s in others[:count]
            ]
        if not others and random.random() < m.invented_dates:
            image = _turned(scene.image[:, rows, columns], turn)
            return [_invented(image, random) for _ in range(int(random.integers(1, 4)))]
        return []

    def _finish(
        self,
        image: FloatArray,
        classes: NDArray[np.uint8],
        truth: FloatArray,
        valid: BoolArray,
        hidden: BoolArray,
        dates: list[tuple[FloatArray, BoolArray, float]],
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


def composite_of(
    image: FloatArray,
    clear: BoolArray,
    dates: Sequence[tuple[FloatArray, BoolArray, float]],
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
    fitted = [(matched(d, image, clear & seen, at), seen[at]) for d, seen, _ in dates]
    total = np.zeros_like(fitted[0][0])
    squares, count = np.zeros(total.shape[1:], np.float32), np.zeros(total.shape[1:], np.float32)
    for other, seen in fitted:
        use = seen & (count < 2)
        first = use & (count == 1)
        squares[first] = np.abs(other - total)[:, first].mean(axis=0) / 2
        total[:, use] += other[:, use]
        count[use] += 1
    composite = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    spread = np.where(count > 1, squares, 0.02).astype(np.float32)
    nearest, seen = fitted[0]
    return composite, spread, np.where(seen, nearest, np.nan).astype(np.float32), dates[0][2]


def _window(length: int, side: int, random: Random) -> slice:
    start = int(random.integers(0, length - side + 1))
    return slice(start, start + side)


def _turned(image: NDArray[_Value], turn: int) -> NDArray[_Value]:
    """Return one of the eight orientations of `(..., y, x)`."""
    turned = np.rot90(image, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if turn >= 4 else turned)


def _fitted(image: FloatArray, side: int) -> FloatArray:
    """Return `(channel, y, x)` resampled to `side` pixels a side."""
    if image.shape[-1] == side and image.shape[-2] == side:
        return image
    factor = side / image.shape[-1]
    if factor < 1:
        step = round(1 / factor)
        return image[:, ::step, ::step][:, :side, :side]
    return zoom(image, (1, side / image.shape[-2], factor), order=1).astype(np.float32)


def _jittered(
    truth: FloatArray, dates: list[tuple[FloatArray, BoolArray, float]], random: Random, bands: int | None = None
) -> tuple[FloatArray, list[tuple[FloatArray, BoolArray, float]]]:
    """Return ground and dates with another brightness and colour, the same for all."""
    bands = bands or len(truth)
    gain = np.exp(random.normal(0, 0.10) + random.normal(0, 0.05, bands)).astype(np.float32).reshape(-1, 1, 1)
    offset = random.normal(0, 0.004, bands).astype(np.float32).reshape(-1, 1, 1)
    repeat = len(truth) // bands
    whole = truth * np.tile(gain, (repeat, 1, 1)) + np.tile(offset, (repeat, 1, 1))
    return whole, [(d * gain + offset, seen, days) for d, seen, days in dates]


def _varied(mask: BoolArray, random: Random) -> BoolArray:
    """Return a mask whose border lies further in or out, as masks differ."""
    choice = random.random()
    if choice < 0.4:
        return mask
    pixels = int(random.integers(1, 4))
    if choice < 0.65:
        return np.asarray(binary_erosion(mask, iterations=pixels))
    return np.asarray(binary_dilation(mask, iterations=pixels))


def _shadow(opacity: FloatArray, side: int, random: Random, bands: int) -> tuple[FloatArray, BoolArray]:
    """Return the light left below a shadow `(band, y, x)`, and where it is."""
    down, right = (int(random.integers(-40, 41)) for _ in range(2))
    cast = np.zeros_like(opacity)
    rows, columns = _overlap(side, down), _overlap(side, right)
    cast[rows[0], columns[0]] = opacity[rows[1], columns[1]]
    cast = gaussian_filter(cast, 1.0)
    depth = random.uniform(0.4, 0.75)
    blue_first = np.linspace(random.uniform(0.55, 0.9), 1.0, bands).reshape(-1, 1, 1)
    return (1 - depth * blue_first * cast).astype(np.float32), cast > 0.3


def _overlap(side: int, by: int) -> tuple[slice, slice]:
    """Return where a moved image lands, and where it comes from."""
    return slice(max(by, 0), side + min(by, 0)), slice(max(-by, 0), side + min(-by, 0))


def _spread_of(image: FloatArray, where: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return level and deviation per band, `(band, 1, 1)`."""
    low, middle, high = np.percentile(image[:, where][:, ::7], [16, 50, 84], axis=1).astype(np.float32)
    deviation = np.maximum((high - low) / 2, FLOOR)
    return middle.reshape(-1, 1, 1), deviation.reshape(-1, 1, 1)


def _changed(
    truth: FloatArray, dates: list[tuple[FloatArray, BoolArray, float]], random: Random
) -> tuple[FloatArray, list[tuple[FloatArray, BoolArray, float]]]:
    """Return ground and dates with other contrasts: bright or dark ground drawn out, bands mixed a little."""
    bands = len(truth)
    everywhere = np.ones(truth.shape[1:], bool)
    middle, deviation = _spread_of(truth, everywhere)
    bend = random.normal(0, 0.12) + random.normal(0, 0.06, (bands, 1, 1))
    mixing = np.eye(bands) + random.normal(0, 0.12, (bands, bands))

    def changed(image: FloatArray) -> FloatArray:
        z = np.clip((image - middle) / deviation, -8, 8)
        z = z * np.exp(np.clip(bend * z, -0.6, 0.6))
        z = np.tensordot(mixing, z, axes=1)
        return np.maximum(middle + deviation * z, 0.0).astype(np.float32)

    return changed(truth), [(changed(image), seen, days) for image, seen, days in dates]


def _haloed(image: FloatArray, opacity: FloatArray, random: Random) -> FloatArray:
    """Return the image with the light that clouds scatter, and their thin rims, around them."""
    bands = len(image)
    amount = float(min(random.exponential(0.08), 0.4))
    near = gaussian_filter(opacity, random.uniform(5, 30))
    colour = np.linspace(1.0, random.uniform(0.5, 0.95), bands).reshape(-1, 1, 1)
    haze = amount * near * colour
    return (image * (1 - haze) + 0.55 * haze).astype(np.float32)


def _hazy(image: FloatArray, random: Random) -> FloatArray:
    """Return the image below haze that covers clear ground too, stronger in blue."""
    bands, side = len(image), image.shape[-1]
    amount = float(random.exponential(0.05))
    field_ = gaussian_filter(random.standard_normal((side // 8 + 1, side // 8 + 1)), random.uniform(2, 8))
    field_ = zoom(field_, 8, order=1)[:side, :side]
    field_ = 1 + 0.5 * field_ / (np.abs(field_).max() + 1e-6)
    colour = np.linspace(1.0, random.uniform(0.5, 0.95), bands).reshape(-1, 1, 1)
    haze = np.clip(amount * field_ * colour, 0, 0.5)
    return (image * (1 - haze) + 0.55 * haze).astype(np.float32)


def _invented(image: FloatArray, random: Random) -> tuple[FloatArray, BoolArray, float]:
    """Return another date of an image: other light, fields that changed, its own gaps."""
    bands, side = len(image), image.shape[-1]
    days = float(random.integers(2, 60))
    strength = min(days / 60, 1.0)
    coarse = random.standard_normal((bands, side // 16 + 1, side // 16 + 1)).astype(np.float32)
    change = zoom(gaussian_filter(coarse, (0, 1, 1)), (1, 16, 16), order=1)[:, :side, :side]
    gain = np.exp(random.normal(0, 0.1, (bands, 1, 1))).astype(np.float32)
    middle = np.median(image, axis=(1, 2), keepdims=True)
    deviation = image.std(axis=(1, 2), keepdims=True)
    contrast = np.float32(np.exp(random.normal(0, 0.15)))
    other = middle + contrast * (image - middle) + deviation * (0.3 + strength) * change
    noise = 0.15 * deviation * random.standard_normal(image.shape).astype(np.float32)
    seen = np.ones((side, side), bool)
    if random.random() < 0.5:
        hole = gaussian_filter(random.standard_normal((side, side)), 12)
        seen = hole < np.quantile(hole, random.uniform(0.5, 1))
    return ((other + noise) * gain).astype(np.float32), seen, days


def _corner(wanted: BoolArray, size: int, random: Random) -> tuple[int, int] | None:
    """Return the corner of a patch that holds enough of what is wanted."""
    best, found = 0.0, None
    for _ in range(3):
        row, column = (int(random.integers(0, length - size + 1)) for length in wanted.shape)
        share = float(wanted[row : row + size, column : column + size].mean())
        if share > 0.05 and (found is None or abs(share - 0.5) < abs(best - 0.5)):
            best, found = share, (row, column)
    return found
