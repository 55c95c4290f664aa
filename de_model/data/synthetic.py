"""Pairs made up on the way: a clear scene, and the same scene under new synthetic clouds at every draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.data.cloud_draw import draw_parameters, draw_sun
from de_model.data.clouds import Sun, add_clouds
from de_model.data.pairs import Mixture, PairSource, ScenePair

#: The truth is exact under any amount of cloud; only patches without cloud teach nothing.
_COVER = (0.05, 1.0)


@dataclass(frozen=True, slots=True)
class SyntheticPair:
    """A clear scene that is covered anew at every draw; a `PairSource`."""

    #: What the scene is, for people: its item id.
    name: str
    #: Surface reflectance `(band, y, x)`, NaN where nodata; north is up.
    clear: NDArray[np.float32]
    #: Common names, in the order of `clear`.
    bands: tuple[str, ...]
    #: Pixel size, metres.
    gsd_m: float
    #: `(y, x)`, True where the ground was seen; None where all of it was.
    seen: NDArray[np.bool_] | None = None
    #: Where the sun stood; drawn anew each time when unknown.
    sun: Sun | None = None
    #: Range of the share that clouds cover in a patch.
    coverage: tuple[float, float] = (0.1, 0.9)

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.clear)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.clear.shape[1:]
        return rows, columns

    @property
    def cover_range(self) -> tuple[float, float]:
        """Least and greatest share of cloud of a patch."""
        return _COVER

    def window(self, rows: slice, columns: slice, random: np.random.Generator) -> ScenePair:
        """Return a part of the scene under new clouds.

        Raises:
            InvalidModelInput: a band has no known wavelength.
        """
        clear = self.clear[:, rows, columns]
        sun = self.sun or draw_sun(random)
        parameters = draw_parameters(random, self.coverage)
        scene = add_clouds(clear, self.bands, self.gsd_m, sun, parameters, int(random.integers(2**63)))
        valid: NDArray[np.bool_] = np.asarray(np.isfinite(clear).all(axis=0))
        if self.seen is not None:
            valid = valid & self.seen[rows, columns]
        return ScenePair(f"{self.name} + synthetic clouds", scene.reflectance, clear, valid, scene.obscured)

    def content(self) -> Iterator[bytes]:
        """Yield the scene and the options of its clouds."""
        yield np.ascontiguousarray(self.clear).tobytes()
        yield b"" if self.seen is None else self.seen.tobytes()
        yield repr((self.bands, self.gsd_m, self.sun, self.coverage)).encode()


def with_synthetic(
    pairs: Sequence[ScenePair], bands: Sequence[str], gsd_m: float, share: float = 0.5, sun: Sun | None = None
) -> Mixture:
    """Return real pairs together with synthetic clouds over their clear dates, as one source of patches.

    Real pairs teach real clouds over ground that changed between the dates; synthetic ones exact truth. `share` of
    the patches, 0 to 1, is synthetic; 1 leaves the real pairs out.

    Raises:
        TrainingFailed: there is no pair.
    """
    made = [
        SyntheticPair(f"clear date of {pair.name}", pair.clear, tuple(bands), gsd_m, pair.valid, sun) for pair in pairs
    ]
    kinds: list[tuple[Sequence[PairSource], float]] = [(pairs, 1 - share), (made, share)]
    return Mixture(*(kind for kind in kinds if kind[1] > 0))
