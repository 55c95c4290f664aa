"""COGs, pictures and blocks: bytes that follow from pixels alone, whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image

from stac.grid.cell import Cell
from stac.product import cog as raster
from stac.product.block_store import Block, BlockStore
from stac.product.cog import CogWriter, RasterSpec, cog_problem, overview_factors, rgb_of, write_cog
from stac.product.layers import ProductLayers, Provenance
from stac.product.preview import visual, write_quicklook, write_thumbnail


def grid(shape: tuple[int, int]) -> GeoBox:
    return GeoBox(shape, Affine(10, 0, 500000, 0, -10, 5100000), "EPSG:32633")


def noise(count: int, shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    random = np.random.default_rng(1)
    pixels = random.integers(1, 200, (count, *shape))
    return (pixels / 256).astype(dtype) if dtype == "float32" else pixels.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "spec"),
    [
        ("uint16", RasterSpec(0, scale=1e-4, descriptions=("red", "nir"))),
        ("uint8", RasterSpec(0, "nearest", ("provenance", "other"))),
        ("int32", RasterSpec(-(2**31), "nearest")),
        ("float32", RasterSpec(np.nan)),
    ],
)
def test_pixels_and_their_meaning_come_back(tmp_path: Path, dtype: str, spec: RasterSpec) -> None:
    pixels = noise(2, (300, 280), dtype)
    pixels[:, :20] = spec.nodata
    write_cog(tmp_path / "a.tif", pixels, grid((300, 280)), spec)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(), pixels)
        assert file.crs.to_epsg() == 32633 and file.transform == Affine(10, 0, 500000, 0, -10, 5100000)
        assert file.nodata == spec.nodata or np.isnan([file.nodata, spec.nodata]).all()
        assert file.scales == (spec.scale,) * 2 and file.overviews(1)
        assert file.descriptions == (tuple(spec.descriptions) or (None, None))
    assert cog_problem(tmp_path / "a.tif") == ""


def test_the_same_pixels_give_the_same_bytes_and_other_pixels_others(tmp_path: Path) -> None:
    pixels, spec = noise(3, (200, 310), "uint16"), RasterSpec(0)
    for name in ("a", "b"):
        write_cog(tmp_path / name, pixels, grid((200, 310)), spec)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    pixels[0, 0, 0] += 1
    write_cog(tmp_path / "c", pixels, grid((200, 310)), spec)
    assert (tmp_path / "c").read_bytes() != (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ((1, 1), []),
        ((128, 40), []),
        ((129, 129), [2]),
        ((512, 512), [2, 4]),
        ((512, 768), [2, 4, 8]),
        ((513, 513), [2, 4, 8]),
        # Pixels of an overview that are not square are drawn as stripes by OpenLayers, and so by STAC Browser.
        ((417, 708), []),
        ((598, 708), [2]),
    ],
)
def test_overviews_have_square_pixels_down_to_a_small_picture(
    tmp_path: Path, shape: tuple[int, int], factors: list[int]
) -> None:
    write_cog(tmp_path / "a.tif", noise(1, shape, "uint8"), grid(shape), RasterSpec(0))
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.overviews(1) == factors
    assert cog_problem(tmp_path / "a.tif") == ""


def test_a_raster_too_large_to_be_drawn_whole_has_overviews_in_any_case() -> None:
    assert overview_factors((10980, 10980)) == [2, 4, 8, 16, 32, 64, 128]
    assert overview_factors((7731, 7841)) == [2, 4, 8, 16, 32, 64]


def test_overviews_of_classes_hold_no_other_class(tmp_path: Path) -> None:
    pixels = np.where(noise(1, (300, 300), "uint8") > 100, 1, 5).astype(np.uint8)
    write_cog(tmp_path / "a.tif", pixels, grid((300, 300)), RasterSpec(0, "nearest", colors={1: (9, 8, 7)}))
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        assert set(np.unique(file.read())) == {1, 5}
        assert file.colormap(1)[1] == (9, 8, 7, 255)


def test_overviews_of_quantities_leave_nodata_out(tmp_path: Path) -> None:
    pixels = np.full((1, 300, 300), 1000, np.uint16)
    pixels[:, ::2] = 0
    write_cog(tmp_path / "a.tif", pixels, grid((300, 300)), RasterSpec(0))
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        assert set(np.unique(file.read())) == {1000}


def test_a_plain_or_broken_file_is_refused(tmp_path: Path) -> None:
    pixels = noise(1, (600, 600), "uint16")
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", dtype="uint16", count=1, width=600, height=600, crs="EPSG:32633",
        transform=grid((600, 600)).affine,
    ) as file:  # fmt: skip
        file.write(pixels)
    write_cog(tmp_path / "whole.tif", pixels, grid((600, 600)), RasterSpec(0))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:100])
    (tmp_path / "text.tif").write_text("no raster")
    for name in ("plain", "cut", "text", "missing"):
        problem = cog_problem(tmp_path / f"{name}.tif")
        assert problem.startswith("is not a ") and "\n" not in problem


@pytest.mark.parametrize("in_memory", [True, False])
def test_windows_give_the_bytes_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(raster, "_IN_MEMORY_BYTES", 2**30 if in_memory else 0)
    pixels, box = noise(2, (600, 700), "float32"), grid((600, 700))
    write_cog(tmp_path / "whole.tif", pixels, box, RasterSpec(np.nan))
    with CogWriter(tmp_path / "parts.tif", box, 2, "float32", RasterSpec(np.nan)) as cog:
        for row, column in ((300, 0), (0, 350), (300, 350), (0, 0)):
            cog.write(pixels[:, row : row + 300, column : column + 350], row, column)
        cog.finish()
    assert (tmp_path / "parts.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert cog_problem(tmp_path / "parts.tif") == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts.tif", "whole.tif"]


def test_an_unfinished_raster_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "_IN_MEMORY_BYTES", 0)
    with (
        pytest.raises(KeyboardInterrupt),
        CogWriter(tmp_path / "a.tif", grid((300, 300)), 1, "uint8", RasterSpec(0)) as cog,
    ):
        cog.write(noise(1, (300, 300), "uint8"))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


PICTURED = ("blue", "green", "red", "nir")


def test_dark_ground_is_not_nodata_and_bright_ground_is_white() -> None:
    data = np.array([0, 1, 2800, 65535], np.uint16)[None, None].repeat(4, axis=0)
    np.testing.assert_array_equal(visual(data, PICTURED)[:, 0], [[0, 2, 255, 255]] * 3)


def test_bands_are_found_by_name() -> None:
    data = np.stack([np.full((2, 2), 100 * (i + 1), np.uint16) for i in range(4)])
    red, green, blue = visual(data, PICTURED)[:, 0, 0]
    assert red > green > blue
    np.testing.assert_array_equal(visual(data, PICTURED)[::-1], visual(data[[2, 1, 0, 3]], PICTURED))
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


def quicklook(path: Path, layers: ProductLayers) -> None:
    picture = visual(layers.data, layers.bands)
    counts = {p: int((layers.provenance == p).sum()) for p in Provenance}
    write_quicklook(path, picture, picture, layers.provenance, counts)


def test_the_quicklook_has_three_panels_and_a_legend_of_what_is_present(tmp_path: Path, layers: ProductLayers) -> None:
    quicklook(tmp_path / "q.png", layers)
    half = dataclasses.replace(layers, provenance=np.full_like(layers.provenance, Provenance.OBSERVED))
    quicklook(tmp_path / "half.png", half)
    with Image.open(tmp_path / "q.png") as image, Image.open(tmp_path / "half.png") as other:
        whole, colors = np.asarray(image), set(map(tuple, np.asarray(other).reshape(-1, 3)))
        assert image.width > 1600 and image.height > other.height
    shown = set(map(tuple, whole.reshape(-1, 3)))
    assert {rgb_of(p.color) for p in Provenance} <= shown
    assert rgb_of(Provenance.GENERATED.color) not in colors


@pytest.fixture
def cell(layers: ProductLayers) -> Cell:
    return Cell("MGRS-33TWM", layers.geobox)


BLOCK = Block(slice(8, 24), slice(0, 16))


def test_a_block_comes_back_bit_for_bit(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store, part = BlockStore(tmp_path / "w", cell, layers.bands, "a"), layers.window(BLOCK.rows, BLOCK.columns)
    assert store.get(BLOCK) is None
    store.put(BLOCK, part)
    found = BlockStore(tmp_path / "w", cell, layers.bands, "a").get(BLOCK)
    assert found is not None
    for name in ("data", "provenance", "source_date", "reference_weight", "uncertainty"):
        assert getattr(found, name).tobytes() == np.ascontiguousarray(getattr(part, name)).tobytes()
    assert found.geobox == part.geobox and found.bands == layers.bands


def test_a_damaged_block_is_made_again(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store = BlockStore(tmp_path / "w", cell, layers.bands, "a")
    path = tmp_path / "w" / BLOCK.name
    for damage in (lambda content: content[:-7], lambda content: content[:999] + b"x" + content[1000:], lambda _: b""):
        store.put(BLOCK, layers.window(BLOCK.rows, BLOCK.columns))
        path.write_bytes(damage(path.read_bytes()))
        assert store.get(BLOCK) is None and not path.exists()


def test_a_flipped_bit_never_changes_a_block(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store, part = BlockStore(tmp_path / "w", cell, layers.bands, "a"), layers.window(BLOCK.rows, BLOCK.columns)
    path = tmp_path / "w" / BLOCK.name
    store.put(BLOCK, part)
    whole = path.read_bytes()
    for at in (*range(160), *range(160, len(whole), 7)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        found = store.get(BLOCK)
        assert found is None or found.data.tobytes() == np.ascontiguousarray(part.data).tobytes(), at
        assert path.exists() is (found is not None)


def test_blocks_of_other_work_are_not_kept(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store = BlockStore(tmp_path / "w", cell, layers.bands, "a")
    store.put(BLOCK, layers.window(BLOCK.rows, BLOCK.columns))
    store.save_record({"dates": ["x"]})
    assert BlockStore(tmp_path / "w", cell, layers.bands, "a").saved_record() == {"dates": ["x"]}
    other = BlockStore(tmp_path / "w", cell, layers.bands, "b")
    assert other.get(BLOCK) is None and other.saved_record() is None
    other.discard()
    assert not (tmp_path / "w").exists()
