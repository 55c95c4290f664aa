"""STAC 1.1 items for products, written field by field.

pystac's raster and eo classes still write the band fields of STAC 1.0, which STAC Browser ignores in 1.1 items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from odc.geo.geobox import GeoBox

from stac.access.redaction import without_secret
from stac.credits import may_be_shown
from stac.extensions import PUBLICATIONS, product_extensions
from stac.footprints import BBox, box_of, cut, outline_of_grid
from stac.item_assets import COG_TYPE as COG_TYPE
from stac.item_assets import file_info as file_info
from stac.item_assets import product_assets
from stac.product import ProductSummary
from stac.renders import renders_of

#: Properties of the target scene that are true of its product too.
_CARRIED = (
    "platform",
    "constellation",
    "instruments",
    "attribution",
    "view:off_nadir",
    "view:incidence_angle",
    "view:azimuth",
    "view:sun_azimuth",
    "view:sun_elevation",
)
#: Likewise, where the product lies in the square of the target's grid.
_CARRIED_IN_SQUARE = ("grid:code", "mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")
#: How a pixel of `data` comes about; `source_date`, `reference_weight` and the target are the operands.
_EXPRESSION = {
    "format": "text",
    "expression": "data = target where observed clear; matched(median of other dates) where another date is clear; "
    "interpolated from the known ground around where reference_weight = 1; W * reference + (1 - W) * diffusion "
    "elsewhere, W = reference_weight; nodata where not recoverable",
}
_LINEAGE = (
    "Cloud masks, median of other dates matched to the target date, Diffusion Enhancement "
    "([arXiv 2401.15105](https://arxiv.org/abs/2401.15105)) where no date saw the ground."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRecord:
    """What an item says about how its product was made."""

    item_id: str
    work_id: str
    #: The source item whose date is restored.
    target: pystac.Item
    #: The other dates that were used.
    donors: tuple[pystac.Item, ...]
    cell_id: str
    model_name: str
    model_version: str
    model_sha256: str
    seed: int
    parameters: Mapping[str, Any]
    quality: Mapping[str, float]
    software_version: str
    created: datetime
    #: Where the model's item is, relative to the product's item or absolute; empty where none is published.
    model_href: str = ""
    #: What fills gaps, by kind of pixel.
    fillers: Mapping[str, str] = field(default_factory=dict)
    #: Other software with its version that pixels depend on.
    software: Mapping[str, str] | None = None


def build_item(record: ProductRecord, summary: ProductSummary, folder: Path) -> pystac.Item:
    """Return the item of a product whose files lie in `folder`; hrefs are relative to the item.

    Raises:
        OSError: a file of the product is missing.
    """
    outline, box = footprint(summary.geobox)
    properties = _properties(record, summary)
    item = pystac.Item(
        id=record.item_id,
        geometry=outline,
        bbox=list(box),
        datetime=record.target.datetime,
        properties=properties,
        stac_extensions=product_extensions(properties),
    )
    for key, asset in product_assets(summary, record.target, folder).items():
        item.add_asset(key, asset)
    item.add_links(_links(record))
    return item


def footprint(geobox: GeoBox) -> tuple[dict[str, Any], BBox]:
    """Return a cell's outline as GeoJSON in degrees, and its box.

    The sides are densified so that they follow the grid's curve. Across the antimeridian the outline is cut in two and
    the box has its west above its east (RFC 7946).
    """
    outline = outline_of_grid(geobox)
    rounded = shapely.transform(cut(outline), lambda points: np.round(points, 7))
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shapely.orient_polygons(rounded)))
    west, south, east, north = (round(float(n), 7) for n in box_of(outline))
    return geometry, (west, south, east, north)


def _properties(record: ProductRecord, summary: ProductSummary) -> dict[str, Any]:
    areas = summary.areas_km2
    valid = sum(areas.values()) - areas["nodata"]
    lost = 100 * areas["not_recoverable"] / valid if valid else 0.0
    target, now = record.target, record.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    day = target.datetime.strftime("%Y-%m-%d") if target.datetime else ""
    box = summary.geobox.extent.boundingbox
    return _carried(record) | {
        "title": f"{record.cell_id} {day}, clouds removed",
        "description": f"{target.id} with its clouds and shadows restored. Read `provenance` before measuring.",
        "created": now,
        "updated": now,
        # The first of its target and cell, unless the publisher finds an earlier one (`stac.product_versions`).
        "version": "1",
        "gsd": abs(float(summary.geobox.resolution.x)),
        "eo:cloud_cover": round(lost, 4),
        "proj:code": f"EPSG:{summary.geobox.crs.to_epsg()}",
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
        "processing:level": "L3",
        "processing:software": {"unveil-eo": record.software_version, **(record.software or {})},
        "processing:lineage": _LINEAGE,
        "processing:expression": _EXPRESSION,
        "renders": renders_of(summary.bands),
        "sci:publications": list(PUBLICATIONS),
        "unveil:work_id": record.work_id,
        "unveil:target": target.id,
        "unveil:target_cloud_cover": target.properties.get("eo:cloud_cover"),
        "unveil:model": {"name": record.model_name, "version": record.model_version, "sha256": record.model_sha256},
        "unveil:seed": record.seed,
        "unveil:areas": areas,
        "unveil:quality": dict(record.quality),
        "unveil:fillers": {"kinds": dict(record.fillers), "pixels": summary.pixels_by_filler},
        "unveil:parameters": dict(record.parameters),
    }


def _carried(record: ProductRecord) -> dict[str, Any]:
    """Return what the target says that is true of its product too."""
    told = record.target.properties
    code = told.get("grid:code")
    in_square = bool(code) and record.cell_id.startswith(str(code))
    names = (*_CARRIED, *(_CARRIED_IN_SQUARE if in_square else ()))
    return {name: told[name] for name in names if told.get(name) is not None}


def _links(record: ProductRecord) -> list[pystac.Link]:
    sources = [record.target, *record.donors]
    derived = [
        pystac.Link("derived_from", href, "application/geo+json", source.id)
        for source in sources
        if (href := public_href(source)) is not None
    ]
    if record.model_href:
        title = f"Model {record.model_name}, version {record.model_version}"
        derived.append(pystac.Link("derived_from", record.model_href, "application/geo+json", title))
    licences = [link.clone() for link in record.target.get_links("license") if may_be_shown(link.href)]
    for licence in licences:
        licence.title = licence.title or "Licence of the source data"
    return [*derived, *citations(), *licences]


def citations() -> list[pystac.Link]:
    """Return links to the publications, as the scientific extension asks for."""
    return [
        pystac.Link("cite-as", f"https://doi.org/{each['doi']}", "text/html", each["citation"]) for each in PUBLICATIONS
    ]


def public_href(item: pystac.Item) -> str | None:
    """Return the address of a source item: where its archive keeps it, else where it was found; never with a login."""
    canonical = item.get_single_link("canonical")
    named = without_secret(str(canonical.href)) if canonical is not None else ""
    found = item.get_self_href()
    if may_be_shown(named):
        return named
    return without_secret(found) if found else None
