"""What a search returns: items, and every item left out with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pystac

from stac.errors import InvalidItem, StacError
from stac.grid.cell import declared_projection, grid_code
from stac.grid.footprint import footprint_of, normalise
from stac.search.acquisitions import cloud_cover, instant_of, platform_of, rank
from stac.search.hrefs import checked_id, resolve
from stac.search.providers import Archive
from stac.search.query import Query


def item_from(document: dict[str, Any], href: str) -> pystac.Item:
    """Return an item with absolute asset hrefs, all of them checked, and longitudes in -180..180.

    Args:
        document: the item's JSON.
        href: absolute path or URL the document came from.

    Raises:
        InvalidItem: the document is not a STAC item, or lacks assets, a footprint or a single acquisition time.
        UnsafeHref: its id or one of its assets names what it may not.
        Exception: whatever odd fields provoke; `one_item` contains it.
    """
    name = checked_id(document.get("id"))
    try:
        item = pystac.Item.from_dict(document)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidItem(f"Item {name} ({href}) is not a valid STAC item ({reason}).") from error
    for asset in item.assets.values():
        asset.href = resolve(href, asset.href)
    if not item.assets:
        raise InvalidItem(f"Item {name} has no assets, so there is nothing to read.")
    normalise(item)
    # All that scenes are compared by, so that what is odd about one shows here.
    for ask in (instant_of, platform_of, cloud_cover, grid_code, declared_projection, rank, footprint_of):
        ask(item)
    # Links are not resolved: nothing may be fetched behind the caller's back, as pystac does with the root of an item
    # when it is asked for the href of any link.
    item.remove_links("root")
    item.set_self_href(None)
    item.set_self_href(href)
    return item


def with_band_names(item: pystac.Item, archive: Archive) -> pystac.Item:
    """Return the item with its assets under our band names where the archive calls them otherwise."""
    keys = {key: name for name, key in archive.bands.items() if name not in item.assets}
    item.assets = {keys.get(key, key): asset for key, asset in item.assets.items()}
    return item


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item that a search passed over."""

    #: Empty where the document does not say.
    item_id: str
    #: One sentence.
    reason: str
    #: Id of the item that stands for the same scene, so that none of its ground is left out; empty without one.
    superseded_by: str = ""


class Source(Protocol):
    """A place that lists scenes.

    Opening one, and every method, may raise `SourceUnavailable`, `AccessRefused` or `UnreadableCatalog`, and
    `InvalidQuery` where a collection does not exist or far too much matches.
    """

    #: Items that the last search passed over.
    skipped: list[Skipped]

    def describe(self) -> str:
        """Return the source in a few words, for people."""
        ...

    def collections(self) -> list[str]:
        """Return the ids of all collections."""
        ...

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection: its licence, providers and keywords."""
        ...

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id, with absolute hrefs."""
        ...


_LONGEST = 200


@contextmanager
def one_item(item_id: str) -> Iterator[None]:
    """Turn every exception but ours into `InvalidItem`, so that an odd item never stops what is done to others.

    Raises:
        InvalidItem: the item has something that was not foreseen; type and text of the exception are named.
        StacError: as raised inside.
    """
    try:
        yield
    except (StacError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST]
        raise InvalidItem(
            f"Item {item_id} cannot be used ({type(error).__name__}: {reason}); correct the item or leave it out."
        ) from error
