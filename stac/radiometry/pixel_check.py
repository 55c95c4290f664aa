"""What pixels say about a scale and an offset: the signatures that a wrong one leaves.

Dark ground decides. Water, shadow and the red of vegetation reflect 0.01 to 0.05, so that in any scene that is not all
cloud, snow or sand

- an offset of 1000 subtracted twice puts them at -0.05 to -0.09, where no true surface lies;
- an offset of 1000 that was never subtracted puts the darkest pixels of *every* band, near infrared included, just
  above 0.1. A bright desert has no such common floor: its near infrared is far brighter than its blue.

Scenes without dark ground show neither, and pass. Pixels of value 1 are left out: archives write 1 for everything
that fell below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.reflectance import Scaling

#: Fewer pixels with data say nothing.
_FEWEST = 1_000
#: The value that archives write for all that fell below 1.
_CLIPPED = 1
#: Below this no surface lies, reflectance, and the share of pixels that is too large for errors of the atmospheric
#: correction. True scenes with low sun over snow reach less than 0.0001 (five Arctic scenes, June 2023); a second
#: subtraction makes it 0.1 to 0.8, also under 69 % cloud (ten scenes of Slovenia and Croatia, August 2023).
_IMPOSSIBLY_DARK, _LARGEST_DARK_SHARE = -0.05, 0.02
#: Where the darkest thousandth of every band lies when 0.1 was not subtracted, reflectance: 0.1 to 0.144 in the ten
#: scenes above. The lower end is below 0.1 because true dark pixels may be slightly negative.
_FLOOR, _FLOOR_SHARE = (0.09, 0.15), 0.001
#: Bands of which one must be present for the floor: they are bright over land and dark over water and in shadow.
_INFRARED = frozenset({"nir", "nir08", "nir09", "swir16", "swir22"})
#: The median of a scene; fresh snow under a low sun reaches 1.2.
_IMPOSSIBLY_BRIGHT = 1.5
#: The brightest thousandth of a scene by day.
_IMPOSSIBLY_FAINT = 0.005


@dataclass(frozen=True, slots=True)
class BandSample:
    """Some pixels of a band, as archived."""

    #: Common name.
    band: str
    #: Digital numbers, any shape.
    dn: NDArray[Any]
    scaling: Scaling

    def reflectance(self) -> NDArray[np.float64]:
        """Return reflectance of the pixels that hold data and were not clipped, one axis."""
        valid = self.dn[(self.dn != self.scaling.nodata) & (self.dn != _CLIPPED)]
        reflectance: NDArray[np.float64] = valid.astype(np.float64) * self.scaling.scale + self.scaling.offset
        return reflectance


def find_contradiction(samples: Sequence[BandSample], *, offset_at_stake: bool) -> str | None:
    """Return what the pixels show that contradicts scale or offset, in a sentence; None where nothing does.

    The result depends on the values alone, not on their order.

    Args:
        samples: the bands of one scene, each with the scale and offset it would be read with.
        offset_at_stake: an offset of 1000 may be left in pixels that are read without one.
    """
    bands = {s.band: values for s in samples if (values := s.reflectance()).size >= _FEWEST}
    if not bands:
        return None
    offsets = {s.band: s.scaling.offset for s in samples}
    checks = (_twice_subtracted(bands, offsets), _never_subtracted(bands, offsets) if offset_at_stake else None)
    return next((found for found in (*checks, _wrong_scale(bands)) if found), None)


def _twice_subtracted(bands: dict[str, NDArray[np.float64]], offsets: dict[str, float]) -> str | None:
    shares = {band: float((values < _IMPOSSIBLY_DARK).mean()) for band, values in bands.items() if offsets[band] < 0}
    worst = max(shares, key=lambda band: shares[band], default=None)
    if worst is None or shares[worst] <= _LARGEST_DARK_SHARE:
        return None
    return (
        f"with offset {offsets[worst]:g}, {shares[worst]:.0%} of band {worst} lie below reflectance "
        f"{_IMPOSSIBLY_DARK:g}, where no surface does: the offset seems to be in the pixels already"
    )


def _never_subtracted(bands: dict[str, NDArray[np.float64]], offsets: dict[str, float]) -> str | None:
    if len(bands) < 2 or not _INFRARED & bands.keys() or any(offsets[band] for band in bands):
        return None
    floors = {band: float(np.quantile(values, _FLOOR_SHARE)) for band, values in bands.items()}
    if not all(_FLOOR[0] <= floor <= _FLOOR[1] for floor in floors.values()):
        return None
    found = ", ".join(f"{band} {floor:.3f}" for band, floor in floors.items())
    return (
        f"the darkest pixels of all bands lie just above reflectance 0.1 ({found}), where no ground is that dark "
        "alike: the offset of 1000 seems not to be subtracted yet"
    )


def _wrong_scale(bands: dict[str, NDArray[np.float64]]) -> str | None:
    if all(np.median(values) > _IMPOSSIBLY_BRIGHT for values in bands.values()):
        return f"more than half of the pixels of every band lie above reflectance {_IMPOSSIBLY_BRIGHT:g}: wrong scale"
    if all(np.quantile(values, 1 - _FLOOR_SHARE) < _IMPOSSIBLY_FAINT for values in bands.values()):
        return f"no band has pixels brighter than reflectance {_IMPOSSIBLY_FAINT:g}: wrong scale"
    return None
