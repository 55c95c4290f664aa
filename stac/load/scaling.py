"""Scale and offset of a scene: the table that decides how its digital numbers become reflectance, and why.

Sentinel-2 Level-2A pixels of processing baseline 04.00 and later hold reflectance * 10000 + 1000, so that dark ground
may be slightly negative (BOA_ADD_OFFSET; Sentinel-2 Products Specification, https://sentiwiki.copernicus.eu/web/s2-products).
Whether an archive still delivers them so differs by archive, and the sensing date says nothing: old scenes are
reprocessed. Field reports: https://github.com/Element84/earth-search/issues/66 and /71,
https://github.com/cirrus-geo/cirrus-earth-search/issues/33, https://github.com/microsoft/PlanetaryComputer/issues/134.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import pystac

from stac.errors import InvalidItem
from stac.io.raster import BandFacts
from stac.load.evidence import Evidence, evidence_of
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE, Scaling

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
