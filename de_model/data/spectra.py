"""What optics needs to know of a band, by its common name (STAC `eo:common_name`, Earth Search's asset keys)."""

from __future__ import annotations

from dataclasses import dataclass

from de_model.errors import InvalidModelInput

#: Wavelength at which optical thickness is given, nm.
REFERENCE_NM = 550.0


@dataclass(frozen=True, slots=True)
class BandOptics:
    """Optical constants of one band."""

    #: Centre wavelength, nm (Sentinel-2 MSI, rounded).
    wavelength_nm: float
    #: Delay of its detector line behind the blue one, s (nominal; varies by 2 %, Binet et al. 2022).
    delay_s: float
    #: Brightness of thick cloud against the visible: droplets and ice absorb in the short-wave infrared.
    cloud_colour: float = 1.0
    #: Height below which water vapour hides everything from the band, metres.
    floor_m: float = 0.0

    @property
    def diffuse_share(self) -> float:
        """Share of the ground's light that does not come straight from the sun, and reaches shadows.

        Scattered light falls with the fourth power of the wavelength (Rayleigh). The factor fits the cores of
        cloud shadows in Sentinel-2 L2A (darker than the clear date by 0.73, 0.46, 0.45, 0.26 in blue, green, red
        and nir), hence includes light from neighbouring clouds. Blue shadows are the faintest.
        """
        return min(1.0, 0.36 * (self.wavelength_nm / REFERENCE_NM) ** -4)


_BANDS = {
    "coastal": BandOptics(443, 2.314),
    "blue": BandOptics(490, 0.000),
    "green": BandOptics(560, 0.527),
    "red": BandOptics(665, 1.005),
    "rededge1": BandOptics(705, 1.269),
    "rededge2": BandOptics(740, 1.525),
    "rededge3": BandOptics(783, 1.790),
    "nir": BandOptics(842, 0.264),
    "nir08": BandOptics(865, 2.055),
    "nir09": BandOptics(945, 2.586),
    "cirrus": BandOptics(1375, 0.851, floor_m=5_000),
    "swir16": BandOptics(1610, 1.468, cloud_colour=0.8),
    "swir22": BandOptics(2190, 2.085, cloud_colour=0.6),
}


def optics_of(band: str) -> BandOptics:
    """Return the constants of a band.

    Raises:
        InvalidModelInput: the name is unknown.
    """
    if band not in _BANDS:
        raise InvalidModelInput(f"Band {band} has no known wavelength; known bands: {', '.join(_BANDS)}.")
    return _BANDS[band]
