"""Publishing an `xr.Dataset`: measured, judged, reported and linked as the products of runs are. No Prefect."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
import xarray as xr

from flows import __version__
from flows.processing.record import quality_of
from flows.reports.page import write_report
from stac.catalog.product_collections import publish_to_collection
from stac.catalog.publish import StaticCatalog
from stac.io.files import write_json
from stac.io.s3 import Location
from stac.product.assets import product_pictures
from stac.product.dataset import dataset_layers, write_dataset
from stac.product.layers import Provenance
from stac.product.preview import visual, write_quicklook
from stac.quality.gate import Gate


def publish_dataset(product: xr.Dataset, folder: Path, *, judged: bool) -> Location:
    """Publish a product to a static catalog and return the place of its item.

    Args:
        product: of `restore` or `composite`.
        folder: of the catalog.
        judged: hold it against the limits of the quality gate.

    Raises:
        InvalidInput: the dataset is not a product.
        InvalidProduct: what was written does not pass the check of the catalog.
        DiskFull, NotWritable: the catalog cannot be written; it is as it was.
    """
    catalog = StaticCatalog(folder)
    catalog.require_writable()
    with tempfile.TemporaryDirectory(prefix="unveil-") as scratch:
        item_id = write_dataset(product, Path(scratch)).id
        staging = catalog.staging(item_id)
        for file in Path(scratch).iterdir():
            (staging / file.name).write_bytes(file.read_bytes())
    document = staging / f"{item_id}.json"
    item = pystac.Item.from_file(str(document))
    item.set_self_href(None)
    document.unlink()
    _add_pages(product, item, staging, judged=judged)
    return publish_to_collection(catalog, staging, item)


def _add_pages(product: xr.Dataset, item: pystac.Item, staging: Path, *, judged: bool) -> None:
    """Write quicklook, metadata and report beside the layers, and name them and the quality in the item."""
    layers, areas = dataset_layers(product), item.properties["unveil:areas"]
    quality = quality_of(staging, layers.bands, Gate() if judged else None)
    counts = {p: int((layers.provenance == p).sum()) for p in Provenance}
    seen = np.where(layers.provenance == Provenance.OBSERVED, layers.data, 0)
    write_quicklook(
        staging / "quicklook.png",
        visual(seen, layers.bands),
        visual(layers.data, layers.bands),
        layers.provenance,
        counts,
    )
    metadata = _metadata(product, item, areas) | {"quality": quality.document}
    write_json(staging / "metadata.json", metadata)
    write_report(staging, item.id, metadata)
    quality.mark(item)
    for key, asset in product_pictures(staging).items():
        item.add_asset(key, asset)


def _metadata(product: xr.Dataset, item: pystac.Item, areas: Mapping[str, float]) -> dict[str, Any]:
    """Return what made a product, as JSON values, in the form of those of runs."""
    said = product.attrs
    valid = sum(areas.values()) - areas["nodata"]
    return {
        "unit": {"target_id": said["target"], "item_id": item.id, "work_id": item.properties["unveil:work_id"]},
        "model": item.properties["unveil:model"],
        "parameters": json.loads(said["parameters"]),
        "software": {"unveil-eo": __version__, "numpy": np.__version__, "rasterio": rasterio.__version__},
        "sources": [
            {"id": name, "date": day}
            for name, day in zip([said["target"], *said["other_dates"]], said["dates"], strict=True)
        ],
        "dropped": [],
        "areas_km2": dict(areas),
        "figures": {
            "valid_km2": valid,
            "cloudy_km2": valid - areas["observed"],
            "other_dates_km2": areas["other_dates"],
            "model_km2": sum(areas[name] for name in ("thin_cloud_corrected", "reference_filled", "generated")),
            "not_recoverable_km2": areas["not_recoverable"],
        },
        "normalisation": [],
        "seconds": {},
    }
