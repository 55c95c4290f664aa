"""Small products that are valid in every respect: made once, then linked into place under many ids and dates."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from affine import Affine
from odc.geo.geobox import GeoBox

from stac.catalog.links import CollectionLinks, survey_of
from stac.catalog.publish import StaticCatalog
from stac.catalog.tree import placed
from stac.product.item import ProductRecord, build_item
from stac.product.layers import SOURCE_DATE_NODATA, ProductLayers
from stac.product.writer import write_product

_SHAPE, _BANDS = (16, 16), ("blue", "green", "red", "nir")
_FIRST, _DAYS = datetime(2021, 1, 1, 10, tzinfo=UTC), 1000


def make_stock(folder: Path) -> dict[str, Any]:
    """Write the files of one product into a folder; return its item's document, without a place in a catalog."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    layers = ProductLayers(
        data=random.integers(1, 6000, (4, *_SHAPE)).astype(np.uint16),
        provenance=np.full(_SHAPE, 1, np.uint8),
        source_date=np.full(_SHAPE, SOURCE_DATE_NODATA, np.int32),
        reference_weight=np.full(_SHAPE, np.nan, np.float32),
        uncertainty=random.random((4, *_SHAPE)).astype(np.float32),
        geobox=GeoBox(_SHAPE, Affine(120, 0, 517620, 0, -120, 5161500), "EPSG:32633"),
        bands=_BANDS,
    )
    summary = write_product([layers], layers.geobox, _BANDS, layers.data, folder)
    (folder / "report.html").write_text("<p>report</p>", "utf-8")
    (folder / "metadata.json").write_text("{}", "utf-8")
    properties = {"platform": "sentinel-2b", "constellation": "sentinel-2", "grid:code": "MGRS-33TWM"}
    record = ProductRecord(
        item_id="stock",
        work_id="stock",
        target=pystac.Item("scene", None, None, _FIRST, properties),
        source_dates=(),
        cell_id="MGRS-33TWM",
        model_name="unveil-de",
        model_version="1",
        model_sha256="a" * 64,
        seed=0,
        parameters={"eta": 0.3},
        quality={"mean_uncertainty": 0.02},
        software_version="0.1.0",
        created=_FIRST,
    )
    return build_item(record, summary, folder).to_dict(include_self_link=False, transform_hrefs=False)


def item_of(stock: dict[str, Any], number: int) -> pystac.Item:
    """Return the item of a product by its number; ten numbers of ten thousand share a day."""
    item = pystac.Item.from_dict(json.loads(json.dumps(stock)))
    item.id = f"S2B-{number:06d}-unveil-{number:08x}"
    item.datetime = _FIRST + timedelta(days=number % _DAYS, seconds=number)
    item.properties |= {"title": f"Product {number}", "unveil:work_id": f"{number:064x}"}
    return item


def link_files(stock: Path, folder: Path) -> None:
    """Give the files of the stock further names in a folder."""
    for path in stock.iterdir():
        os.link(path, folder / path.name)


def stage(catalog: StaticCatalog, stock: Path, document: dict[str, Any], number: int) -> tuple[Path, pystac.Item]:
    """Stage a product; return folder and item."""
    item = item_of(document, number)
    folder = catalog.staging(f"{number:08x}")
    link_files(stock, folder)
    return folder, item


def lay(catalog: StaticCatalog, stock: Path, document: dict[str, Any], numbers: Sequence[int]) -> None:
    """Put products where they belong without a link, as publishers leave them that are killed just before it."""
    links = CollectionLinks(catalog.target, catalog.collection_id)
    above = Path(str(catalog.collection_path.parent))
    counts = {node: len(found) for node, found in survey_of(catalog.target, catalog.collection_id).items.items()}
    up = {"href": "../collection.json", "type": "application/json", "title": "Cloud-free acquisitions"}
    root = {"href": "../../catalog.json", "type": "application/json", "title": "Cloud-free mosaics"}
    for number in numbers:
        item = item_of(document, number)
        folder = above / item.id
        folder.mkdir(parents=True)
        link_files(stock, folder)
        found = item.to_dict(include_self_link=False, transform_hrefs=False)
        found |= {"collection": catalog.collection_id, "links": [{"rel": "root", **root}, {"rel": "collection", **up}]}
        found = placed(found, links.node_for(found, None, counts))
        (folder / f"{item.id}.json").write_text(json.dumps(found), "utf-8")
