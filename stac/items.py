"""STAC 1.1 items for products, written field by field.

pystac's raster and eo classes still write the band fields of STAC 1.0, which STAC Browser ignores in 1.1 items.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from odc.geo.geobox import GeoBox

from stac.footprints import BBox, box_of, cut, outline_of_grid
from stac.product import DTYPES, SPECS, Layer, ProductSummary, bands_of
from stac.provenance import Provenance
from stac.reflectance import PRODUCT_SCALE

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_SCHEMAS = "https://stac-extensions.github.io"
EXTENSIONS = [
    f"{_SCHEMAS}/{name}/schema.json"
    for name in (
        "projection/v2.0.0", "raster/v2.0.0", "eo/v2.0.0", "file/v2.1.0", "classification/v2.0.0", "processing/v1.2.0"
    )
]  # fmt: skip
#: Properties of the target scene that are true of its product too.
_CARRIED = (
    "platform",
    "constellation",
    "instruments",
    "grid:code",
    "attribution",
    "view:sun_azimuth",
    "view:sun_elevation",
)

_TITLES = {
    Layer.VISUAL: ("Natural colour", "Red, green and blue for the eye, 8 bit."),
    Layer.DATA: (
        "Surface reflectance",
        "Surface reflectance times 10 000; observed pixels are bit-identical to the source.",
    ),
    Layer.PROVENANCE: ("Provenance", "Where each pixel comes from."),
    Layer.SOURCE_DATE: ("Source date", "Days since 1970-01-01 of the acquisition that saw each pixel."),
    Layer.REFERENCE_WEIGHT: ("Reference weight", "Share of the reference network in each pixel the model restored."),
    Layer.UNCERTAINTY: ("Uncertainty", "Half-width of the 90 % interval, reflectance."),
}
_ROLES = {Layer.VISUAL: ["visual", "overview"], Layer.DATA: ["data", "reflectance"]}
_PICTURES: dict[str, tuple[str, str, str, list[str]]] = {
    "thumbnail": ("thumbnail.png", "image/png", "Thumbnail", ["thumbnail"]),
    "quicklook": ("quicklook.png", "image/png", "Before, after, and where it comes from", ["graphic"]),
    "report": ("report.html", "text/html", "Quality report", ["metadata"]),
    "metadata": ("metadata.json", "application/json", "Parameters and figures", ["metadata"]),
}


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


def build_item(record: ProductRecord, summary: ProductSummary, folder: Path) -> pystac.Item:
    """Return the item of a product whose files lie in `folder`; hrefs are relative to the item.

    Raises:
        OSError: a file of the product is missing.
    """
    outline, box = footprint(summary.geobox)
    item = pystac.Item(
        id=record.item_id,
        geometry=outline,
        bbox=list(box),
        datetime=record.target.datetime,
        properties=_properties(record, summary),
        stac_extensions=list(EXTENSIONS),
    )
    for layer in Layer:
        item.add_asset(str(layer), _raster_asset(layer, summary, folder / layer.file_name))
    for key, (name, media_type, title, roles) in _PICTURES.items():
        item.add_asset(key, pystac.Asset(f"./{name}", title, None, media_type, roles, file_info(folder / name)))
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


def file_info(path: Path) -> dict[str, Any]:
    """Return size and checksum (SHA2-256 multihash) of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}


def _properties(record: ProductRecord, summary: ProductSummary) -> dict[str, Any]:
    areas = summary.areas_km2
    valid = sum(areas.values()) - areas["nodata"]
    lost = 100 * areas["not_recoverable"] / valid if valid else 0.0
    target, now = record.target, record.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    day = target.datetime.strftime("%Y-%m-%d") if target.datetime else ""
    box = summary.geobox.extent.boundingbox
    return {name: target.properties[name] for name in _CARRIED if name in target.properties} | {
        "title": f"{record.cell_id} {day}, clouds removed",
        "description": f"{target.id} with its clouds and shadows restored. Read `provenance` before measuring.",
        "created": now,
        "updated": now,
        "gsd": abs(float(summary.geobox.resolution.x)),
        "eo:cloud_cover": round(lost, 4),
        "proj:code": f"EPSG:{summary.geobox.crs.to_epsg()}",
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
        "processing:level": "L3",
        "processing:software": {"unveil-eo": record.software_version},
        "processing:lineage": "Cloud masks, median of other dates matched to the target date, Diffusion Enhancement "
        "(arXiv 2401.15105) where no date saw the ground.",
        "unveil:work_id": record.work_id,
        "unveil:target": target.id,
        "unveil:target_cloud_cover": target.properties.get("eo:cloud_cover"),
        "unveil:model": {"name": record.model_name, "version": record.model_version, "sha256": record.model_sha256},
        "unveil:seed": record.seed,
        "unveil:areas": areas,
        "unveil:quality": dict(record.quality),
        "unveil:parameters": dict(record.parameters),
    }


def _raster_asset(layer: Layer, summary: ProductSummary, path: Path) -> pystac.Asset:
    title, description = _TITLES[layer]
    fields = file_info(path) | _grid(summary.geobox)
    fields |= {"bands": _bands(layer, summary), "nodata": _json_number(SPECS[layer].nodata)}
    if layer is Layer.PROVENANCE:
        fields["classification:classes"] = _classes()
    return pystac.Asset(f"./{path.name}", title, description, COG_TYPE, _ROLES.get(layer, ["metadata"]), fields)


def _grid(geobox: GeoBox) -> dict[str, Any]:
    """Return the pixel grid of a raster; on assets, so that readers such as odc-stac tell rasters from pictures."""
    transform = [float(v) for v in tuple(geobox.affine)[:6]]
    return {"proj:shape": [int(n) for n in geobox.shape], "proj:transform": transform}


def _bands(layer: Layer, summary: ProductSummary) -> list[dict[str, Any]]:
    """Return STAC 1.1 `bands[]` in file order."""
    names = bands_of(layer, summary.bands)
    return [_band(layer, name, found) for name, found in zip(names, summary.statistics[layer], strict=True)]


def _band(layer: Layer, name: str, statistics: Mapping[str, float]) -> dict[str, Any]:
    band: dict[str, Any] = {
        "name": name,
        "data_type": DTYPES[layer],
        "nodata": _json_number(SPECS[layer].nodata),
        "statistics": dict(statistics),
    }
    if layer in (Layer.VISUAL, Layer.DATA):
        band["eo:common_name"] = name
    if layer is Layer.DATA:
        band |= {"unit": "1", "raster:scale": PRODUCT_SCALE, "raster:offset": 0}
    if layer is Layer.PROVENANCE:
        band["classification:classes"] = _classes()
    return band


def _classes() -> list[dict[str, Any]]:
    return [
        {
            "value": p.value,
            "name": p.name.lower(),
            "title": p.label,
            "description": p.description,
            "color_hint": p.color.upper(),
            "nodata": p is Provenance.NODATA,
        }
        for p in Provenance
    ]


def _json_number(value: float) -> float | int | str:
    if np.isnan(value):
        return "nan"
    return int(value) if float(value).is_integer() else value


def _links(record: ProductRecord) -> list[pystac.Link]:
    sources = [record.target, *record.donors]
    derived = [
        pystac.Link("derived_from", href, "application/geo+json", source.id)
        for source in sources
        if (href := public_href(source)) is not None
    ]
    licences = [link.clone() for link in record.target.get_links("license")]
    for licence in licences:
        licence.title = licence.title or "Licence of the source data"
    return [*derived, *licences]


def public_href(item: pystac.Item) -> str | None:
    """Return the address of a source item: where its archive keeps it, else where it was found."""
    canonical = item.get_single_link("canonical")
    href = canonical.href if canonical is not None else item.get_self_href()
    return str(href) if href else None
