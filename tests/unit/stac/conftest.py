"""The shipped sample, and a copy of it that a test may break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from stac.catalog.publish import StaticCatalog
from stac.product.item import ProductRecord, build_item
from stac.product.layers import SOURCE_DATE_NODATA, ProductLayers, Provenance
from stac.product.writer import ProductSummary, write_product
from stac.search.source import Query
from stac.search.static import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, StaticSource, sample_catalog

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="session")
def whole_sample() -> Query:
    return Query.parse(SAMPLE_COLLECTION, SAMPLE_BBOX, SAMPLE_INTERVAL)


@pytest.fixture(scope="session")
def sample_items(whole_sample: Query) -> list[pystac.Item]:
    return StaticSource(str(sample_catalog())).search(whole_sample)


@pytest.fixture
def twl(sample_items: list[pystac.Item]) -> list[pystac.Item]:
    return [item.clone() for item in sample_items if "33TWL" in item.id]


@pytest.fixture
def catalog_copy(tmp_path: Path) -> Path:
    """The sample's JSON files without its rasters."""
    target = tmp_path / "catalog"
    shutil.copytree(sample_catalog().parent, target, ignore=shutil.ignore_patterns("*.tif"))
    return target / "catalog.json"


@pytest.fixture
def edit() -> Callable[[Path, Edit], None]:
    def change(path: Path, apply: Edit) -> None:
        document = json.loads(path.read_text())
        apply(document)
        path.write_text(json.dumps(document))

    return change


@pytest.fixture(scope="session")
def layers() -> ProductLayers:
    """A product of 42 x 30 pixels that holds every kind of pixel."""
    random = np.random.default_rng(0)
    shape = (42, 30)
    provenance = np.repeat(np.arange(7, dtype=np.uint8), 6)[:, None].repeat(30, axis=1)
    known = ~np.isin(provenance, (Provenance.NODATA, Provenance.NOT_RECOVERABLE))
    by_model = np.isin(provenance, (3, 4, 5))
    dated = np.isin(provenance, (1, 2))
    data = (random.integers(1, 6000, (4, *shape)) * known).astype(np.uint16)
    uncertainty = np.where(known, random.random((4, *shape)) * 0.1, np.nan).astype(np.float32)
    return ProductLayers(
        data=data,
        provenance=provenance,
        source_date=np.where(dated, 19586, SOURCE_DATE_NODATA).astype(np.int32),
        reference_weight=np.where(by_model, 0.4, np.nan).astype(np.float32),
        uncertainty=uncertainty,
        geobox=GeoBox(shape, Affine(120, 0, 517620, 0, -120, 5161500), "EPSG:32633"),
        bands=("blue", "green", "red", "nir"),
    )


def write_whole(layers: ProductLayers, folder: Path) -> ProductSummary:
    """Write a product that is one window; what was seen before is noise."""
    before = np.random.default_rng(1).integers(1, 9000, layers.data.shape).astype(np.uint16)
    return write_product([layers], layers.geobox, layers.bands, before, folder)


@pytest.fixture(scope="session")
def summary(layers: ProductLayers, tmp_path_factory: pytest.TempPathFactory) -> ProductSummary:
    return write_whole(layers, tmp_path_factory.mktemp("summary"))


Staged = Callable[..., tuple[Path, pystac.Item]]


@pytest.fixture(scope="session")
def product_files(layers: ProductLayers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("product")
    write_whole(layers, folder)
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "metadata.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def staged(summary: ProductSummary, product_files: Path, sample_items: list[pystac.Item]) -> Staged:
    """Make a product named by its work id in a catalog's staging; return folder and item."""
    targets = {item.id: item for item in sample_items}

    def make(
        catalog: StaticCatalog, work_id: str, target: str = "S2B_33TWM_20230810_0_L2A", composite: str = "fused"
    ) -> tuple[Path, pystac.Item]:
        folder = catalog.staging(work_id)
        shutil.copytree(product_files, folder, dirs_exist_ok=True)
        record = ProductRecord(
            item_id=f"{target}-unveil-{work_id}",
            work_id=work_id,
            target=targets[target].clone(),
            source_dates=(targets["S2A_33TWM_20230815_0_L2A"].clone(),),
            cell_id="MGRS-33TWM",
            model_name="unveil-de",
            model_version="1",
            model_sha256="a" * 64,
            seed=0,
            parameters={"eta": 0.3, "composite": composite},
            quality={"mean_uncertainty": 0.02},
            software_version="0.1.0",
            created=datetime(2026, 1, 1, tzinfo=UTC),
        )
        return folder, build_item(record, summary, folder)

    return make
