"""What an item says about its digital numbers, gathered from the many places where catalogs say it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

import pystac

from stac.errors import InvalidItem

#: Flags of Earth Search, today's and that of its version 0.
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
#: ESA product names hold the baseline as `_N0509_`.
_IN_NAME = re.compile(r"_N(\d{2})(\d{2})_")
#: Products made by hand with Sen2Cor carry 99.99, whatever their baseline.
_UNKNOWN_BASELINE = 99


@unique
class Provider(StrEnum):
    """Archives that differ in what they do to pixels."""

    EARTH_SEARCH = "Earth Search"
    PLANETARY_COMPUTER = "Planetary Computer"
    OTHER = "the archive"


@dataclass(frozen=True, slots=True)
class Declared:
    """Scale, offset and nodata of the first band as written in the item; None where nothing is written."""

    scale: float | None
    offset: float | None
    nodata: int | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that decides how an asset's digital numbers are read."""

    item_id: str
    collection: str
    provider: Provider
    #: Sentinel-2 of any level.
    sentinel2: bool
    #: Landsat Collection 2 Level 2.
    landsat_level2: bool
    #: Processing baseline as (5, 9) for 05.09; None where unknown.
    baseline: tuple[int, int] | None
    #: What Earth Search says about the offset: already subtracted, not subtracted, or nothing.
    offset_applied: bool | None
    declared: Declared


def evidence_of(item: pystac.Item, asset: pystac.Asset) -> Evidence:
    """Return what an item says about the digital numbers of one of its assets.

    Raises:
        InvalidItem: scale, offset or nodata are not usable numbers, or the offset flag is neither true nor false.
    """
    return Evidence(
        item_id=item.id,
        collection=item.collection_id or "",
        provider=_provider(item),
        sentinel2=_is_sentinel2(item),
        landsat_level2=_is_landsat_level2(item),
        baseline=_baseline(item),
        offset_applied=_offset_applied(item),
        declared=_declared(item.id, asset),
    )


def _provider(item: pystac.Item) -> Provider:
    if any(name.startswith("earthsearch:") for name in item.properties) or _offset_applied(item) is not None:
        return Provider.EARTH_SEARCH
    hrefs = [asset.href for asset in item.assets.values()]
    hosts = re.compile(r"^https://([^/]+\.blob\.core\.windows\.net|planetarycomputer\.microsoft\.com)/")
    return Provider.PLANETARY_COMPUTER if any(hosts.match(href) for href in hrefs) else Provider.OTHER


def _is_sentinel2(item: pystac.Item) -> bool:
    said = (item.properties.get("constellation"), item.properties.get("platform"), item.collection_id)
    return any(str(name).lower().startswith("sentinel-2") for name in said)


def _is_landsat_level2(item: pystac.Item) -> bool:
    properties = item.properties
    if properties.get("landsat:collection_number") == "02":
        return str(properties.get("landsat:correction", "")).startswith("L2S")
    return item.collection_id in ("landsat-c2-l2", "landsat-c2l2-sr")


def _baseline(item: pystac.Item) -> tuple[int, int] | None:
    """Return the processing baseline from a property, else from the name of the product."""
    for name in _BASELINES:
        if found := re.fullmatch(r"(\d{1,2})\.(\d{1,2})", str(item.properties.get(name, ""))):
            break
    else:
        found = _IN_NAME.search(f"{item.properties.get('s2:product_uri', '')} {item.id}")
    if not found or int(found[1]) == _UNKNOWN_BASELINE:
        return None
    return int(found[1]), int(found[2])


def _offset_applied(item: pystac.Item) -> bool | None:
    for name in _APPLIED:
        flag = item.properties.get(name)
        if isinstance(flag, bool):
            return flag
        if flag is not None:
            raise InvalidItem(f"Item {item.id} says {name}: {flag!r}; expected true or false, correct the item.")
    return None


def _declared(item_id: str, asset: pystac.Asset) -> Declared:
    """Read STAC 1.1 `bands` and 1.0 `raster:bands`; the more special place wins."""
    fields: dict[str, Any] = {}
    for place in _places(asset):
        for name in ("scale", "offset", "nodata"):
            for key in (name, f"raster:{name}"):
                if place.get(key) is not None:
                    fields[name] = place[key]
    try:
        return Declared(
            scale=float(fields["scale"]) if "scale" in fields else None,
            offset=float(fields["offset"]) if "offset" in fields else None,
            nodata=int(fields["nodata"]) if "nodata" in fields else None,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidItem(f"Item {item_id} declares scale, offset or nodata that are not numbers: {fields}.") from error


def _places(asset: pystac.Asset) -> Iterator[Mapping[str, Any]]:
    yield asset.extra_fields
    for name in ("raster:bands", "bands"):
        bands = asset.extra_fields.get(name)
        if isinstance(bands, list) and bands and isinstance(bands[0], dict):
            yield bands[0]
