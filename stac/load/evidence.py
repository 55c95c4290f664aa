"""What an item and its file say of the digital numbers of a scene: product, baseline, scale, offset and nodata."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pystac

from stac.errors import InvalidItem
from stac.grid.assets import Sensor, sensor_of
from stac.io.raster import BandFacts, undeclared
from stac.search.acquisitions import baseline_of

#: Flags of Earth Search, today's and that of its version 0.
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
#: Products of Landsat: level in the third word, collection in the one before the last.
_LANDSAT_PRODUCT = re.compile(r"\bL[COTEM]0[4-9]_(L[12][A-Z]{2})_\d{6}_\d{8}(?:_\d{8})?_(0[12])_", re.IGNORECASE)
_LANDSAT_NAME = re.compile(
    r"c(?:ollection)?[-_ ]?0?(?P<number>[12])(?:[-_ /]t[12])?[-_ /]?l(?:evel)?[-_ ]?(?P<level>[12])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class DeclaredScale:
    """Scale, offset and nodata of a band, as its item or its file says; None where nothing is said."""

    scale: float | None
    offset: float | None
    nodata: int | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that decides how an asset's digital numbers are read."""

    item_id: str
    collection: str
    #: Archive that is known to differ in what it does to pixels; "" for others.
    archive: str
    #: Sentinel-2 of any level.
    sentinel2: bool
    #: Any product of Landsat.
    landsat: bool
    #: Landsat Collection 2 Level 2.
    landsat_level2: bool
    #: Processing baseline as (5, 9) for 05.09; None where unknown.
    baseline: tuple[int, int] | None
    #: What Earth Search says about the offset: already subtracted, not subtracted, or nothing.
    offset_applied: bool | None
    #: What the item says, and what the file says where the item says nothing.
    declared: DeclaredScale
    #: What each of them says.
    in_item: DeclaredScale
    in_file: DeclaredScale


_SILENT = DeclaredScale(None, None, None)


def evidence_of(item: pystac.Item, asset: pystac.Asset, band: BandFacts | None = None) -> Evidence:
    """Return what an item and its file say about the digital numbers of one of its assets.

    Args:
        item: the scene.
        asset: of the band.
        band: what its file says; None where there is no file to ask.

    Raises:
        InvalidItem: scale, offset or nodata are not usable numbers, item and file contradict each other, or the item
            itself (offset flag, level).
    """
    landsat, level2 = _landsat(item)
    in_item = _declared(item, asset, 1 if band is None else band.index)
    in_file = _SILENT if band is None else _in_file(band)
    return Evidence(
        item_id=item.id,
        collection=item.collection_id or "",
        archive=_archive(item),
        sentinel2=not landsat and sensor_of(item) is Sensor.MSI,
        landsat=landsat,
        landsat_level2=level2,
        baseline=_baseline(item),
        offset_applied=_offset_applied(item),
        declared=_together(item, in_item, in_file),
        in_item=in_item,
        in_file=in_file,
    )


def _archive(item: pystac.Item) -> str:
    if any(name.startswith("earthsearch:") for name in item.properties) or _offset_applied(item) is not None:
        return "Earth Search"
    hrefs = [asset.href for asset in item.assets.values()]
    hosts = re.compile(r"^https://([^/]+\.blob\.core\.windows\.net|planetarycomputer\.microsoft\.com)/")
    return "Planetary Computer" if any(hosts.match(href) for href in hrefs) else ""


def _landsat(item: pystac.Item) -> tuple[bool, bool]:
    """Return whether a scene is Landsat's, and whether it is surface reflectance of Collection 2.

    Every place that names level or collection is a witness.

    Raises:
        InvalidItem: they contradict each other.
    """
    properties, named = item.properties, item.collection_id or ""
    words = [str(properties.get(name, "")) for name in ("platform", "constellation")]
    known = any("landsat" in text.lower() for text in (*words, named)) or any(
        name.startswith("landsat:") for name in properties
    )
    products = [str(properties.get(name, "")) for name in ("landsat:product_id", "landsat:scene_id")]
    found = [match for text in (item.id, *products) if (match := _LANDSAT_PRODUCT.search(text))]
    if not (known or found):
        return False, False
    levels = {f"product {match[0].rstrip('_')}": match[1][1] for match in found}
    collections = {f"product {match[0].rstrip('_')}": match[2][1] for match in found}
    for name in ("landsat:correction", "landsat:processing_level", "processing:level"):
        if level := re.match(r"L([12])", str(properties.get(name, "")).upper()):
            levels[f"{name} {properties[name]}"] = level[1]
    if number := re.fullmatch(r"0?([12])", str(properties.get("landsat:collection_number", ""))):
        collections["landsat:collection_number"] = number[1]
    if match := _LANDSAT_NAME.search(named):
        levels[f"collection {named}"], collections[f"collection {named}"] = match["level"], match["number"]
    for what, said in (("level", levels), ("Collection", collections)):
        if len(set(said.values())) > 1:
            both = ", ".join(f"{value} ({place})" for place, value in said.items())
            raise InvalidItem(f"Item {item.id} names more than one Landsat {what}: {both}; correct the item.")
    # Names of Level 2 products exist since Collection 2.
    second = set(collections.values()) == {"2"} or not collections
    return True, second and set(levels.values()) == {"2"}


def _baseline(item: pystac.Item) -> tuple[int, int] | None:
    """Return the processing baseline; None where it is unknown or not two numbers."""
    found = baseline_of(item)
    return (found[0], found[1]) if len(found) == 2 else None


def _offset_applied(item: pystac.Item) -> bool | None:
    for name in _APPLIED:
        flag = item.properties.get(name)
        if isinstance(flag, bool):
            return flag
        if flag is not None:
            raise InvalidItem(f"Item {item.id} says {name}: {flag!r}; expected true or false, correct the item.")
    return None


def _declared(item: pystac.Item, asset: pystac.Asset, index: int) -> DeclaredScale:
    """Read STAC 1.1 `bands` and 1.0 `raster:bands`; the more special place wins.

    Scale 1 with offset 0 is what tools write that know nothing.
    """
    fields: dict[str, Any] = {}
    for place in _places(item, asset, index):
        for name in ("scale", "offset", "nodata"):
            for key in (name, f"raster:{name}"):
                if place.get(key) is not None:
                    fields[name] = place[key]
    try:
        scale, offset = (float(fields[name]) if name in fields else None for name in ("scale", "offset"))
        nodata = _whole(fields["nodata"]) if "nodata" in fields else None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidItem(f"Item {item.id} declares scale, offset or nodata that are not numbers: {fields}.") from error
    if undeclared(scale, offset) and scale is not None:
        scale, offset = None, None
    return DeclaredScale(scale, offset, nodata)


def _whole(value: Any) -> int | None:
    """Return a nodata value of whole digital numbers; "nan", as tools write for rasters of any type, is none."""
    if str(value).lower() == "nan":
        return None
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"nodata {value}")
    return int(number)


def _places(item: pystac.Item, asset: pystac.Asset, index: int) -> Iterator[Mapping[str, Any]]:
    yield {name: value for name, value in item.properties.items() if name in ("raster:scale", "raster:offset")}
    yield asset.extra_fields
    for name in ("raster:bands", "bands"):
        bands = asset.extra_fields.get(name)
        at = index - 1 if isinstance(bands, list) and len(bands) >= index else 0
        if isinstance(bands, list) and bands and isinstance(bands[at], dict):
            yield bands[at]


def _in_file(band: BandFacts) -> DeclaredScale:
    nodata = None if band.nodata is None or not math.isfinite(band.nodata) else int(band.nodata)
    return DeclaredScale(band.scale, band.offset, nodata)


def _together(item: pystac.Item, said: DeclaredScale, found: DeclaredScale) -> DeclaredScale:
    """Return what item or file say.

    Raises:
        InvalidItem: they contradict each other. An offset that its archive has subtracted is contradicted by its own
            flag, which decides.
    """
    for name in ("scale", "offset", "nodata"):
        one, other = getattr(said, name), getattr(found, name)
        if one is None or other is None or math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12):
            continue
        if name == "offset" and _offset_applied(item):
            continue
        raise InvalidItem(
            f"Item {item.id} declares {name} {one:g}, its file has {other:g}; correct the item or leave the scene out."
        )
    return DeclaredScale(*(
        getattr(found if getattr(said, name) is None else said, name) for name in ("scale", "offset", "nodata")
    ))  # fmt: skip
