"""A listing of places becomes scenes; what is wrong with it is said before anything is trained."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray

from de_model.scene.observation import SceneClass
from flows.errors import InvalidSettings
from flows.models.training_places import read_listing, scenes_of


def image(path: Path, counts: NDArray[Any]) -> None:
    bands, height, width = counts.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": counts.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile) as file:
        file.write(counts)


def listing(folder: Path, *sources: dict[str, object]) -> Path:
    path = folder / "places.yaml"
    path.write_text(yaml.safe_dump({"bands": ["blue", "nir"], "held_out": ["b"], "sources": list(sources)}))
    return path


def test_images_and_their_labels_become_scenes(tmp_path: Path) -> None:
    counts, label = np.full((3, 64, 64), 1000, np.uint16), np.zeros((1, 64, 64), np.uint8)
    counts[:, :8], label[:, 20:40, 20:40] = 0, 1
    image(tmp_path / "a.tif", counts)
    image(tmp_path / "a_label.tif", label)
    found = read_listing(
        listing(tmp_path, {"images": {"glob": "a*.tif", "gsd_m": 10, "bands": [1, 3], "mask": "_label"}})
    )
    (scene,) = scenes_of(found)
    assert found.held_out == ("b",) and scene.info.place == "a" and scene.image.shape == (2, 64, 64)
    assert (scene.classes[20:40, 20:40] == SceneClass.THICK).all() and (scene.classes[:8] == SceneClass.NODATA).all()
    assert np.allclose(scene.image[:, scene.clear], 0.1, atol=1e-6)


def test_landsat_archives_become_scenes_of_their_track_and_large_ones_are_seen_coarser_too(tmp_path: Path) -> None:
    name = "LC08_L2SP_218074_20190114_20200829_02_T1"
    counts = np.full((1, 60, 80), 10_000, np.uint16)
    counts[:, 10:20, 10:20], counts[:, :4] = 40_000, 0
    with tarfile.open(tmp_path / f"{name}-cropped.tar.gz", "w:gz") as archive:
        for band in ("SR_B2", "SR_B5"):
            image(tmp_path / f"{name}_{band}.TIF", counts)
            archive.add(tmp_path / f"{name}_{band}.TIF", f"{name}_{band}.TIF")
    path = listing(tmp_path, {"landsat": {"glob": "*.tar.gz", "bands": ["SR_B2", "SR_B5"]}})
    path.write_text(path.read_text() + "coarser_from: 60\n")
    scene, coarser = scenes_of(read_listing(path))
    assert (scene.info.place, scene.info.day, scene.info.gsd_m) == ("landsat-218074", 17910, 30.0)
    assert np.allclose(scene.image[:, scene.clear], 10_000 * 2.75e-5 - 0.2, atol=1e-6)
    assert scene.cloud[10:20, 10:20].all() and (scene.classes[:4] == SceneClass.NODATA).all()
    assert coarser.image.shape == (2, 30, 40) and coarser.info.gsd_m == 60.0 and coarser.cloud[5:10, 5:10].all()


def test_what_a_listing_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="each is one of catalog, pairs, images, bands"):
        read_listing(listing(tmp_path, {"video": {}}))
    with pytest.raises(InvalidSettings, match="lacks 'bands'"):
        image(tmp_path / "a.tif", np.full((2, 64, 64), 1000, np.uint16))
        scenes_of(read_listing(listing(tmp_path, {"images": {"glob": "a.tif", "gsd_m": 10}})))
    with pytest.raises(InvalidSettings, match="holds no scene"):
        scenes_of(read_listing(listing(tmp_path, {"images": {"glob": "none*.tif", "gsd_m": 10, "bands": [1, 2]}})))
    with pytest.raises(InvalidSettings, match="is not a listing of places"):
        read_listing(tmp_path / "missing.yaml")
