"""One scene delivered more than once: as the same item again, or processed anew; the newest is kept.

Archives cut a pass into datastrips. Two halves of a square from two of them are no versions of each other, although
some archives give both the footprint of the whole square. Datastrip, footprint, stated share of missing pixels and at
last the pixels decide; a version is passed over only where a newer one covers its ground.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pystac
from numpy.typing import NDArray

from stac.errors import StacError
from stac.grid.cell import grid_code
from stac.grid.footprint import footprint_of
from stac.io.raster import valid_pixels
from stac.io.signing import Access
from stac.search.acquisitions import described, instant_of, platform_of, rank
from stac.search.sentinel_hub.process import is_process_href
from stac.search.source import Skipped, one_item

#: Two processings of one scene differ this much at most in their acquisition time.
_SAME_TIME = timedelta(seconds=30)
#: Share of an older version's ground that a newer one must cover to stand for it.
_COVERED = 0.9
#: Share of a square's pixels, percent: halves that state less than this are known by it; a whole has more.
_HALVES, _WHOLE = 120.0, 90.0
#: ESA's datastrip names begin of sensing and time of processing.
_SENSING = re.compile(r"_S(\d{8}T\d{6})")
_DATASTRIPS = (
    "s2:datastrip_id", "sentinel2:datastrip_id", "sentinel:datastrip_id", "eopf:datastrip_id", "datastrip_id",
)  # fmt: skip
_MISSING = ("s2:nodata_pixel_percentage", "sentinel:data_coverage", "eopf:nodata_pixel_percentage")
#: Longest side of the view that shows which pixels a version has, and longest wait for it, seconds.
_SIDE, _TIMEOUT_S = 256, 15.0
_DIRECT = Access()
_PICTURES = frozenset({"thumbnail", "overview", "visual", "metadata"})

Mask = NDArray[np.bool_]


def newest_versions(
    items: Iterable[pystac.Item], skipped: list[Skipped], access: Access = _DIRECT
) -> list[pystac.Item]:
    """Return one item for each scene, sorted by time and id; `skipped` gets the others with their reason.

    A scene is what one platform took of one grid square in one pass; its versions are from the same half minute and
    cover the same ground. The highest processing baseline wins, then the latest processing time, the highest sequence
    number, and the last id in the alphabet.

    Args:
        items: from `stac.search.source.item_from`.
        skipped: what a search passed over; added to.
        access: how remote pixels are reached where nothing else distinguishes halves from versions.
    """
    kept: list[pystac.Item] = []
    by_square: dict[tuple[str, str], list[pystac.Item]] = {}
    for item in sorted(_once(items, skipped), key=rank, reverse=True):
        newer = by_square.setdefault((platform_of(item), _square(item)), [])
        winner = next((other for other in newer if _stands_for(other, item, access)), None)
        if winner is None:
            newer.append(item)
            kept.append(item)
        else:
            reason = f"Item {item.id} is an older version of {winner.id} ({described(item)}); it is not used."
            skipped.append(Skipped(item.id, reason, superseded_by=winner.id))
    return sorted(kept, key=lambda item: (instant_of(item), item.id))


def _once(items: Iterable[pystac.Item], skipped: list[Skipped]) -> list[pystac.Item]:
    """Return the newest item of every id, and note the others."""
    found: dict[str, pystac.Item] = {}
    for item in items:
        known = found.setdefault(item.id, item)
        if known is item:
            continue
        if rank(item) > rank(known):
            found[item.id] = item
        skipped.append(Skipped(item.id, f"Item {item.id} was delivered twice; it is used once.", superseded_by=item.id))
    return list(found.values())


def _square(item: pystac.Item) -> str:
    path, row = (item.properties.get(f"landsat:wrs_{name}") for name in ("path", "row"))
    return f"WRS2-{path}{row}" if path and row else grid_code(item)


def _stands_for(newer: pystac.Item, older: pystac.Item, access: Access) -> bool:
    """Return whether a newer item is a version of the same scene that has all of the older one's ground."""
    if abs(instant_of(newer) - instant_of(older)) > _SAME_TIME:
        return False
    first, second = footprint_of(newer), footprint_of(older)
    if second.area > 0 and first.intersection(second).area < _COVERED * second.area:
        return False
    strips = [_datastrip(item) for item in (newer, older)]
    if all(strips):
        return strips[0] == strips[1]
    if (known := _by_share(newer, older)) is not None:
        return known
    return _covers(newer, older, access)


def _datastrip(item: pystac.Item) -> str:
    """Return when the sensing of an item's datastrip began; "" where that is not known."""
    for name in _DATASTRIPS:
        if found := _SENSING.search(str(item.properties.get(name, ""))):
            return found[1]
    return ""


def _by_share(newer: pystac.Item, older: pystac.Item) -> bool | None:
    """Return whether two items are versions, by the share of pixels that they say they have; None where it is open."""
    shares = [_share(item) for item in (newer, older)]
    if shares[0] is None or shares[1] is None:
        return None
    if shares[0] >= _WHOLE:
        return True
    # Two versions of one half state nearly the same.
    return False if shares[0] + shares[1] < _HALVES and abs(shares[0] - shares[1]) > 1 else None


def _share(item: pystac.Item) -> float | None:
    """Return the share of pixels that an item says it has, percent."""
    for name in _MISSING:
        value = item.properties.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100:
            return float(value) if name.endswith("coverage") else 100.0 - float(value)
    return None


def _covers(newer: pystac.Item, older: pystac.Item, access: Access) -> bool:
    """Return whether a newer item has the pixels of an older one; one that cannot be read is taken to."""
    views = [_valid(item, access) for item in (newer, older)]
    if views[0] is None or views[1] is None or views[0].shape != views[1].shape or not views[1].any():
        return True
    return bool((views[0] & views[1]).sum() >= _COVERED * views[1].sum())


def _valid(item: pystac.Item, access: Access) -> Mask | None:
    """Return a thinned view `(y, x)` of the pixels that an item has, None where its first band cannot be read."""
    found = [asset for asset in item.assets.values() if _is_raster(asset)]
    if not found:
        return None
    href, name = found[0].get_absolute_href() or found[0].href, f"Item {item.id}"
    quick = replace(access, timeout_s=_TIMEOUT_S)
    try:
        with one_item(item.id):
            return valid_pixels(href, name, _SIDE, quick, item.collection_id or "")
    except StacError:
        return None


def _is_raster(asset: pystac.Asset) -> bool:
    roles = set(asset.roles or ["data"])
    named = f"{asset.media_type} {asset.href}".lower()
    file = any(kind in named for kind in ("tif", "jp2")) and not is_process_href(asset.href)
    return file and "data" in roles and not _PICTURES & roles
