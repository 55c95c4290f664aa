"""Every kind of mask on real values, two of one scene, and scenes that lack what a mask needs."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from stac.errors import InvalidItem, MissingExtra
from stac.grid.cell import Cell, cell_of
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass
from stac.masks.combination import MaskKind, MaskRule
from stac.masks.methods import BANDS, THRESHOLD, classify_qa_pixel, classify_scl, cloud_probability


def test_scene_classes() -> None:
    expected = {
        PixelClass.NODATA: [0],
        PixelClass.DEFECTIVE: [1, 12, 255],
        PixelClass.CLEAR: [2, 4, 5, 6, 7],
        PixelClass.SHADOW: [3],
        PixelClass.CLOUD: [8, 9],
        PixelClass.THIN_CLOUD: [10],
        PixelClass.SNOW: [11],
    }
    values = np.array([*range(12), 12, 255], np.uint8)
    found = dict(zip(values.tolist(), classify_scl(values).tolist(), strict=True))
    for pixel_class, known in expected.items():
        assert {found[value] for value in known} == {pixel_class}


def test_another_raster_is_not_a_scene_classification() -> None:
    with pytest.raises(InvalidItem, match="values up to 100"):
        classify_scl(np.arange(0, 101, dtype=np.uint8))


def test_a_scene_classification_of_floats_is_refused() -> None:
    with pytest.raises(InvalidItem, match="float32"):
        classify_scl(np.zeros((2, 2), np.float32))  # type: ignore[arg-type]


L1C = Path(__file__).parents[2] / "data" / "sentinel2-l1c-thinned.tif"
AS_IS = ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0)

#: Frequent values of Landsat 8 and what the USGS table says of them (LSDS-1619, table of QA_PIXEL values).
QA_VALUES = {
    1: PixelClass.NODATA,
    0: PixelClass.NODATA,
    21824: PixelClass.CLEAR,
    21952: PixelClass.CLEAR,  # water
    21826: PixelClass.CLOUD,  # margin of a cloud, over land
    21890: PixelClass.CLOUD,  # margin of a cloud, over water
    22080: PixelClass.CLOUD,  # medium confidence
    22280: PixelClass.CLOUD,  # high confidence
    23888: PixelClass.SHADOW,
    23952: PixelClass.SHADOW,  # over water
    24088: PixelClass.CLOUD,  # cloud of medium confidence with shadow
    30048: PixelClass.SNOW,
    54596: PixelClass.THIN_CLOUD,  # cirrus
    54852: PixelClass.CLOUD,  # cirrus and cloud of medium confidence
}


def test_landsat_quality_values() -> None:
    found = classify_qa_pixel(np.array(list(QA_VALUES), np.uint16))
    assert dict(zip(QA_VALUES, found.tolist(), strict=True)) == {v: int(c) for v, c in QA_VALUES.items()}


def test_every_landsat_value_has_a_class() -> None:
    found = classify_qa_pixel(np.arange(65536, dtype=np.uint16))
    assert set(found.tolist()) == {0, 1, 2, 3, 4, 5}
    assert (found[1::2] == PixelClass.NODATA).all(), "fill wins over everything"


def test_another_quality_band_is_refused() -> None:
    with pytest.raises(InvalidItem, match="uint8"):
        classify_qa_pixel(np.zeros((2, 2), np.uint8))  # type: ignore[arg-type]


def write(path: Path, pixels: np.ndarray, nodata: int) -> str:
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": pixels.dtype,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
    }
    grid = {"crs": "EPSG:32618", "transform": Affine(30, 0, 600_000, 0, -30, 4_500_000)}
    with rasterio.open(path, "w", nodata=nodata, **profile, **grid) as target:
        target.write(pixels, 1)
    return str(path)


@pytest.fixture
def landsat(tmp_path: Path) -> pystac.Item:
    """A scene whose quality band holds every value above, in rows of ten pixels."""
    qa = np.repeat(np.array(list(QA_VALUES), np.uint16), 10).reshape(-1, 10)
    dn = np.where(qa <= 1, 0, 10909).astype(np.uint16)
    properties = {"landsat:collection_number": "02", "landsat:correction": "L2SP", "platform": "landsat-8"}
    item = pystac.Item("LC08", None, None, datetime(2023, 8, 10, tzinfo=UTC), properties, collection="landsat-c2-l2")
    item.add_asset("qa_pixel", pystac.Asset(write(tmp_path / "qa.tif", qa, 1)))
    for band in ("red", "nir08"):
        item.add_asset(band, pystac.Asset(write(tmp_path / f"{band}.tif", dn, 0)))
    return item


def test_a_landsat_scene_brings_its_own_mask_and_scale(landsat: pystac.Item) -> None:
    stack = read_stack([landsat], cell_of(landsat, "red"), ("red", "nir08"), AS_IS)
    assert np.array_equal(stack.classes[0], np.repeat([int(c) for c in QA_VALUES.values()], 10).reshape(-1, 10))
    assert set(stack.dn[0][:, stack.classes[0] != 0].ravel().tolist()) == {1000}
    assert not stack.dn[0][:, stack.classes[0] == 0].any()


def test_pixels_around_a_landsat_scene_are_nodata(landsat: pystac.Item) -> None:
    geobox = cell_of(landsat, "red").geobox
    classes = read_stack([landsat], Cell("wide", geobox.pad(3)), ("red",), AS_IS).classes[0]
    classes[3:-3, 3:-3] = 0
    assert not classes.any()


# --- s2cloudless: the shipped model -------------------------------------------------------------------------------

#: Top of the atmosphere, in the order of the model: typical spectra of thick cloud, forest, and water.
CLOUD = (0.66, 0.64, 0.62, 0.63, 0.65, 0.66, 0.36, 0.02, 0.46, 0.36)


def spectra(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).T[:, None]


def test_bands_are_passed_in_the_order_of_the_package() -> None:
    """The package itself picks its ten of all thirteen bands; ours must be the same ten in the same order."""
    from s2cloudless import S2PixelCloudDetector
    from s2cloudless.utils import MODEL_BANDS, S2_BANDS

    assert [number for number, _ in BANDS] == MODEL_BANDS
    ours = l1c_with_stand_ins()
    whole = np.zeros((len(S2_BANDS), *ours.shape[1:]), np.float64)
    for (number, _), layer in zip(BANDS, ours, strict=True):
        whole[S2_BANDS.index(number)] = layer
    detector = S2PixelCloudDetector(all_bands=True, average_over=None, dilation_size=None)
    expected = detector.get_cloud_probability_maps(np.moveaxis(whole, 0, -1)[None])[0]
    np.testing.assert_array_equal(cloud_probability(ours), expected)


def test_a_pixel_without_one_band_is_unknown() -> None:
    layers = spectra(CLOUD, CLOUD)
    layers[7, 0, 1] = np.nan
    found = cloud_probability(layers)[0]
    assert found[0] > THRESHOLD
    assert np.isnan(found[1])


def l1c_bands() -> dict[str, np.ndarray]:
    with rasterio.open(L1C) as source:
        return {name: source.read(n)[::2, ::2] for n, name in enumerate(source.descriptions, 1)}


def l1c_with_stand_ins() -> np.ndarray:
    """The real crop as reflectance. B01, B05, B10 and B12 are missing in it and are stood in for by their neighbours,
    so what the model makes of it shows that the adapter works, not how good the mask is."""
    real = {name: (dn * 1e-4).astype(np.float32) for name, dn in l1c_bands().items()}
    stand_ins = {
        "B01": real["B02"],
        "B05": (real["B04"] + real["B8A"]) / 2,
        "B10": np.where(real["B02"] > 0.2, 0.003, 0.0012).astype(np.float32),
        "B12": real["B11"] * np.float32(0.7),
    }
    return np.stack([(real | stand_ins)[number] for number, _ in BANDS])


@pytest.fixture
def l1c_item(tmp_path: Path) -> pystac.Item:
    """A Level-1C scene of the crop, baseline 05.09: 1000 is added to every pixel, as ESA does."""
    properties = {"s2:product_type": "S2MSI1C", "s2:processing_baseline": "05.09", "constellation": "sentinel-2"}
    item = pystac.Item("L1C", None, None, datetime(2023, 8, 10, tzinfo=UTC), properties, collection="sentinel-2-l1c")
    for (number, name), layer in zip(BANDS, l1c_with_stand_ins(), strict=True):
        dn = (np.rint(layer * 1e4) + 1000).astype(np.uint16)
        item.add_asset(
            number, pystac.Asset(write(tmp_path / f"{name}.tif", dn, 0), extra_fields={"bands": [{"name": name}]})
        )
    return item


def test_s2cloudless_masks_a_level_1c_scene_with_its_offset(l1c_item: pystac.Item) -> None:
    options = ReadOptions(0, 0, masks=(MaskKind.S2CLOUDLESS,))
    stack = read_stack([l1c_item], cell_of(l1c_item, "red"), ("red", "nir"), options)
    rounded = (np.rint(l1c_with_stand_ins() * 1e4).clip(1) * np.float64(1e-4)).astype(np.float32)
    expected = np.where(cloud_probability(rounded) > THRESHOLD, PixelClass.CLOUD, PixelClass.CLEAR)
    # float32 of DN * 1e-4 may differ in its last bit, and a tree may split there
    assert (stack.classes[0] != expected).mean() < 1e-3
    assert (stack.classes[0] == PixelClass.CLOUD).any()


def test_surface_reflectance_is_not_given_to_s2cloudless(twl: list[pystac.Item]) -> None:
    options = ReadOptions(masks=(MaskKind.SCL, MaskKind.S2CLOUDLESS), mask_rule=MaskRule.ANY)
    with pytest.raises(InvalidItem, match=rf"{twl[0].id} is not Level-1C and has no asset toa-coastal"):
        read_stack(twl[:1], cell_of(twl[0], "blue", (15.4, 45.6, 15.42, 45.62)), ("blue",), options)


def test_two_masks_of_one_scene_are_combined(l1c_item: pystac.Item, tmp_path: Path) -> None:
    """A scene of Level 2 that brings its Level-1C bands along."""
    cell = cell_of(l1c_item, "red")
    scl = np.full(cell.geobox.shape, 4, np.uint8)
    scl[:20], scl[20:30], scl[30:40] = 9, 3, 0
    item = l1c_item.clone()
    item.properties["s2:product_type"] = "S2MSI2A"
    item.collection_id = "sentinel-2-l2a"
    for number, name in BANDS:
        item.add_asset(f"toa-{name}", item.assets[number])
    item.add_asset("scl", pystac.Asset(write(tmp_path / "scl.tif", scl, 0)))

    def classes(*kinds: MaskKind, rule: MaskRule) -> np.ndarray:
        return read_stack([item], cell, ("red",), ReadOptions(0, 0, masks=kinds, mask_rule=rule)).classes[0]

    model = classes(MaskKind.S2CLOUDLESS, rule=MaskRule.ANY) == PixelClass.CLOUD
    both = (MaskKind.SCL, MaskKind.S2CLOUDLESS)
    every, either = classes(*both, rule=MaskRule.ALL), classes(*both, rule=MaskRule.ANY)
    assert np.array_equal(every[:20] == PixelClass.CLOUD, model[:20])
    assert (either[:20] == PixelClass.CLOUD).all()
    assert np.array_equal(either[40:] == PixelClass.CLOUD, model[40:])
    for found in (every, either):
        assert (found[20:30][~model[20:30]] == PixelClass.SHADOW).all(), "s2cloudless has no vote on shadow"
        assert (found[30:40] == PixelClass.NODATA).all()
    first = classes(*both, rule=MaskRule.FIRST)
    assert np.array_equal(first[30:40] == PixelClass.CLOUD, model[30:40]), "the second mask fills the gaps of the first"


@pytest.mark.skipif(importlib.util.find_spec("omnicloudmask") is not None, reason="the extra is installed")
def test_a_missing_package_is_named_with_its_extra(twl: list[pystac.Item]) -> None:
    options = ReadOptions(masks=(MaskKind.OMNICLOUDMASK,))
    with pytest.raises(MissingExtra, match=r"install unveil-eo\[omnicloudmask\]"):
        read_stack(twl[:1], cell_of(twl[0], "blue", (15.4, 45.6, 15.42, 45.62)), ("blue",), options)
