"""The STAC item of a mosaic of a cell and period, with its layer of clear looks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from stac.composite.period import Method
from stac.product.assets import COG_TYPE, file_asset, grid_fields
from stac.product.cog import RasterSpec
from stac.product.item import (
    ProductRecord,
    build_item,
    product_extensions,
    rfc3339,
)
from stac.product.layers import Provenance
from stac.product.writer import ProductSummary

#: Name of the layer of clear looks, and the value that no pixel of it has.
COUNT, _NO_COUNT = "count", 255
#: How the layer is stored.
COUNT_SPEC = RasterSpec(_NO_COUNT, "nearest", (COUNT,))
#: What a mosaic is made of, in words, by method.
_WORDS = {
    Method.BEST: (
        "the reference date bit for bit where it is clear; else the mean of the other dates, weighted by how well each "
        "agrees with it"
    ),
    Method.MEDIAN: "the median of all clear looks, band by band",
    Method.GEOMEDIAN: "the geometric median of all clear looks",
    Method.MEDOID: "the clear look that is nearest to the median of all",
    Method.QUANTILE: "a quantile of all clear looks, band by band",
}
#: Properties of one acquisition that are not true of a period.
_OF_ONE_DATE = ("view:", "eo:cloud_cover")


@dataclass(frozen=True, slots=True)
class MosaicRecord:
    """What an item says about a mosaic, beside what every product says."""

    region: str
    #: Name of the period, and its ends.
    period: str
    start: datetime
    end: datetime
    method: Method
    #: Id of the date whose radiometry it has.
    reference: str
    #: Dates that were read.
    dates: int
    #: Whether reflectance is that of a view from straight above.
    from_above: bool = False


@dataclass(slots=True)
class CountTally:
    """Counts clear looks, window by window."""

    pixels: int = 0
    without: int = 0
    total: int = 0
    least: int = _NO_COUNT
    most: int = 0

    def add(self, count: NDArray[np.uint8], provenance: NDArray[np.uint8]) -> None:
        """Count a window `(y, x)`; pixels outside of every swath do not."""
        looks = count[provenance != Provenance.NODATA]
        self.pixels, self.total = self.pixels + looks.size, self.total + int(looks.sum(dtype=np.int64))
        self.without += int((looks == 0).sum())
        if looks.size:
            self.least, self.most = min(self.least, int(looks.min())), max(self.most, int(looks.max()))

    @property
    def document(self) -> dict[str, float]:
        """Mean, least and most looks per pixel, and the share of pixels without any."""
        if not self.pixels:
            return {"mean": 0.0, "minimum": 0, "maximum": 0, "without": 1.0}
        mean, without = self.total / self.pixels, self.without / self.pixels
        return {"mean": round(mean, 4), "minimum": self.least, "maximum": self.most, "without": round(without, 6)}


def build_mosaic_item(
    record: ProductRecord, mosaic: MosaicRecord, summary: ProductSummary, looks: CountTally, folder: Path
) -> pystac.Item:
    """Return the item of a mosaic whose files lie in `folder`; hrefs are relative to the item.

    Raises:
        OSError: a file of the product is missing.
    """
    item = build_item(record, summary, folder)
    item.datetime = None
    gone = (*_OF_ONE_DATE, *_differing(record))
    kept = {name: value for name, value in item.properties.items() if not name.startswith(gone)}
    item.properties = kept | _properties(record, mosaic, looks)
    item.stac_extensions = product_extensions(item.properties)
    item.add_asset(COUNT, _count_asset(summary.geobox, looks, folder))
    return item


def _differing(record: ProductRecord) -> tuple[str, ...]:
    """Return which of platform and constellation the sources do not agree on."""
    sources = [source.properties for source in (record.target, *record.source_dates)]
    return tuple(name for name in ("platform", "constellation") if len({str(each.get(name)) for each in sources}) > 1)


def _properties(record: ProductRecord, mosaic: MosaicRecord, looks: CountTally) -> dict[str, Any]:
    words = _WORDS[mosaic.method]
    start, end = rfc3339(mosaic.start), rfc3339(mosaic.end)
    return {
        "title": f"{record.cell_id} {mosaic.period}, cloud-free mosaic",
        "description": f"{mosaic.dates} dates of {mosaic.period} as one image: {words}. What no date saw is restored; "
        "read `provenance` and `count` before measuring.",
        "start_datetime": start,
        "end_datetime": end,
        "processing:lineage": f"Cloud masks. {_seen(mosaic)} {words.capitalize()}. "
        "Where no date saw the ground: restored, or not recoverable, as `provenance` says.",
        "processing:expression": {
            "format": "text",
            "expression": f"data = {mosaic.method}(dates in the radiometry of {mosaic.reference}) where count > 0",
        },
        "unveil:region": mosaic.region,
        "unveil:period": mosaic.period,
        "unveil:method": str(mosaic.method),
        "unveil:reference": mosaic.reference,
        "unveil:target": mosaic.reference,
        "unveil:clear_looks": looks.document,
    }


def _seen(mosaic: MosaicRecord) -> str:
    """Return in words how the dates were made to agree."""
    above = "Reflectance as seen from straight above (c-factor; Roy et al. 2017). " if mosaic.from_above else ""
    return f"{above}All dates in the radiometry of {mosaic.reference}."


def _count_asset(geobox: GeoBox, looks: CountTally, folder: Path) -> pystac.Asset:
    size = math.prod(geobox.shape)
    # The figures are of pixels with data; outside of every swath the layer holds 0.
    least = looks.least if looks.pixels == size else 0
    statistics = {"minimum": least, "maximum": looks.most, "mean": round(looks.total / size, 4), "valid_percent": 100.0}
    band = {"name": COUNT, "data_type": "uint8", "nodata": _NO_COUNT, "statistics": statistics}
    fields = grid_fields(geobox) | {"bands": [band], "data_type": "uint8", "nodata": _NO_COUNT}
    saw = "How many dates saw each pixel clear."
    return file_asset(folder / f"{COUNT}.tif", COG_TYPE, "Clear looks", ["metadata"], fields, saw)
