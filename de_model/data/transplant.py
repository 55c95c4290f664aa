"""Real clouds on clear ground: shape and light of a cloudy date over a clear date, which then is the exact truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

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
