"""How to draw a product: the views that the render extension hands to map servers and browsers.

STAC Browser passes over a view with `expression`, `color_formula` or `colormap_name`, so colours are given in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stac.preview import BRIGHTEST, RGB
from stac.product import Layer
from stac.provenance import Provenance
from stac.raster import rgb_of
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE

#: Half-width of the interval that is drawn white, reflectance.
_MOST_UNCERTAIN = 0.1


def renders_of(bands: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the views of a product by name.

    Args:
        bands: common names in the order of `data`.
    """
    brightest = round(BRIGHTEST / PRODUCT_SCALE)
    shown = [bands.index(band) + 1 for band in RGB] if set(RGB) <= set(bands) else [1]
    return {
        "visual": {"title": "Natural colour", "assets": [str(Layer.VISUAL)], "bidx": [1, 2, 3], "nodata": 0},
        "true-colour": {
            "title": "Natural colour from reflectance",
            "assets": [str(Layer.DATA)],
            "bidx": shown,
            "rescale": [[0, brightest]] * len(shown),
            "nodata": PRODUCT_NODATA,
        },
        "provenance": {
            "title": "Where each pixel comes from",
            "assets": [str(Layer.PROVENANCE)],
            "bidx": [1],
            "colormap": {str(p.value): [*rgb_of(p.color), 0 if p is Provenance.NODATA else 255] for p in Provenance},
            "resampling": "nearest",
            "nodata": int(Provenance.NODATA),
        },
        "uncertainty": {
            "title": f"Uncertainty of {bands[0]}, white from {_MOST_UNCERTAIN:g}",
            "assets": [str(Layer.UNCERTAINTY)],
            "bidx": [1],
            "rescale": [[0, _MOST_UNCERTAIN]],
            "nodata": "nan",
        },
    }
