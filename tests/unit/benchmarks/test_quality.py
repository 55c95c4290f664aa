"""The quality page reads pairs by their band names, and hides what products would hide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from benchmarks import quality
from stac.masks.classes import is_hidden

CODES = ("B01", "B02", "B03", "B04", "B08")


def write(path: Path, pixels: np.ndarray, names: tuple[str, ...] = ()) -> None:
    profile = {"driver": "GTiff", "count": len(pixels), "height": 64, "width": 64, "dtype": pixels.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=Affine(10, 0, 0, 0, -10, 0), **profile) as target:
        target.write(pixels)
        if names:
            target.descriptions = names


def test_pairs_are_read_by_band_name_and_clouds_grown_as_in_products(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("name,verdict\na,sound\nb,hazy target\n")
    clear = np.broadcast_to(np.arange(5, dtype=np.uint16)[:, None, None] * 100 + 500, (5, 64, 64)).copy()
    cloudy, cloud = clear.copy(), np.zeros((1, 64, 64), np.uint8)
    cloud[0, 30, 30], cloudy[:, 30, 30] = 1, 9000
    for half, pixels, mask in (("cloudy", cloudy, cloud), ("clear", clear, np.zeros_like(cloud))):
        write(tmp_path / f"a_{half}.tif", pixels, CODES)
        write(tmp_path / f"a_{half}_cloudmask.tif", mask)
    (case,) = quality._pairs(tmp_path)
    np.testing.assert_allclose(case.truth[:, 0, 0], [0.06, 0.07, 0.08, 0.09], rtol=1e-6)
    hidden = is_hidden(case.stack.classes[0])
    assert hidden[30, 42] and not hidden[30, 43], "120 m are 12 pixels"
    assert np.array_equal(case.where, hidden) and case.place == "a"
