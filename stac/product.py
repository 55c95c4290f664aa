"""The files of one product."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.layers import SOURCE_DATE_NODATA, ProductLayers
from stac.preview import visual, write_quicklook, write_thumbnail
from stac.provenance import Provenance
from stac.raster import RasterSpec, rgb_of, write_cog
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE

#: How each raster layer is stored, by asset key. `visual` and `data` get their band names when written.
SPECS: dict[str, RasterSpec] = {
    "visual": RasterSpec(0, rgb=True),
    "data": RasterSpec(PRODUCT_NODATA, scale=PRODUCT_SCALE),
    "provenance": RasterSpec(
        Provenance.NODATA, "nearest", ("provenance",), colors={p.value: rgb_of(p.color) for p in Provenance}
    ),
    "source_date": RasterSpec(SOURCE_DATE_NODATA, "nearest", ("source_date",)),
    "reference_weight": RasterSpec(np.nan, descriptions=("reference_weight",)),
    "uncertainty": RasterSpec(np.nan),
}


@dataclass(frozen=True, slots=True)
class ProductFiles:
    """Paths of what `write_product` wrote."""

    visual: Path
    data: Path
    provenance: Path
    source_date: Path
    reference_weight: Path
    uncertainty: Path
    thumbnail: Path
    quicklook: Path


def write_product(layers: ProductLayers, folder: Path, title: str = "") -> ProductFiles:
    """Write all layers as COGs, and the pictures, into an existing folder.

    Raises:
        DiskFull: there is no room.
        NotWritable: the folder cannot be written.
    """
    names = [*SPECS, "thumbnail", "quicklook"]
    files = ProductFiles(**{n: folder / f"{n}{'.tif' if n in SPECS else '.png'}" for n in names})
    picture = visual(layers.data, layers.bands)
    pixels: dict[str, NDArray[Any]] = {
        "visual": picture,
        "data": layers.data,
        "provenance": layers.provenance[None],
        "source_date": layers.source_date[None],
        "reference_weight": layers.reference_weight[None],
        "uncertainty": layers.uncertainty,
    }
    for name, array in pixels.items():
        write_cog(getattr(files, name), array, layers.geobox, _spec(name, layers))
    write_thumbnail(files.thumbnail, picture)
    write_quicklook(files.quicklook, layers, title)
    return files


def _spec(name: str, layers: ProductLayers) -> RasterSpec:
    spec = SPECS[name]
    if name in ("data", "uncertainty"):
        return RasterSpec(spec.nodata, spec.overviews, layers.bands, spec.scale)
    return spec
