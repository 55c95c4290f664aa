"""The catalog that ships: small, valid, and true to its source."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import shape

from stac.grid.cell import cell_of
from stac.search.static import sample_catalog

FOLDER = sample_catalog().parent
BUILDER = Path(__file__).parents[3] / "infra" / "sample" / "build_sample.py"


def test_it_is_at_most_25_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 25e6


def test_every_raster_is_a_valid_cog() -> None:
    rasters = sorted(FOLDER.rglob("*.tif"))
    assert len(rasters) == 50
    for path in rasters:
        valid, errors, _ = cog_validate(path, quiet=True)
        assert valid, (path, errors)


def test_items_describe_their_files(sample_items: list[pystac.Item]) -> None:
    assert len(sample_items) == 10
    for item in sample_items:
        for key, asset in item.assets.items():
            geobox = cell_of(item, key).geobox
            with rasterio.open(asset.href) as source:
                assert (source.shape, source.transform) == (geobox.shape, geobox.affine)
                assert source.crs.to_epsg() == geobox.crs.epsg


def test_cloud_cover_is_of_the_window(sample_items: list[pystac.Item]) -> None:
    for item in sample_items:
        with rasterio.open(item.assets["scl"].href) as source:
            scl = source.read(1)
        cover = np.isin(scl, (8, 9, 10))[scl > 0].mean() * 100
        assert item.properties["eo:cloud_cover"] == pytest.approx(cover, abs=0.01)


def test_footprints_are_right_handed_and_inside_their_boxes(sample_items: list[pystac.Item]) -> None:
    for item in sample_items:
        outline = shape(item.geometry)
        assert outline.is_valid and outline.exterior.is_ccw
        assert item.bbox == pytest.approx(outline.bounds)
        extent = cell_of(item, "blue").geobox.geographic_extent.geom
        assert shapely.symmetric_difference(outline, extent).area < 1e-3 * extent.area


def test_training_and_validation_areas_share_no_ground(sample_items: list[pystac.Item]) -> None:
    boxes = {item.properties["grid:code"]: cell_of(item, "blue").geobox.boundingbox for item in sample_items}
    assert set(boxes) == {"MGRS-33TWM", "MGRS-33TWL"}
    assert boxes["MGRS-33TWM"].bottom >= boxes["MGRS-33TWL"].top


def test_licence_attribution_and_titles() -> None:
    collection = json.loads((FOLDER / "collection.json").read_text())
    assert collection["license"] == "other"
    titles = [link.get("title") for link in collection["links"] if link["rel"] == "license"]
    assert titles == ["Copernicus Sentinel data legal notice"]
    assert "Contains modified Copernicus Sentinel data 2023" in collection["description"]
    assert "Contains modified Copernicus Sentinel data 2023" in (FOLDER / "README.md").read_text()
    for path in FOLDER.rglob("*.json"):
        links = json.loads(path.read_text())["links"]
        assert all(
            "title" in link for link in links if link["rel"] in ("root", "parent", "child", "item", "collection")
        )
        assert not [link for link in links if link["href"].startswith("/")]


def test_the_builder_explains_itself_and_deletes_nothing_else(tmp_path: Path) -> None:
    helped = subprocess.run([sys.executable, BUILDER, "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert "SOURCE_DIR" in helped.stdout and "Example" in helped.stdout
    (tmp_path / "precious.txt").write_text("keep")
    (tmp_path / "collection.json").write_text("{}")
    command = [sys.executable, BUILDER, tmp_path, "--out", tmp_path]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode != 0 and "is not a sample" in refused.stderr
    assert (tmp_path / "precious.txt").read_text() == "keep"
