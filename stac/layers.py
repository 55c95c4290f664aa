"""The layers of a product, or of a window of one, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

#: `reference_weight` of pixels interpolated from the ground around; those of the model have less.
INTERPOLATED_WEIGHT = np.float32(1)
#: Value of `source_date` where no acquisition saw the pixel; day 0 would be a real date.
SOURCE_DATE_NODATA = int(np.iinfo(np.int32).min)


@dataclass(frozen=True, slots=True)
class ProductLayers:
    """All layers of a product or of a window of it; arrays share their last axes `(y, x)`, the pixels of `geobox`."""

    #: Reflectance / 1e-4 `(band, y, x)`, 0 where nodata.
    data: NDArray[np.uint16]
    #: `Provenance` values `(y, x)`.
    provenance: NDArray[np.uint8]
    #: Days since 1970-01-01 of the acquisition that saw each pixel `(y, x)`, or `SOURCE_DATE_NODATA`.
    source_date: NDArray[np.int32]
    #: Share of the reference `(y, x)`, 1 where the ground around was interpolated; NaN where no gap was filled.
    reference_weight: NDArray[np.float32]
    #: Half-width of the 90 % interval `(band, y, x)`, reflectance; NaN where nodata.
    uncertainty: NDArray[np.float32]
    geobox: GeoBox
    #: Common names in the order of `data`.
    bands: tuple[str, ...]

    def window(self, rows: slice, columns: slice) -> ProductLayers:
        """Return a window as a view: rows and columns are slices within these layers."""
        at = np.s_[..., rows, columns]
        return ProductLayers(
            self.data[at],
            self.provenance[at],
            self.source_date[at],
            self.reference_weight[at],
            self.uncertainty[at],
            self.geobox[rows, columns],
            self.bands,
        )
