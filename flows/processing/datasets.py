"""Publishing an `xr.Dataset`: measured, judged, reported and linked as the products of runs are. No Prefect."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

from flows import __version__
from flows.processing.blocks import Effort
from flows.processing.product import figures_of, quality_of
from flows.reports.page import write_report
from stac.catalog.product_collections import publish_to_collection
from stac.catalog.publish import StaticCatalog
from stac.io.files import require_nameable, write_json
from stac.io.s3 import Location
from stac.product.dataset import dataset_layers, dataset_record
from stac.product.item import ProductRecord, build_item
from stac.product.layers import Provenance
from stac.product.writer import ProductSummary, write_product
from stac.quality.gate import Gate


def publish_dataset(product: xr.Dataset, folder: Path, *, judged: bool) -> Location:
    """Publish a product to a static catalog and return the place of its item.

    Raises:
        InvalidInput: the dataset is not a product.
        InvalidProduct: what was written does not pass the check of the catalog.
        DiskFull, NotWritable: the catalog cannot be written; it is as it was.
    """
    require_nameable(folder)
    layers, catalog = dataset_layers(product), StaticCatalog(folder)
    record = dataset_record(product, layers)
    catalog.require_writable()
    staging = catalog.staging(record.work_id)
    seen = np.where(layers.provenance == Provenance.OBSERVED, layers.data, np.uint16(0))
    summary = write_product([layers], layers.geobox, layers.bands, seen, staging)
    quality = quality_of(staging, layers.bands, Gate() if judged else None)
    metadata = _metadata(product, record, summary) | {"quality": quality.document}
    write_json(staging / "metadata.json", metadata)
    write_report(staging, record.item_id, metadata)
    item = build_item(record, summary, staging)
    quality.mark(item)
    return publish_to_collection(catalog, staging, item)


def _metadata(product: xr.Dataset, record: ProductRecord, summary: ProductSummary) -> dict[str, Any]:
    """Return what made a product, as JSON values, in the form of those of runs."""
    said = product.attrs
    return {
        "unit": {"target_id": said["target"], "item_id": record.item_id, "work_id": record.work_id},
        "model": {"name": record.model_name, "version": record.model_version, "sha256": record.model_sha256},
        "parameters": json.loads(said["parameters"]),
        "software": {"unveil-eo": __version__, "numpy": np.__version__, "rasterio": rasterio.__version__},
        "sources": [
            {"id": name, "date": day}
            for name, day in zip([said["target"], *said["other_dates"]], said["dates"], strict=True)
        ],
        "dropped": [],
        "areas_km2": summary.areas_km2,
        "figures": asdict(figures_of(summary, Effort(), 0.0)),
        "normalisation": [],
        "seconds": {},
    }
