"""The pictures of README and documentation, from the shipped sample and weights: `make pictures`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from flows.api import load, restore, search
from stac.product.dataset import dataset_layers
from stac.product.layers import Provenance
from stac.product.preview import visual, write_quicklook
from stac.reflectance import to_product_dn
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL

_TILE, _DATE = "33TWL", "2023-08-18"


def main(folder: Path) -> None:
    """Write before, after and both with provenance into a folder."""
    items = search("sample", SAMPLE_COLLECTION, SAMPLE_INTERVAL)
    scenes = load([item for item in items if _TILE in item.id])
    height, width = scenes.sizes["y"], scenes.sizes["x"]
    scenes = scenes.isel(y=slice(height // 4, height), x=slice(3 * width // 10, 8 * width // 10))
    layers = dataset_layers(restore(scenes, _DATE))
    target = scenes.sel(time=_DATE).squeeze("time")
    before = visual(np.stack([to_product_dn(target[band].values) for band in layers.bands]), layers.bands)
    after = visual(layers.data, layers.bands)
    counts = {p: int((layers.provenance == p).sum()) for p in Provenance if p is not Provenance.NODATA}
    quicklook = folder / "before-after.png"
    write_quicklook(quicklook, before, after, layers.provenance, counts)
    with Image.open(quicklook) as picture:
        picture.save(quicklook.with_suffix(".webp"), quality=88, method=6)
    quicklook.unlink()
    for name, picture in (("before", before), ("after", after)):
        large = Image.fromarray(picture.transpose(1, 2, 0)).resize((2 * picture.shape[2], 2 * picture.shape[1]))
        large.save(folder / f"{name}.jpg", quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures"))
