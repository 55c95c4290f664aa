"""The distribution that synthetic skies are drawn from.

Heights and thicknesses are the usual ones of the cloud genera (WMO cloud atlas; ISCCP classes). Textures were set by
eye, thickness and brightness by the histogram of the blue band, against a Sentinel-2 L2A scene of cumulus and stratus.
Every quantity is uniform in its range, scale and thickness log-uniform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum, unique

import numpy as np

from de_model.data.clouds import CloudLayer, CloudParameters, Sun
from de_model.data.fractal import Texture
from de_model.errors import InvalidModelInput

Range = tuple[float, float]


@unique
class Genus(StrEnum):
    """Kinds of layers."""

    CUMULUS = "cumulus"
    STRATUS = "stratus"
    CIRRUS = "cirrus"
    HAZE = "haze"


@dataclass(frozen=True, slots=True)
class _Ranges:
    scale_m: Range
    decay: Range
    stretch: Range
    clumping: Range
    thickness: Range
    profile: Range
    height_m: Range
    angstrom: Range
    brightness: Range
    blueness: Range
    relief: Range
    lobes: int = 1


_GENERA = {
    Genus.CUMULUS: _Ranges(
        scale_m=(2_500, 6_000),
        decay=(1.8, 2.3),
        stretch=(1, 1.5),
        clumping=(0.2, 0.9),
        thickness=(8, 35),
        profile=(1.2, 2.0),
        height_m=(800, 2_500),
        angstrom=(0, 0),
        brightness=(1.05, 1.4),
        blueness=(0.1, 0.3),
        relief=(0.3, 0.8),
        lobes=3,
    ),
    Genus.STRATUS: _Ranges(
        scale_m=(8_000, 30_000),
        decay=(1.8, 2.2),
        stretch=(1, 2),
        clumping=(0, 0.5),
        thickness=(10, 40),
        profile=(1.0, 1.8),
        height_m=(500, 4_000),
        angstrom=(0, 0),
        brightness=(1.05, 1.4),
        blueness=(0.1, 0.3),
        relief=(0.1, 0.4),
        lobes=2,
    ),
    Genus.CIRRUS: _Ranges(
        scale_m=(6_000, 20_000),
        decay=(1.8, 2.3),
        stretch=(1.5, 3.5),
        clumping=(0.3, 1.0),
        thickness=(0.3, 1.5),
        profile=(1.2, 2.0),
        height_m=(6_000, 11_000),
        angstrom=(0, 0.1),
        brightness=(0.95, 1.05),
        blueness=(0, 0.15),
        relief=(0, 0),
    ),
    Genus.HAZE: _Ranges(
        scale_m=(8_000, 40_000),
        decay=(2.2, 2.8),
        stretch=(1, 2),
        clumping=(0, 0),
        thickness=(0.15, 0.8),
        profile=(0.8, 1.2),
        height_m=(300, 1_500),
        angstrom=(1.0, 1.5),
        brightness=(0.9, 1.0),
        blueness=(0, 0.1),
        relief=(0, 0),
    ),
}
#: How often each genus is the main layer, and how often a high or hazy second one is added.
_MAIN = {Genus.CUMULUS: 0.45, Genus.STRATUS: 0.25, Genus.CIRRUS: 0.15, Genus.HAZE: 0.15}
_SECOND_SHARE = 0.35
#: Sun at the overpass of a morning orbit in northern mid latitudes.
_ZENITH_DEG, _AZIMUTH_DEG = (20.0, 70.0), (125.0, 180.0)


def draw_layer(genus: Genus, coverage: float, random: np.random.Generator) -> CloudLayer:
    """Return a layer of this kind that covers `coverage` of the window."""
    ranges = _GENERA[genus]

    def within(bounds: Range) -> float:
        return float(random.uniform(*bounds))

    def within_log(bounds: Range) -> float:
        return math.exp(random.uniform(math.log(bounds[0]), math.log(bounds[1])))

    texture = Texture(
        scale_m=within_log(ranges.scale_m),
        decay=within(ranges.decay),
        stretch=within(ranges.stretch),
        bearing_deg=within((0.0, 180.0)),
        clumping=within(ranges.clumping),
        lobes=ranges.lobes,
    )
    return CloudLayer(
        texture=texture,
        coverage=coverage,
        thickness=within_log(ranges.thickness),
        profile=within(ranges.profile),
        height_m=within(ranges.height_m),
        angstrom=within(ranges.angstrom),
        brightness=within(ranges.brightness),
        blueness=within(ranges.blueness),
        relief=within(ranges.relief),
    )


def draw_parameters(random: np.random.Generator, coverage: Range = (0.1, 0.7)) -> CloudParameters:
    """Return a sky whose cloud covers between the two shares of the window (up to the bands' parallax).

    Raises:
        InvalidModelInput: the range is not within 0 to 1.
    """
    low, high = coverage
    if not 0 <= low <= high <= 1:
        raise InvalidModelInput(f"Cloud coverage {low} to {high} is no range of shares; give 0 <= low <= high <= 1.")
    share = float(random.uniform(low, high))
    main = list(_MAIN)[int(random.choice(len(_MAIN), p=list(_MAIN.values())))]
    layers = [draw_layer(main, share, random)]
    if main in (Genus.CUMULUS, Genus.STRATUS) and random.random() < _SECOND_SHARE:
        # Both together cover at most the sum, so the range holds.
        second = Genus.CIRRUS if random.random() < 0.5 else Genus.HAZE
        layers.append(draw_layer(second, float(random.uniform(0, high - share)), random))
    return CloudParameters(tuple(layers))


def draw_sun(random: np.random.Generator) -> Sun:
    """Return a sun of the morning, for scenes that do not say where it stood."""
    return Sun(float(random.uniform(*_ZENITH_DEG)), float(random.uniform(*_AZIMUTH_DEG)))
