"""Real clouds on clear ground, and how ground, clouds and other dates of training cases are varied."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, zoom

from de_model.errors import InvalidModelInput
from de_model.scene.observation import FLOOR

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Random = np.random.Generator
_Value = TypeVar("_Value", bound=np.generic)

#: No cloud reflects more.
_BRIGHTEST = 1.5
#: Where the layer reflects more than this, what the sensor saw is cloud alone, and is copied.
_OPAQUE = 0.6
#: A shadow lets through at least this share of the light.
_DARKEST = 0.1
_SMALLEST_BACKGROUND = 64


def transplant(cloudy: FloatArray, cloud: BoolArray, clear: FloatArray, shadow: BoolArray | None = None) -> FloatArray:
    """Return the clear date under the cloudy date's clouds.

    An approximation, since the ground beneath the real cloud is unknown: it is taken to have the median
    spectrum s of the cloudy date's open ground. The layer's albedo R is then what explains the darkest
    band, `rho = R + (1 - R)^2 s`, where the ground contributes least, and

        cloud:  rho = rho_clear (1 - R)^2 + max(rho_cloudy - (1 - R)^2 s, 0);  rho_cloudy where R > 0.6
        shadow: rho = rho_clear E^g,  E = sum(rho_cloudy) / sum(s) over bands, 0.1 to 1

    where g is, band by band, how much more or less the shadows as a whole take from it than from the sum.
    Ground brighter or darker than the median thus leaves a trace in thin cloud and in shadow of the order of
    its deviation; pixels outside both masks are `clear`, bit for bit.

    Args:
        cloudy: reflectance `(band, y, x)` of the cloudy date, NaN where nodata.
        cloud: `(y, x)`, True where cloud is seen on the cloudy date.
        clear: reflectance `(band, y, x)` of the clear date, NaN where nodata.
        shadow: `(y, x)`, True where its shadow is seen; none when left out.

    Returns:
        Reflectance `(band, y, x)`, NaN where `clear` is, or where a masked pixel of `cloudy` is.

    Raises:
        InvalidModelInput: shapes differ, or the cloudy date shows too little open ground.
    """
    shadow = np.zeros_like(cloud) if shadow is None else shadow & ~cloud
    if cloudy.shape != clear.shape or cloud.shape != clear.shape[1:] or shadow.shape != cloud.shape:
        raise InvalidModelInput(
            f"Cloudy date {cloudy.shape}, clear date {clear.shape} and masks {cloud.shape}, {shadow.shape} "
            "differ in size."
        )
    ground = _open_ground(cloudy, cloud | shadow)
    darkest = int(ground.argmin())
    albedo = _albedo(cloudy[darkest], float(ground[darkest]))
    through = np.square(1 - albedo)
    path = np.maximum(cloudy - through * ground[:, None, None], 0)
    covered = np.where(albedo > _OPAQUE, cloudy, clear * through + path).clip(0, _BRIGHTEST)
    light = _shadow_light(cloudy, shadow, ground) if shadow.any() else np.ones_like(clear)
    result = np.where(cloud, covered, np.where(shadow, clear * light, clear))
    return np.where(np.isfinite(clear), result, np.nan).astype(np.float32)


def _open_ground(cloudy: FloatArray, hidden: BoolArray) -> FloatArray:
    """Return the median spectrum `(band,)` of what the cloudy date shows of the ground."""
    seen = ~hidden & np.isfinite(cloudy).all(axis=0)
    if seen.sum() < _SMALLEST_BACKGROUND:
        raise InvalidModelInput(
            f"The cloudy date shows {int(seen.sum())} px of open ground; {_SMALLEST_BACKGROUND} are needed to separate "
            "cloud from ground. Take a less cloudy date."
        )
    return np.median(cloudy[:, seen], axis=1).clip(1e-3, 1).astype(np.float32)


def _albedo(observed: FloatArray, ground: float) -> FloatArray:
    """Solve `observed = R + (1 - R)^2 ground` for R in [0, 1]."""
    # With T = 1 - R: ground T^2 - T + (1 - observed) = 0; the smaller root is the physical one.
    root = np.sqrt(np.maximum(1 - 4 * ground * (1 - observed), 0))
    return (1 - (1 - root) / (2 * ground)).clip(0, 1).astype(np.float32)


def _shadow_light(cloudy: FloatArray, shadow: BoolArray, ground: FloatArray) -> FloatArray:
    """Return the share of light `(band, y, x)` that reaches shaded ground: a darkness per pixel, one colour."""
    light = (cloudy.sum(axis=0) / ground.sum()).clip(_DARKEST, 1)
    typical = (np.nanmedian(cloudy[:, shadow], axis=1) / ground).clip(_DARKEST, 0.99)
    overall = np.log(np.nanmedian(light[shadow]).clip(_DARKEST, 0.99))
    return light ** (np.log(typical) / overall)[:, None, None]


class OtherDate(NamedTuple):
    """The same ground on another day."""

    image: FloatArray
    #: Where the ground was seen.
    seen: BoolArray
    #: Days between the two.
    days: float


def random_span(length: int, side: int, random: Random) -> slice:
    """Return `side` of `length` pixels, anywhere."""
    start = int(random.integers(0, length - side + 1))
    return slice(start, start + side)


def turned(image: NDArray[_Value], turn: int) -> NDArray[_Value]:
    """Return one of the eight orientations of `(..., y, x)`."""
    turned = np.rot90(image, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if turn >= 4 else turned)


def fitted(image: FloatArray, side: int) -> FloatArray:
    """Return `(channel, y, x)` resampled to `side` pixels a side."""
    if image.shape[-1] == side and image.shape[-2] == side:
        return image
    factor = side / image.shape[-1]
    if factor < 1:
        step = round(1 / factor)
        return image[:, ::step, ::step][:, :side, :side]
    return zoom(image, (1, side / image.shape[-2], factor), order=1).astype(np.float32)


def jittered(
    truth: FloatArray, dates: list[OtherDate], random: Random, bands: int | None = None
) -> tuple[FloatArray, list[OtherDate]]:
    """Return ground and dates with another brightness and colour, the same for all."""
    bands = bands or len(truth)
    gain = np.exp(random.normal(0, 0.10) + random.normal(0, 0.05, bands)).astype(np.float32).reshape(-1, 1, 1)
    offset = random.normal(0, 0.004, bands).astype(np.float32).reshape(-1, 1, 1)
    repeat = len(truth) // bands
    whole = truth * np.tile(gain, (repeat, 1, 1)) + np.tile(offset, (repeat, 1, 1))
    return whole, [d._replace(image=d.image * gain + offset) for d in dates]


def varied(mask: BoolArray, random: Random) -> BoolArray:
    """Return a mask whose border lies further in or out, as masks differ."""
    choice = random.random()
    if choice < 0.4:
        return mask
    pixels = int(random.integers(1, 4))
    if choice < 0.65:
        return np.asarray(binary_erosion(mask, iterations=pixels))
    return np.asarray(binary_dilation(mask, iterations=pixels))


def shadow(opacity: FloatArray, side: int, random: Random, bands: int) -> tuple[FloatArray, BoolArray]:
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


def spread_of(image: FloatArray, where: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return level and deviation per band, `(band, 1, 1)`."""
    low, middle, high = np.percentile(image[:, where][:, ::7], [16, 50, 84], axis=1).astype(np.float32)
    deviation = np.maximum((high - low) / 2, FLOOR)
    return middle.reshape(-1, 1, 1), deviation.reshape(-1, 1, 1)


def changed(truth: FloatArray, dates: list[OtherDate], random: Random) -> tuple[FloatArray, list[OtherDate]]:
    """Return ground and dates with other contrasts: bright or dark ground drawn out, bands mixed a little."""
    bands = len(truth)
    everywhere = np.ones(truth.shape[1:], bool)
    middle, deviation = spread_of(truth, everywhere)
    bend = random.normal(0, 0.12) + random.normal(0, 0.06, (bands, 1, 1))
    mixing = np.eye(bands) + random.normal(0, 0.12, (bands, bands))

    def contrasted(image: FloatArray) -> FloatArray:
        z = np.clip((image - middle) / deviation, -8, 8)
        z = z * np.exp(np.clip(bend * z, -0.6, 0.6))
        z = np.tensordot(mixing, z, axes=1)
        return np.maximum(middle + deviation * z, 0.0).astype(np.float32)

    return contrasted(truth), [d._replace(image=contrasted(d.image)) for d in dates]


def haloed(image: FloatArray, opacity: FloatArray, random: Random) -> FloatArray:
    """Return the image with the light that clouds scatter, and their thin rims, around them."""
    bands = len(image)
    amount = float(min(random.exponential(0.08), 0.4))
    near = gaussian_filter(opacity, random.uniform(5, 30))
    colour = np.linspace(1.0, random.uniform(0.5, 0.95), bands).reshape(-1, 1, 1)
    haze = amount * near * colour
    return (image * (1 - haze) + 0.55 * haze).astype(np.float32)


def hazy(image: FloatArray, random: Random) -> FloatArray:
    """Return the image below haze that covers clear ground too, stronger in blue."""
    bands, side = len(image), image.shape[-1]
    amount = float(random.exponential(0.05))
    field_ = gaussian_filter(random.standard_normal((side // 8 + 1, side // 8 + 1)), random.uniform(2, 8))
    field_ = zoom(field_, 8, order=1)[:side, :side]
    field_ = 1 + 0.5 * field_ / (np.abs(field_).max() + 1e-6)
    colour = np.linspace(1.0, random.uniform(0.5, 0.95), bands).reshape(-1, 1, 1)
    haze = np.clip(amount * field_ * colour, 0, 0.5)
    return (image * (1 - haze) + 0.55 * haze).astype(np.float32)


def invented(image: FloatArray, random: Random) -> OtherDate:
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
    return OtherDate(((other + noise) * gain).astype(np.float32), seen, days)
