"""Random fields with the structure of clouds: one outer scale, and octave after octave of weaker detail below it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from de_model.errors import InvalidModelInput

FloatArray = NDArray[np.float32]

#: The field is periodic over a domain this much longer than the window, so that opposite edges of the window differ.
_PADDING = 1.25


@dataclass(frozen=True, slots=True)
class Texture:
    """The structure of a field; see `FractalField`."""

    #: Size of the largest elements, metres. Below it every octave is weaker than the one before.
    scale_m: float
    #: Amplitude falls with wavenumber to this power: 1.5 is ragged, 2.5 is smooth.
    decay: float
    #: Length over width of the elements, 1 or more (wind streaks).
    stretch: float = 1.0
    #: Direction of their length, degrees clockwise from north.
    bearing_deg: float = 0.0
    #: Weight of a second, round and tenfold larger field that gathers the elements in groups, 0 or more.
    clumping: float = 0.0
    #: Number of independent fields of which the highest counts: 1 is Gaussian; 2 or 3 give round heads with creases.
    lobes: int = 1

    def __post_init__(self) -> None:
        if not (self.scale_m > 0 and self.decay > 0 and self.stretch >= 1 and self.clumping >= 0 and self.lobes >= 1):
            raise InvalidModelInput(
                f"Texture with scale {self.scale_m} m, decay {self.decay}, stretch {self.stretch}, clumping "
                f"{self.clumping}, lobes {self.lobes}: scale and decay must be positive, stretch and lobes at least 1, "
                "clumping at least 0."
            )


class FractalField:
    """A random field with the von Kármán spectrum, held as Fourier transforms.

    Amplitude is `(1 + (k L)^2)^(-decay / 2)` at wavenumber `k` and outer scale `L`: flat above the outer
    scale, a power law below (liquid water in clouds follows one over three decades; Davis et al. 1994).
    The field is periodic, so it can be moved by any fraction of a pixel without loss.
    """

    def __init__(self, shape: tuple[int, int], gsd_m: float, texture: Texture, random: np.random.Generator) -> None:
        """Draw the field for a window `(y, x)` of pixels of `gsd_m` metres."""
        self.shape = shape
        height, width = (fft.next_fast_len(math.ceil(n * _PADDING), real=True) for n in shape)
        self._domain = (height, width)
        self._ky, self._kx = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :]
        scale_px = texture.scale_m / gsd_m
        lobes = [self._octaves(texture, scale_px, random) for _ in range(texture.lobes)]
        if texture.clumping:
            groups = self._octaves(replace(texture, stretch=1.0), 10 * scale_px, random)
            lobes = [lobe + texture.clumping * groups for lobe in lobes]
        self._lobes = lobes

    def values(self, down_px: float = 0.0, right_px: float = 0.0) -> FloatArray:
        """Return the field `(y, x)`, deviation of the order of 1, moved down and right by pixels."""
        down, right = (np.exp(-2j * np.pi * k * n) for k, n in ((self._ky, down_px), (self._kx, right_px)))
        phase = (down * right).astype(np.complex64)
        moved = [fft.irfft2(lobe * phase, s=self._domain) for lobe in self._lobes]
        highest = np.max(moved, axis=0)[: self.shape[0], : self.shape[1]]
        return highest.astype(np.float32)

    def _octaves(self, texture: Texture, scale_px: float, random: np.random.Generator) -> NDArray[np.complex64]:
        """Return white noise, filtered and brought to unit variance over the domain."""
        white = fft.rfft2(random.standard_normal(self._domain))
        bearing = math.radians(texture.bearing_deg)
        # Rows run south: north is -y. Elements are long along the bearing, hence narrow in wavenumber there.
        along = -self._ky * math.cos(bearing) + self._kx * math.sin(bearing)
        across = self._ky * math.sin(bearing) + self._kx * math.cos(bearing)
        squared = ((along * texture.stretch) ** 2 + across**2) * scale_px**2
        spectrum = white * (1 + squared) ** (-texture.decay / 2)
        spectrum[0, 0] = 0
        return (spectrum / fft.irfft2(spectrum, s=self._domain).std()).astype(np.complex64)
