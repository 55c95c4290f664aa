"""Finding the asset of a band, whichever convention a catalog follows."""

from __future__ import annotations

from collections.abc import Iterator

import pystac

from stac.errors import InvalidItem


def band_names(asset: pystac.Asset) -> Iterator[str]:
    """Yield the names an asset gives its bands, from STAC 1.1 `bands` and 1.0 `eo:bands`."""
    for band in (*asset.extra_fields.get("bands", []), *asset.extra_fields.get("eo:bands", [])):
        for key in ("eo:common_name", "common_name", "name"):
            if name := band.get(key):
                yield str(name)


def find_asset(item: pystac.Item, band: str) -> pystac.Asset:
    """Return the asset of a band, by asset key (any case) or by the name of its only band.

    Raises:
        InvalidItem: no asset has that name.
    """
    by_key = {key.lower(): asset for key, asset in item.assets.items()}
    if found := by_key.get(band.lower()):
        return found
    for asset in item.assets.values():
        if _holds_one_band(asset) and band in set(band_names(asset)):
            return asset
    raise InvalidItem(
        f"Item {item.id} has no asset for band {band}; it has {', '.join(sorted(item.assets)) or 'none'}."
    )


def _holds_one_band(asset: pystac.Asset) -> bool:
    lists = (asset.extra_fields.get("bands"), asset.extra_fields.get("eo:bands"))
    return any(bands is not None and len(bands) == 1 for bands in lists)
