"""From a JSON document to a checked item."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pystac

from stac.acquisitions import cloud_cover, instant_of, platform_of
from stac.containment import one_item
from stac.errors import InvalidItem
from stac.grid import declared_projection, grid_code
from stac.processing import rank
from stac.sources.footprints import footprint, normalise
from stac.sources.hrefs import checked_id, resolve
from stac.sources.providers import Archive


def item_from(document: dict[str, Any], href: str) -> pystac.Item:
    """Return an item with absolute asset hrefs, all of them checked, and longitudes in -180..180.

    Args:
        document: the item's JSON.
        href: absolute path or URL the document came from.

    Raises:
        InvalidItem: the document is no STAC item, or lacks assets, a footprint or a single acquisition time.
        UnsafeHref: its id or one of its assets names what it may not.
    """
    name = checked_id(document.get("id"))
    with one_item(name):
        return _checked(document, href)


def _checked(document: dict[str, Any], href: str) -> pystac.Item:
    try:
        item = pystac.Item.from_dict(document)
    except Exception as error:
        name, reason = document.get("id"), f"{type(error).__name__}: {error}"
        raise InvalidItem(f"Item {name} ({href}) is not a valid STAC item ({reason}).") from error
    for asset in item.assets.values():
        asset.href = resolve(href, asset.href)
    name = item.id
    if item.datetime is None:
        raise InvalidItem(f"Item {name} has no datetime; only single acquisitions can be restored.")
    if not item.assets:
        raise InvalidItem(f"Item {name} has no assets, so there is nothing to read.")
    normalise(item)
    _examine(item)
    # Links are not resolved: nothing may be fetched behind the caller's back, as pystac does with the root of an item
    # when it is asked for the href of any link.
    item.remove_links("root")
    item.set_self_href(None)
    item.set_self_href(href)
    return item


def _examine(item: pystac.Item) -> None:
    """Ask an item for all that scenes are compared by, so that what is odd about it shows here.

    Raises:
        InvalidItem: it names more than one place or time.
        Exception: whatever its fields provoke; `one_item` contains it.
    """
    for ask in (instant_of, platform_of, cloud_cover, grid_code, declared_projection, rank, footprint):
        ask(item)


def with_band_names(item: pystac.Item, archive: Archive) -> pystac.Item:
    """Return the item with its assets under our band names where the archive calls them otherwise."""
    keys = {key: name for name, key in archive.bands.items() if name not in item.assets}
    item.assets = {keys.get(key, key): asset for key, asset in item.assets.items()}
    return item


def by_time(item: pystac.Item) -> tuple[datetime, str]:
    """Return the sort key of an item: acquisition time, then id."""
    return item.datetime or datetime.min.replace(tzinfo=UTC), item.id
