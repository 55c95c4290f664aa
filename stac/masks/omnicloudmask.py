"""OmniCloudMask: cloud and shadow of any sensor, by deep learning from red, green and near infrared.

Wright et al. 2025, https://doi.org/10.1016/j.rse.2025.114694. An optional extra: the package fetches its weights over
the network when first used.
It looks at surroundings, so along the edge of a window its mask may differ from that of the whole scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.errors import MissingExtra
from stac.masks.classes import PixelClass
from stac.masks.method import MaskInput, MaskMethod

#: The package's classes: clear, thick cloud, thin cloud, shadow.
_TABLE = np.array([PixelClass.CLEAR, PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.SHADOW], np.uint8)


def _classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    try:
        from omnicloudmask import predict_from_array
    except ImportError as error:
        raise MissingExtra(
            "Mask omnicloudmask needs the package omnicloudmask; install unveil-eo[omnicloudmask]."
        ) from error
    pixels = np.stack(layers).astype(np.float32)
    missing = ~np.isfinite(pixels).all(axis=0)
    # The package normalises by itself and takes 0 for nodata.
    found: NDArray[np.uint8] = _TABLE[
        np.asarray(predict_from_array(np.where(missing, np.float32(0), pixels)))[0].astype(np.intp)
    ]
    found[missing] = PixelClass.NODATA
    return found


OMNICLOUDMASK = MaskMethod(
    tuple(MaskInput((name,), reflectance=True) for name in ("red", "green", "nir")),
    frozenset({PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.SHADOW}),
    _classify,
)
