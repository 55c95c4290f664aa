"""Scale and offset of a scene: what item and file say of its digital numbers, and the table that decides, and why.

Sentinel-2 Level-2A pixels of processing baseline 04.00 and later hold reflectance * 10000 + 1000, so that dark ground
may be slightly negative (BOA_ADD_OFFSET; Sentinel-2 Products Specification, https://sentiwiki.copernicus.eu/web/s2-products).
Whether an archive still delivers them so differs by archive, and the sensing date says nothing: old scenes are
reprocessed. Field reports: https://github.com/Element84/earth-search/issues/66 and /71,
https://github.com/cirrus-geo/cirrus-earth-search/issues/33, https://github.com/microsoft/PlanetaryComputer/issues/134.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pystac

from stac.errors import InvalidItem
from stac.grid.assets import Sensor, sensor_of
from stac.io.file_facts import BandFacts, undeclared
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE, Scaling
from stac.search.acquisitions import baseline_of

#: Flags of Earth Search, today's and that of its version 0.
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
#: Products of Landsat: level in the third word, collection in the one before the last.
_LANDSAT_PRODUCT = re.compile(r"\bL[COTEM]0[4-9]_(L[12][A-Z]{2})_\d{6}_\d{8}(?:_\d{8})?_(0[12])_", re.IGNORECASE)
_LANDSAT_NAME = re.compile(
    r"c(?:ollection)?[-_ ]?0?(?P<number>[12])(?:[-_ /]t[12])?[-_ /]?l(?:evel)?[-_ ]?(?P<level>[12])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Declared:
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
    declared: Declared
    #: What each of them says.
    in_item: Declared
    in_file: Declared


_SILENT = Declared(None, None, None)


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


def _declared(item: pystac.Item, asset: pystac.Asset, index: int) -> Declared:
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
    return Declared(scale, offset, nodata)


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


def _in_file(band: BandFacts) -> Declared:
    nodata = None if band.nodata is None or not math.isfinite(band.nodata) else int(band.nodata)
    return Declared(band.scale, band.offset, nodata)


def _together(item: pystac.Item, said: Declared, found: Declared) -> Declared:
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
    return Declared(*(
        getattr(found if getattr(said, name) is None else said, name) for name in ("scale", "offset", "nodata")
    ))  # fmt: skip


#: BOA_ADD_OFFSET of -1000 in reflectance, and the first baseline that has it.
SENTINEL2_OFFSET, FIRST_WITH_OFFSET = -0.1, (4, 0)
#: Landsat Collection 2 surface reflectance (https://www.usgs.gov/landsat-missions/landsat-collection-2-level-2-science-products).
LANDSAT_SCALE, LANDSAT_OFFSET = 0.0000275, -0.2
#: Reflectance of one step. Coarser steps are a scale that was not filled in: 8-bit images have 0.004.
_COARSEST_SCALE = 0.01
#: An offset this large is in digital numbers, not in reflectance.
_LARGEST_OFFSET = 1.0


@dataclass(frozen=True, slots=True)
class Decision(Scaling):
    """Reflectance = DN * scale + offset, except at `nodata`; and the reason in a sentence."""

    reason: str
    #: Whether the pixels could hold Sentinel-2's offset although they are read without.
    offset_at_stake: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table: the first that applies decides."""

    applies: Callable[[Evidence], bool]
    reason: str
    #: Scale and offset; None takes what is declared, else 0.0001 (of Sentinel-2) and 0.
    scale: float | None = None
    offset: float | None = None


def _has_offset(evidence: Evidence) -> bool:
    """Return whether ESA delivered the scene with the offset."""
    return evidence.baseline is not None and evidence.baseline >= FIRST_WITH_OFFSET


#: In order of trust. `{baseline}`, `{archive}` and `{declared}` are filled in.
RULES: tuple[Rule, ...] = (
    Rule(
        lambda e: e.landsat_level2,
        "Landsat Collection 2 Level 2 surface reflectance has one scale and offset for all scenes.",
        scale=LANDSAT_SCALE,
        offset=LANDSAT_OFFSET,
    ),
    Rule(
        lambda e: e.sentinel2 and re.search(r"harmoni[sz]ed", e.collection, re.IGNORECASE) is not None,
        "The collection is harmonised: the offset of baseline 04.00 and later has been subtracted by the service.",
        offset=0.0,
    ),
    Rule(
        lambda e: e.sentinel2 and e.offset_applied is True,
        "{archive} says that the offset of baseline {baseline} has been subtracted from the pixels; the offset "
        "{declared} that it declares as well describes the pixels before that.",
        offset=0.0,
    ),
    Rule(
        lambda e: e.sentinel2 and e.offset_applied is False and _has_offset(e),
        "Baseline {baseline} adds 1000 to every pixel and {archive} says that it was not subtracted; this flag is "
        "known to be wrong at times, so the pixels are checked.",
        offset=SENTINEL2_OFFSET,
    ),
    Rule(
        lambda e: e.sentinel2 and e.baseline is not None and not _has_offset(e),
        "Baseline {baseline} is older than 04.00, the first that adds an offset.",
        offset=0.0,
    ),
    Rule(
        lambda e: e.sentinel2 and e.declared.offset is not None,
        "{archive} declares offset {declared} for baseline {baseline} and nothing contradicts it.",
    ),
    Rule(
        lambda e: e.sentinel2 and _has_offset(e),
        "{archive} declares no offset and delivers what ESA made: baseline {baseline} adds 1000 to every pixel.",
        offset=SENTINEL2_OFFSET,
    ),
    Rule(
        lambda e: e.sentinel2,
        "{archive} states neither an offset nor a baseline; no offset is assumed and the pixels are checked.",
        offset=0.0,
    ),
    Rule(
        lambda e: e.declared.scale is not None,
        "Item or file declares scale and offset, and nothing is known that contradicts it.",
    ),
)


def decide(item: pystac.Item, asset: pystac.Asset, band: BandFacts | None = None) -> Decision:
    """Return how to read an asset's digital numbers, and why.

    Args:
        item: the scene.
        asset: of the band.
        band: what its file says; None where there is no file to ask.

    Raises:
        InvalidItem: what is said is not a number, impossible, or contradicts itself; or the product is not known and
            neither item nor file says its scale.
    """
    evidence = evidence_of(item, asset, band)
    _check(evidence)
    rule = next((rule for rule in RULES if rule.applies(evidence)), None)
    if rule is None:
        raise InvalidItem(_unknown(evidence))
    decision = _decided(evidence, rule)
    _check_file(evidence, decision)
    return decision


def _decided(evidence: Evidence, rule: Rule) -> Decision:
    declared = evidence.declared
    return Decision(
        scale=_first(rule.scale, declared.scale, PRODUCT_SCALE),
        offset=_first(rule.offset, declared.offset, 0.0),
        nodata=PRODUCT_NODATA if declared.nodata is None else declared.nodata,
        reason=rule.reason.format(
            baseline="{:02d}.{:02d}".format(*evidence.baseline) if evidence.baseline else "(not stated)",
            archive=evidence.archive or "The archive",
            declared="(none)" if declared.offset is None else f"{declared.offset:g}",
        ),
        offset_at_stake=evidence.sentinel2 and (evidence.baseline is None or _has_offset(evidence)),
    )


def _unknown(evidence: Evidence) -> str:
    """Return why there is no scale."""
    product = "is a Landsat product of unknown level" if evidence.landsat else "is of a product that is not known here"
    return (
        f"Item {evidence.item_id} {product}, and neither the item nor its file says scale and offset, which are never "
        "guessed; write them to the item (raster:scale and raster:offset of its bands)."
    )


def _check_file(evidence: Evidence, decision: Decision) -> None:
    """Raise `InvalidItem` where the file says otherwise than what was decided."""
    found = evidence.in_file
    for name, said, used in (("scale", found.scale, decision.scale), ("offset", found.offset, decision.offset)):
        if said is not None and not math.isclose(said, used, rel_tol=1e-6, abs_tol=1e-9):
            raise InvalidItem(
                f"Item {evidence.item_id}: its file has {name} {said:g}, the item leads to {used:g} "
                f"({decision.reason}) Correct one of them or leave the scene out."
            )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _check(evidence: Evidence) -> None:
    """Raise `InvalidItem` where what is declared cannot be true."""
    scale, offset = evidence.declared.scale, evidence.declared.offset
    name = f"Item {evidence.item_id} declares"
    if scale is not None and not (0 < scale < math.inf):
        raise InvalidItem(f"{name} scale {scale}; expected a finite number above 0.")
    if offset is not None and not math.isfinite(offset):
        raise InvalidItem(f"{name} offset {offset}; expected a finite number.")
    if scale is not None and scale > _COARSEST_SCALE:
        raise InvalidItem(f"{name} scale {scale:g}: one step would be that much reflectance; correct the item.")
    if offset is not None and abs(offset) >= _LARGEST_OFFSET:
        raise InvalidItem(f"{name} offset {offset:g}, in digital numbers it seems; expected reflectance, such as -0.1.")
    if evidence.landsat_level2:
        _check_landsat(evidence)
    elif evidence.sentinel2:
        _check_sentinel2(evidence)


def _check_landsat(evidence: Evidence) -> None:
    scale, offset = evidence.declared.scale, evidence.declared.offset
    expected = ((scale, LANDSAT_SCALE), (offset, LANDSAT_OFFSET))
    if any(said is not None and not math.isclose(said, true, rel_tol=1e-6) for said, true in expected):
        raise InvalidItem(
            f"Item {evidence.item_id} declares scale {scale} and offset {offset}; surface reflectance of Landsat "
            f"Collection 2 has {LANDSAT_SCALE} and {LANDSAT_OFFSET}. Choose a reflective band or correct the item."
        )


def _check_sentinel2(evidence: Evidence) -> None:
    scale, offset, name = evidence.declared.scale, evidence.declared.offset, f"Item {evidence.item_id}"
    if evidence.archive and scale is not None and not math.isclose(scale, PRODUCT_SCALE, rel_tol=1e-6):
        raise InvalidItem(f"{name} declares scale {scale:g}; {evidence.archive} stores Sentinel-2 with 0.0001.")
    if evidence.offset_applied or offset is None:
        return
    if not offset and evidence.in_item.offset is None and _has_offset(evidence):
        raise InvalidItem(
            f"{name} has a processing baseline that adds 1000 to every pixel, its file has scale {scale:g} and offset "
            "0; write the offset to the item (raster:offset): -0.1, or 0 where it has been subtracted."
        )
    if offset and evidence.baseline is not None and not _has_offset(evidence):
        raise InvalidItem(
            f"{name} declares offset {offset:g} for a processing baseline older than 04.00, which has none; "
            "correct the baseline or the offset."
        )
    if offset == 0 and evidence.offset_applied is False and _has_offset(evidence):
        raise InvalidItem(
            f"{name} says that the offset of its baseline was not subtracted, and declares offset 0; "
            "correct the flag or the offset."
        )
