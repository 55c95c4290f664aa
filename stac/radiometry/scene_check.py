"""Doubting a scene's scale and offset before it is used: once per scene, on a thinned view of all of it.

The view does not depend on the cell or block that is read, so that all parts of a scene are judged alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum, unique
from functools import lru_cache

import pystac

from stac.access import Access
from stac.assets import find_asset
from stac.errors import InvalidItem
from stac.radiometry.decision import Decision, offset_at_stake
from stac.radiometry.pixel_check import BandSample, find_contradiction
from stac.reading import AssetRequest, read_thinned
from stac.reflectance import Scaling
from stac.sources.sentinel_hub.hrefs import is_process_href

_log = logging.getLogger("unveil")

#: Longest side of the view, pixels.
_SIDE = 512


@unique
class RadiometryCheck(StrEnum):
    """What happens to a scene whose pixels contradict its scale or offset."""

    REFUSE = "refuse"
    WARN = "warn"
    OFF = "off"


def check_scene(
    item: pystac.Item,
    requests: Sequence[AssetRequest],
    decisions: Sequence[Decision],
    check: RadiometryCheck,
    timeout_s: float,
    threads: int = 1,
    access: Access | None = None,
) -> None:
    """Raise or warn when a scene's pixels contradict the scale and offset they are read with.

    Args:
        item: the scene.
        requests: its reflectance bands.
        decisions: how each of them is read.
        check: what to do.
        timeout_s: time-out of one request, seconds.
        threads: bands read at the same time.
        access: how remote bytes are reached.

    Raises:
        InvalidItem: they do, and `check` says refuse.
        UnreadableAsset: pixels cannot be read after retries.
    """
    # A service that computes its answers has none but harmonised pixels, and charges for every request.
    if check is RadiometryCheck.OFF or any(is_process_href(request.href) for request in requests):
        return
    at_stake = any(offset_at_stake(item, find_asset(item, request.band)) for request in requests)
    scalings = tuple(Scaling(d.scale, d.offset, d.nodata) for d in decisions)
    version = str(item.properties.get("updated", ""))
    found = _contradiction(tuple(requests), scalings, at_stake, version, timeout_s, threads, access)
    if found is None:
        return
    sentence = f"Item {item.id}: {found} (decided because: {decisions[0].reason})"
    if check is RadiometryCheck.REFUSE:
        raise InvalidItem(
            f"{sentence} Correct the item's flag, offset or scale, or set radiometry_check=warn to use it as it is."
        )
    _log.warning("%s", sentence)


@lru_cache(maxsize=1024)
def _contradiction(
    requests: tuple[AssetRequest, ...],
    scalings: tuple[Scaling, ...],
    at_stake: bool,
    version: str,
    timeout_s: float,
    threads: int,
    access: Access | None,
) -> str | None:
    """Judge a scene once per process; its blocks ask again and again."""
    del version  # part of the cache's key: an item that was corrected is judged anew
    with ThreadPoolExecutor(min(threads, len(requests)), thread_name_prefix="check") as pool:
        views = pool.map(lambda request: read_thinned(request, _SIDE, timeout_s, access), requests)
        samples = [BandSample(r.band, dn, s) for r, dn, s in zip(requests, views, scalings, strict=True)]
    return find_contradiction(samples, offset_at_stake=at_stake)
