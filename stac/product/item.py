"""The STAC item of a product: properties, extensions, links, and whom it credits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from stac.composite.methods import CompositeMethod
from stac.grid.footprint import BBox, box_of, cut, outline_of_grid
from stac.io.addresses import host_of, is_web
from stac.io.raster import epsg_code
from stac.io.secrets import holds_secret, without_secret
from stac.product.assets import product_assets, renders_of
from stac.product.writer import ProductSummary
from stac.search.acquisitions import cloud_cover

PROCESSOR: dict[str, Any] = {
    "name": "Unveil",
    "description": "Clouds removed with Diffusion Enhancement; every restored pixel marked.",
    "roles": ["processor"],
}
#: Keywords of every product beside those of its source.
KEYWORDS = ("cloud-free", "mosaic", "cloud removal")
_AUTHORS = "Sui, J., Ma, Y., Yang, W., Zhang, X., Pun, M.-O., Liu, J."
PAPER = "Diffusion Enhancement for Cloud Removal in Ultra-Resolution Remote Sensing Imagery"
#: The paper of the method, as preprint and in its journal, in the words of the scientific extension.
PUBLICATIONS: tuple[dict[str, str], ...] = (
    {"doi": "10.48550/arXiv.2401.15105", "citation": f"{_AUTHORS} (2024). {PAPER}. arXiv:2401.15105."},
    {
        "doi": "10.1109/TGRS.2024.3411671",
        "citation": f"{_AUTHORS} (2024). {PAPER}. IEEE Transactions on Geoscience and Remote Sensing, 62, 1-14.",
    },
)
_SCHEMAS = "https://stac-extensions.github.io"
#: Properties of the target scene that are true of its product too.
_CARRIED = (
    "platform", "constellation", "instruments", "attribution", "view:off_nadir", "view:incidence_angle", "view:azimuth",
    "view:sun_azimuth", "view:sun_elevation",
)  # fmt: skip
#: Likewise, where the product lies in the square of the target's grid.
_CARRIED_IN_SQUARE = ("grid:code", "mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square")
#: Ranges of carried angles, degrees: a source that names another does not spoil its product.
_ANGLES = {"view:sun_elevation": (-90, 90), "view:sun_azimuth": (0, 360), "view:azimuth": (0, 360)}
_OTHER_ANGLES = (0, 90)
#: What fills pixels that other dates saw, by composite.
_COMPOSITES = {
    CompositeMethod.FUSED: "weighted mean of the other dates, each mapped to the target date",
    CompositeMethod.NEAREST: "nearest other date, as it is",
    CompositeMethod.MEDIAN: "median of the other dates, as they are",
    CompositeMethod.GEOMEDIAN: "geometric median of the other dates, as they are",
}


def licence_of(source: Mapping[str, Any]) -> str:
    """Return the licence of a source collection in the words of STAC 1.1, `other` where it names none."""
    # `proprietary` and `various` are of STAC 1.0.
    licence = source.get("license")
    return str(licence) if licence not in (None, "", "proprietary", "various") else "other"


def providers_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the providers that a document from outside names; only addresses of web pages are kept."""
    found = [dict(each) for each in document.get("providers") or [] if isinstance(each, Mapping) and each.get("name")]
    return [{key: value for key, value in each.items() if key != "url" or may_be_shown(value)} for each in found]


def licence_links(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the links to licences in a document from outside that lead to web pages."""
    links = [dict(link) for link in document.get("links") or [] if isinstance(link, Mapping)]
    return [link for link in links if link.get("rel") == "license" and may_be_shown(link.get("href"))]


def may_be_shown(href: object) -> bool:
    """Return whether an address from outside may become a link: `javascript:` and `data:` run where it is clicked."""
    return (
        isinstance(href, str) and is_web(href) and href.isprintable() and bool(host_of(href)) and not holds_secret(href)
    )


def credit(item: pystac.Item, source: Mapping[str, Any], version: str) -> None:
    """Carry what a source collection says of its makers and terms into the item of a product.

    Args:
        item: changed in place; what it says itself stays.
        source: the source collection's document.
        version: of this software.
    """
    properties, software = item.properties, {"processing:software": {"unveil-eo": version}}
    properties.setdefault("license", licence_of(source))
    properties.setdefault("providers", [*providers_of(source), PROCESSOR | software])
    properties.setdefault("keywords", sorted({*KEYWORDS, *source.get("keywords", [])}))
    if attribution := source.get("attribution"):
        properties.setdefault("attribution", attribution)
    if not item.get_links("license"):
        item.add_links([_licence_link(link) for link in licence_links(source)])


def _licence_link(link: Mapping[str, Any]) -> pystac.Link:
    title = link.get("title") or "Licence of the source data"
    return pystac.Link("license", str(link["href"]), link.get("type"), title)


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


@unique
class Extension(StrEnum):
    """Identifiers as `stac_extensions` lists them."""

    PROJECTION = f"{_SCHEMAS}/projection/v2.0.0/schema.json"
    RASTER = f"{_SCHEMAS}/raster/v2.0.0/schema.json"
    EO = f"{_SCHEMAS}/eo/v2.0.0/schema.json"
    FILE = f"{_SCHEMAS}/file/v2.1.0/schema.json"
    CLASSIFICATION = f"{_SCHEMAS}/classification/v2.0.0/schema.json"
    PROCESSING = f"{_SCHEMAS}/processing/v1.1.0/schema.json"
    RENDER = f"{_SCHEMAS}/render/v2.0.0/schema.json"
    VERSION = f"{_SCHEMAS}/version/v1.2.0/schema.json"
    SCIENTIFIC = f"{_SCHEMAS}/scientific/v1.0.0/schema.json"
    VIEW = f"{_SCHEMAS}/view/v1.0.0/schema.json"
    GRID = f"{_SCHEMAS}/grid/v1.1.0/schema.json"
    MGRS = f"{_SCHEMAS}/mgrs/v1.0.0/schema.json"
    MLM = f"{_SCHEMAS}/mlm/v1.4.0/schema.json"


#: Of every product.
PRODUCT_EXTENSIONS = (
    Extension.PROJECTION,
    Extension.RASTER,
    Extension.EO,
    Extension.FILE,
    Extension.CLASSIFICATION,
    Extension.PROCESSING,
    Extension.RENDER,
    Extension.VERSION,
    Extension.SCIENTIFIC,
)
#: Of products whose source says that much; each of these schemas asks for at least one field.
_OPTIONAL_EXTENSIONS = {"view": Extension.VIEW, "grid": Extension.GRID, "mgrs": Extension.MGRS}
#: Of every model.
MODEL_EXTENSIONS = (Extension.MLM, Extension.FILE, Extension.VERSION, Extension.SCIENTIFIC, Extension.PROCESSING)


def product_extensions(properties: Mapping[str, Any]) -> list[str]:
    """Return what an item with these properties declares."""
    prefixes = {name.partition(":")[0] for name in properties}
    found = [extension for prefix, extension in _OPTIONAL_EXTENSIONS.items() if prefix in prefixes]
    return [str(extension) for extension in (*PRODUCT_EXTENSIONS, *found)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRecord:
    """What an item says about how its product was made."""

    item_id: str
    work_id: str
    #: The source item whose date is restored.
    target: pystac.Item
    #: The other dates that were used.
    source_dates: tuple[pystac.Item, ...]
    cell_id: str
    parameters: Mapping[str, Any]
    quality: Mapping[str, float]
    software_version: str
    created: datetime
    #: `none` where no model was at hand.
    model_name: str = "none"
    model_version: str = ""
    model_sha256: str = ""
    seed: int = 0
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
    copied = _composite(record) is CompositeMethod.NEAREST
    for key, asset in product_assets(summary, record.target, folder, copied=copied).items():
        item.add_asset(key, asset)
    item.add_links(_links(record))
    return item


def footprint(geobox: GeoBox) -> tuple[dict[str, Any], BBox]:
    """Return a cell's outline as GeoJSON in degrees, and its box.

    The sides are densified so that they follow the grid's curve. Across the antimeridian the outline is cut in two and
    the box has its west above its east (RFC 7946).
    """
    return geometry_of(outline_of_grid(geobox))


def geometry_of(outline: BaseGeometry) -> tuple[dict[str, Any], BBox]:
    """Return an outline in degrees as GeoJSON, cut at the antimeridian, and its box, west above east there."""
    rounded = shapely.transform(cut(outline), lambda points: np.round(points, 7))
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shapely.orient_polygons(rounded)))
    west, south, east, north = (round(float(n), 7) for n in box_of(outline))
    return geometry, (west, south, east, north)


def rfc3339(moment: datetime) -> str:
    """Return an instant in whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def first_version(created: datetime) -> dict[str, str]:
    """Return when an item was made, and its version: the first, unless the publisher finds an earlier one."""
    return {"created": rfc3339(created), "updated": rfc3339(created), "version": "1"}


def _properties(record: ProductRecord, summary: ProductSummary) -> dict[str, Any]:
    areas = summary.areas_km2
    valid = sum(areas.values()) - areas["nodata"]
    lost = 100 * areas["not_recoverable"] / valid if valid else 0.0
    cover = cloud_cover(record.target)
    target = record.target
    day = target.datetime.strftime("%Y-%m-%d") if target.datetime else ""
    parts = _parts(record, summary)
    return _carried(record) | {
        "title": f"{record.cell_id} {day}, clouds removed",
        "description": f"{target.id} with its clouds and shadows restored. Read `provenance` before measuring.",
        **first_version(record.created),
        "gsd": abs(float(summary.geobox.resolution.x)),
        **({} if cover is None else {"eo:cloud_cover": cover}),
        **ground_fields(summary.geobox),
        "processing:level": "L3",
        "processing:software": {"unveil-eo": record.software_version, **(record.software or {})},
        "processing:lineage": " ".join(["Cloud masks.", *(sentence for *_, sentence in parts)]),
        "processing:expression": {
            "format": "text",
            "expression": "data = " + "; ".join(f"{formula} where {where}" for formula, where, _ in parts),
        },
        "renders": renders_of(summary.bands),
        "sci:publications": list(PUBLICATIONS),
        "unveil:work_id": record.work_id,
        "unveil:target": target.id,
        "unveil:not_recoverable": round(lost, 4),
        "unveil:model": {"name": record.model_name, "version": record.model_version, "sha256": record.model_sha256},
        "unveil:seed": record.seed,
        "unveil:areas": areas,
        "unveil:quality": dict(record.quality),
        "unveil:fillers": {"kinds": dict(record.fillers), "pixels": summary.pixels_by_filler},
        "unveil:parameters": dict(record.parameters),
    }


def ground_fields(geobox: GeoBox) -> dict[str, Any]:
    """Return the fields that say which ground a product shows: projection, and edges in its units."""
    box = geobox.extent.boundingbox
    return {**projection(geobox.crs), "proj:bbox": [box.left, box.bottom, box.right, box.top]}


def projection(crs: CRS) -> dict[str, Any]:
    """Return the fields that name a projection: its EPSG code, or none and all of its definition."""
    code = epsg_code(crs)
    return {"proj:code": code} if code else {"proj:code": None, "proj:wkt2": crs.to_wkt()}


def _composite(record: ProductRecord) -> CompositeMethod:
    """Return how other dates were used; what a record of another version does not say is our default."""
    return CompositeMethod(record.parameters.get("composite", CompositeMethod.FUSED))


def _parts(record: ProductRecord, summary: ProductSummary) -> list[tuple[str, str, str]]:
    """Return (formula, where, sentence) of everything that made pixels of a product."""
    areas = summary.areas_km2
    parts = [("target", "observed clear", "Observed pixels of the target date, bit for bit.")]
    if areas["other_dates"]:
        composite = _COMPOSITES[_composite(record)]
        parts.append((f"composite({composite})", "another date is clear", f"Where another date is clear: {composite}."))
    hidden = "clear on no other date" if _composite(record) is not CompositeMethod.NONE else "hidden"
    fillers = summary.pixels_by_filler
    if fillers["interpolated"]:
        where = f"{hidden} and reference_weight = 1"
        parts.append(("interpolation of the known ground around", where, f"Where {where}: the ground around."))
    if fillers["model"]:
        formula = "W * reference + (1 - W) * diffusion with W = reference_weight"
        where = f"{hidden} and reference_weight < 1" if fillers["interpolated"] else hidden
        parts.append((formula, where, f"Where {where}: {PAPER}."))
    if areas["not_recoverable"]:
        parts.append(("nodata", "not recoverable", "Elsewhere not recoverable, without data."))
    return parts


def _carried(record: ProductRecord) -> dict[str, Any]:
    """Return what the target says that is true of its product too."""
    source = record.target.properties
    code = source.get("grid:code")
    in_square = bool(code) and record.cell_id.startswith(str(code))
    names = (*_CARRIED, *(_CARRIED_IN_SQUARE if in_square else ()))
    return {name: source[name] for name in names if _is_fit(name, source.get(name))}


def _is_fit(name: str, value: object) -> bool:
    """Return whether a value may be carried: odd ones of a source would make an invalid product."""
    if name.startswith("view:"):
        low, high = _ANGLES.get(name, _OTHER_ANGLES)
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if name == "instruments":
        return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    if name == "mgrs:utm_zone":
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 60
    return isinstance(value, str) and bool(value)


def _links(record: ProductRecord) -> list[pystac.Link]:
    sources = [record.target, *record.source_dates]
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
