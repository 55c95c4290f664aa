"""Synthetic clouds: a cloudy view of a clear scene, of which the truth is known exactly.

One layer of optical thickness tau over ground of reflectance rho_s (adding method for a non-absorbing layer
over a Lambertian surface; Liou 2002, section 6.4):

    R(tau) = 0.13 tau / (1 + 0.13 tau), T = 1 - R        two-stream cloud albedo, g = 0.85 (Lacis & Hansen 1974)
    tau(lambda) = tau_550 (lambda / 550 nm)^-alpha       alpha 0: water droplets and ice; 1 to 1.5: haze
    rho = c R + E T rho_s / (1 - rho_s R)                c: colour of the cloud's light, near 1; less in the SWIR
    E = 1 - (1 - d) R(tau')                              d: diffuse share; tau': where the sun's ray meets the layer

For a layer on the ground E is T up to the diffuse share, and the classic `rho_s T^2 + rho_c (1 - T)` remains.
For a layer at height h, tau' lies h tan(sza) towards the sun: E draws the shadow. Detector lines of a pushbroom
sensor see a layer at height h displaced along the track, band by band.
Pixels that neither cloud nor shadow touches are returned bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from de_model.data.fractal import FractalField, Texture
from de_model.data.spectra import REFERENCE_NM, BandOptics, optics_of
from de_model.errors import InvalidModelInput

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Two-stream albedo: (1 - g) sqrt(3) / 2 for g = 0.85.
_BACKSCATTER = 0.13
#: Thinner than this is no cloud: it adds less than 0.003 to the reflectance.
_THINNEST = 0.02
#: Thicker than this is thick cloud (ISCCP's bound between cirrus and cirrostratus; Rossow & Schiffer 1999).
THICK = 3.6
#: Angle between the first and the last detector line of Sentinel-2 MSI, radian, and their delay, s.
_PARALLAX_RAD, _LAST_DELAY_S = 0.022, 2.586
#: Azimuth of Sentinel-2's descending track, degrees.
_TRACK_DEG = 194.0
#: Blur of the ground beneath cloud, metres, where all of its light is scattered (adjacency).
_ADJACENCY_M = 150.0
#: Reflectance of the brightest sunlit cloud side; Sen2Cor's clouds reach it.
BRIGHTEST = 1.5
_SMALLEST_PX = 8


@dataclass(frozen=True, slots=True)
class Sun:
    """Where the sun stands, degrees: zenith angle 0 to below 85, azimuth clockwise from north."""

    zenith_deg: float
    azimuth_deg: float

    def __post_init__(self) -> None:
        if not 0 <= self.zenith_deg < 85:
            raise InvalidModelInput(
                f"A sun zenith angle of {self.zenith_deg} degrees casts no usable shadow; give 0-85."
            )


@dataclass(frozen=True, slots=True)
class CloudLayer:
    """One layer of cloud or haze."""

    texture: Texture
    #: Share of the window that it covers, 0 to 1.
    coverage: float
    #: Optical thickness at 550 nm one deviation of the texture inside the edge.
    thickness: float
    #: Thickness rises from the edge with this power of the texture: below 1 steep sides, above 1 soft ones.
    profile: float
    #: Height above ground, metres.
    height_m: float
    #: Exponent alpha of the thickness's fall with wavelength.
    angstrom: float = 0.0
    #: Brightness c of its light at 550 nm, 1 for a white Lambertian layer, and exponent of its fall with wavelength.
    brightness: float = 1.0
    blueness: float = 0.0
    #: Contrast between the sunlit and the far side of its elements, 0 to 1.
    relief: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.coverage <= 1:
            raise InvalidModelInput(f"Cloud coverage {self.coverage} is not a share; give 0 to 1.")
        if min(self.thickness, self.profile, self.height_m, self.brightness) < 0 or not 0 <= self.relief <= 1:
            raise InvalidModelInput(f"Cloud layer {self} has a negative quantity or a relief beyond 1.")


@dataclass(frozen=True, slots=True)
class CloudParameters:
    """The sky over one scene."""

    #: In any order; the lowest is applied first.
    layers: tuple[CloudLayer, ...]
    #: Noise of the sensor where cloud or shadow changed the light: standard deviation at reflectance 0 and 1.
    noise: tuple[float, float] = (0.0005, 0.003)


@dataclass(frozen=True, slots=True)
class CloudyScene:
    """A clear scene under synthetic clouds. Masks and tau are `(y, x)` and exclude each other."""

    #: Reflectance `(band, y, x)`, NaN where the clear scene is.
    reflectance: FloatArray
    thin: BoolArray
    thick: BoolArray
    shadow: BoolArray
    #: Optical thickness at 550 nm, all layers together, as the first band sees it.
    tau: FloatArray

    @property
    def cloud(self) -> BoolArray:
        """True where any band sees cloud."""
        return self.thin | self.thick

    @property
    def obscured(self) -> BoolArray:
        """True where cloud or shadow changed any band."""
        return self.thin | self.thick | self.shadow


def cloud_albedo(tau: FloatArray) -> FloatArray:
    """Return the share of light that a layer of optical thickness `tau` reflects; any shape."""
    return (_BACKSCATTER * tau / (1 + _BACKSCATTER * tau)).astype(np.float32)


def shadow_offset(height_m: float, sun: Sun, gsd_m: float) -> tuple[float, float]:
    """Return how far down and right, px, the shadow lies from the cloud; north is up."""
    length = height_m * math.tan(math.radians(sun.zenith_deg)) / gsd_m
    azimuth = math.radians(sun.azimuth_deg)
    return length * math.cos(azimuth), -length * math.sin(azimuth)


def parallax_offset(height_m: float, delay_s: float, gsd_m: float) -> tuple[float, float]:
    """Return how far down and right, px, a band with this delay sees a cloud from where the first band does."""
    length = height_m * _PARALLAX_RAD * delay_s / _LAST_DELAY_S / gsd_m
    track = math.radians(_TRACK_DEG)
    return -length * math.cos(track), length * math.sin(track)


def add_clouds(
    clear: FloatArray, bands: Sequence[str], gsd_m: float, sun: Sun, parameters: CloudParameters, seed: int
) -> CloudyScene:
    """Return the scene as it would look under clouds; the same arguments give the same bytes.

    Args:
        clear: surface reflectance `(band, y, x)`, NaN where nodata; north is up.
        bands: common names, in the order of `clear`.
        gsd_m: pixel size, metres.
        sun: where it stands.
        parameters: layers and noise.
        seed: of texture and noise.

    Raises:
        InvalidModelInput: a band is unknown, or shape and bands do not fit.
    """
    if clear.ndim != 3 or len(clear) != len(bands) or min(clear.shape[1:]) < _SMALLEST_PX or not gsd_m > 0:
        raise InvalidModelInput(
            f"Clouds need an image (band, y, x) of at least {_SMALLEST_PX} px with {len(bands)} bands and a positive "
            f"pixel size; got shape {clear.shape} and {gsd_m} m."
        )
    random = np.random.default_rng(seed)
    optics = [optics_of(band) for band in bands]
    image = clear.astype(np.float32)
    height, width = clear.shape[1:]
    tau = np.zeros((height, width), np.float32)
    cloud, shadow = np.zeros(tau.shape, bool), np.zeros(tau.shape, bool)
    for layer in sorted(parameters.layers, key=lambda each: each.height_m):
        sky = _Sky(layer, FractalField((height, width), gsd_m, layer.texture, random), gsd_m, sun)
        cast = sky.tau(*shadow_offset(layer.height_m, sun, gsd_m))
        layers = [_apply(image[i], sky, cast, band) for i, band in enumerate(optics)]
        image = np.stack([part.reflectance for part in layers])
        cloud |= np.any([part.cloud for part in layers], axis=0)
        shadow |= np.any([part.shadow for part in layers], axis=0)
        tau += sky.tau()
    touched = cloud | shadow
    image = np.where(touched, _with_noise(image, parameters.noise, random), clear).astype(np.float32)
    thick = cloud & (tau >= THICK)
    return CloudyScene(image, cloud & ~thick, thick, shadow & ~cloud, tau)


class _Sky:
    """One layer's optical thickness, wherever it is looked at from."""

    def __init__(self, layer: CloudLayer, field: FractalField, gsd_m: float, sun: Sun) -> None:
        self.layer, self.gsd_m, self.sun = layer, gsd_m, sun
        self._field = field
        still = field.values()
        # Below the lowest value when everything is covered: quantile 0 itself would leave one pixel out.
        self._edge = float(np.quantile(still, 1 - layer.coverage)) - (1e-3 if layer.coverage == 1 else 0)

    def tau(self, down_px: float = 0.0, right_px: float = 0.0) -> FloatArray:
        """Return optical thickness at 550 nm `(y, x)`, the layer moved down and right; 0 where there is no cloud."""
        if self.layer.coverage == 0:
            return np.zeros(self._field.shape, np.float32)
        inside = self._field.values(down_px, right_px) - np.float32(self._edge)
        thickness = _THINNEST + self.layer.thickness * np.maximum(inside, 0) ** self.layer.profile
        return np.where(inside > 0, thickness, 0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _BandView:
    reflectance: FloatArray
    cloud: BoolArray
    shadow: BoolArray


def _apply(ground: FloatArray, sky: _Sky, towards_sun: FloatArray, band: BandOptics) -> _BandView:
    """Return one band `(y, x)` under one layer, which is `towards_sun` thick (550 nm) where the sun's rays meet it."""
    layer = sky.layer
    if layer.height_m < band.floor_m:
        nowhere = np.zeros(ground.shape, bool)
        return _BandView(ground, nowhere, nowhere)
    scale = band.wavelength_nm / REFERENCE_NM
    spectral = np.float32(scale**-layer.angstrom)
    seen = cloud_albedo(sky.tau(*parallax_offset(layer.height_m, band.delay_s, sky.gsd_m)) * spectral)
    cast = cloud_albedo(towards_sun * spectral)
    light = 1 - np.float32(1 - band.diffuse_share) * cast
    colour = np.float32(layer.brightness * band.cloud_colour * scale**-layer.blueness)
    below = _blurred_beneath(ground, seen, sky.gsd_m)
    path = colour * seen * _sunlit(seen, sky)
    through = light * (1 - seen) * below / (1 - np.clip(below, 0, 1) * seen)
    return _BandView(np.minimum(path + through, BRIGHTEST), seen > 0, cast > 0)


def _sunlit(albedo: FloatArray, sky: _Sky) -> FloatArray | float:
    """Return the factor by which slopes towards the sun are brighter and those away from it darker."""
    if sky.layer.relief == 0:
        return 1.0
    azimuth = math.radians(sky.sun.azimuth_deg)
    down, right = np.gradient(gaussian_filter(albedo, 0.7))
    # A slope that faces the sun falls towards it; -y is north.
    towards_sun = -down * math.cos(azimuth) + right * math.sin(azimuth)
    strength = sky.layer.relief * math.tan(math.radians(min(sky.sun.zenith_deg, 60.0)))
    return (1 - np.clip(2 * strength * towards_sun, -0.35, 0.35)).astype(np.float32)


def _blurred_beneath(ground: FloatArray, albedo: FloatArray, gsd_m: float) -> FloatArray:
    """Return the ground, the more blurred the more of its light is scattered on its way up."""
    known = np.isfinite(ground)
    weight = _spread(known.astype(np.float32), gsd_m)
    spread = _spread(np.where(known, ground, np.float32(0)), gsd_m) / np.maximum(weight, np.float32(1e-6))
    return (ground + albedo * (spread - ground)).astype(np.float32)


def _spread(image: FloatArray, gsd_m: float) -> FloatArray:
    """Blur by `_ADJACENCY_M`: two running means are near a Gaussian, and as fast at 0.5 m as at 60 m."""
    width = 1 + round(math.sqrt(6) * _ADJACENCY_M / gsd_m)
    blurred: FloatArray = uniform_filter(uniform_filter(image, width), width)
    return blurred


def _with_noise(image: FloatArray, noise: tuple[float, float], random: np.random.Generator) -> FloatArray:
    """Return the image with noise whose variance rises linearly with reflectance; not below 0."""
    dark, bright = noise
    variance = dark**2 + (bright**2 - dark**2) * np.clip(image, 0, BRIGHTEST)
    noisy = image + np.sqrt(np.maximum(variance, 0)) * random.standard_normal(image.shape, np.float32)
    return np.clip(noisy, 0, BRIGHTEST)
