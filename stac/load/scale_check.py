"""Compare declared scale and offset with the pixels of a scene."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from functools import lru_cache
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray

from stac.errors import InvalidItem
from stac.io.signing import Access
from stac.load.reading import AssetRequest, Layer, at_once, read_thinned
from stac.load.scaling import Decision
from stac.reflectance import Scaling
from stac.search.sentinel_hub.process import is_process_href

_log = logging.getLogger("unveil")

#: Longest side of the view, pixels.
_SIDE = 512
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


@unique
class RadiometryCheck(StrEnum):
    """What happens to a scene whose pixels contradict its scale or offset."""

    REFUSE = "refuse"
    WARN = "warn"
    OFF = "off"


def check_scene(item: pystac.Item, layers: Sequence[Layer], check: RadiometryCheck, access: Access) -> None:
    """Raise or warn when a scene's pixels contradict the scale and offset they are read with.

    Args:
        item: the scene.
        layers: its reflectance bands.
        check: what to do.
        access: how remote bytes are reached.

    Raises:
        InvalidItem: they do, and `check` says refuse.
        UnreadableAsset: pixels cannot be read after retries.
    """
    # A service that computes its answers has none but harmonised pixels, and charges for every request.
    if check is RadiometryCheck.OFF or any(is_process_href(layer.request.href) for layer in layers):
        return
    bands = tuple((layer.request, layer.scaling) for layer in layers if layer.scaling is not None)
    version = str(item.properties.get("updated", ""))
    found = _contradiction(bands, version, access)
    if found is None:
        return
    sentence = f"Item {item.id}: {found} (decided because: {bands[0][1].reason})"
    if check is RadiometryCheck.REFUSE:
        raise InvalidItem(
            f"{sentence} Correct the item's flag, offset or scale, or set radiometry_check=warn to use it as it is."
        )
    _log.warning("%s", sentence)


@lru_cache(maxsize=1024)
def _contradiction(bands: tuple[tuple[AssetRequest, Decision], ...], version: str, access: Access) -> str | None:
    """Judge a scene once per process; its blocks ask again and again."""
    del version  # part of the cache's key: an item that was corrected is judged anew
    views = at_once(lambda band: read_thinned(band[0], access, _SIDE), bands)
    samples = [BandSample(r.band, dn, decision) for (r, decision), dn in zip(bands, views, strict=True)]
    return find_contradiction(samples, offset_at_stake=any(decision.offset_at_stake for _, decision in bands))
