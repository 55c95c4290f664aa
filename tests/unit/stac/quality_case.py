"""Products with known flaws, made of real layers on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter, uniform_filter

from stac.product.layers import SOURCE_DATE_NODATA, ProductLayers, Provenance
from stac.product.writer import write_product
from stac.quality.assess import assess
from stac.quality.figures import QualityFigures

BANDS = ("blue", "green", "red", "nir")
SIDE = 120
#: Rows and columns of the restored patch: seen on another date on the left, drawn by the model on the right.
PATCH, LEFT, RIGHT = np.s_[40:80, 40:80], np.s_[40:80, 40:60], np.s_[40:80, 60:80]
DAY = 19586


@dataclass(frozen=True)
class Case:
    """A product that tests change before it is written."""

    layers: ProductLayers
    folder: Path

    def figures(self, window: int = 1024) -> QualityFigures:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_product([self.layers], self.layers.geobox, self.layers.bands, self.layers.data, self.folder)
        return assess(self.folder, self.layers.bands, window=window)

    def with_data(self, change: Callable[[np.ndarray], None]) -> Case:
        """Return the case with its data `(band, y, x)` changed in place by a function."""
        data = self.layers.data.copy()
        change(data)
        return replace(self, layers=replace(self.layers, data=data))


def ground(seed: int = 0) -> np.ndarray:
    """Return clear ground `(band, y, x)`, reflectance / 1e-4: vegetation with texture of one kind everywhere."""
    random = np.random.default_rng(seed)
    texture = gaussian_filter(random.normal(size=(SIDE, SIDE)), 1.0, mode="wrap") * 300
    means = np.array([300, 500, 400, 3000])[:, None, None]
    return np.rint(means + texture * np.array([0.3, 0.4, 0.5, 1.5])[:, None, None]).astype(np.uint16)


def perfect(folder: Path) -> Case:
    """Return a product whose restored pixels are the true ones."""
    provenance = np.full((SIDE, SIDE), Provenance.OBSERVED, np.uint8)
    provenance[LEFT], provenance[RIGHT] = Provenance.OTHER_DATES, Provenance.GENERATED
    uncertainty = np.zeros((4, SIDE, SIDE), np.float32)
    uncertainty[:, *LEFT], uncertainty[:, *RIGHT] = 0.02, 0.05
    days = np.full((SIDE, SIDE), DAY, np.int32)
    days[LEFT], days[RIGHT] = DAY + 3, SOURCE_DATE_NODATA
    weight = np.full((SIDE, SIDE), np.nan, np.float32)
    weight[RIGHT] = 0.4
    box = GeoBox((SIDE, SIDE), Affine(120, 0, 500_000, 0, -120, 5_200_000), "EPSG:32633")
    data = ground()
    return Case(ProductLayers(data, provenance, days, weight, uncertainty, box, BANDS), folder)


def blur(data: np.ndarray) -> None:
    """Smooth the patch."""
    for band in data:
        band[PATCH] = uniform_filter(band.astype(float), 5)[PATCH]


def brighten(data: np.ndarray) -> None:
    """Make the patch 0.03 brighter in every band."""
    data[:, *PATCH] += 300


def cloud(data: np.ndarray) -> None:
    """Leave a white bright cloud of 10 x 20 pixels in the patch."""
    data[:, 50:60, 45:65] = 4000
