"""Pictures: nodata stays apart from dark ground, and the quicklook shows what the product holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from stac.product.cog import rgb_of
from stac.product.layers import ProductLayers, Provenance
from stac.product.preview import visual, write_quicklook, write_thumbnail

BANDS = ("blue", "green", "red", "nir")


def test_dark_ground_is_not_nodata_and_bright_ground_is_white() -> None:
    data = np.array([0, 1, 2800, 65535], np.uint16)[None, None].repeat(4, axis=0)
    np.testing.assert_array_equal(visual(data, BANDS)[:, 0], [[0, 2, 255, 255]] * 3)


def test_brightness_rises_with_reflectance() -> None:
    data = np.arange(1, 3000, dtype=np.uint16)[None, None].repeat(4, axis=0)
    picture = visual(data, BANDS)[0, 0].astype(int)
    assert (np.diff(picture) >= 0).all() and len(np.unique(picture)) > 200


def test_bands_are_found_by_name() -> None:
    data = np.stack([np.full((2, 2), 100 * (i + 1), np.uint16) for i in range(4)])
    red, green, blue = visual(data, BANDS)[:, 0, 0]
    assert red > green > blue
    np.testing.assert_array_equal(visual(data, BANDS)[::-1], visual(data[[2, 1, 0, 3]], BANDS))
    grey = visual(data[3:], ("nir",))
    assert (grey[0] == grey[1]).all() and grey.shape == (3, 2, 2)


def test_the_thumbnail_is_small_and_transparent_where_nothing_is_known(tmp_path: Path) -> None:
    picture = np.full((3, 1000, 2000), 90, np.uint8)
    picture[:, :500] = 0
    write_thumbnail(tmp_path / "t.png", picture)
    with Image.open(tmp_path / "t.png") as image:
        assert image.size == (512, 256) and image.mode == "RGBA"
        pixels = np.asarray(image)
    assert (pixels[:120, :, 3] == 0).all() and (pixels[140:] == [90, 90, 90, 255]).all()


def quicklook(path: Path, layers: ProductLayers, title: str = "") -> None:
    picture = visual(layers.data, layers.bands)
    counts = {p: int((layers.provenance == p).sum()) for p in Provenance}
    write_quicklook(path, picture, picture, layers.provenance, counts, title)


def test_the_quicklook_has_three_panels_and_a_legend_of_what_is_present(tmp_path: Path, layers: ProductLayers) -> None:
    quicklook(tmp_path / "q.png", layers, "title")
    half = dataclasses.replace(layers, provenance=np.full_like(layers.provenance, Provenance.OBSERVED))
    quicklook(tmp_path / "half.png", half)
    with Image.open(tmp_path / "q.png") as image, Image.open(tmp_path / "half.png") as other:
        whole, colors = np.asarray(image), set(map(tuple, np.asarray(other).reshape(-1, 3)))
        assert image.width > 1600 and image.height > other.height
    shown = set(map(tuple, whole.reshape(-1, 3)))
    assert {rgb_of(p.color) for p in Provenance} <= shown
    assert rgb_of(Provenance.GENERATED.color) not in colors


def test_the_same_product_gives_the_same_pictures(tmp_path: Path, layers: ProductLayers) -> None:
    for name in ("a.png", "b.png"):
        quicklook(tmp_path / name, layers)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
