"""What `unveil demo` publishes, read with other people's tools and checked against the source files."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import rioxarray
from numpy.typing import NDArray
from PIL import Image
from rio_cogeo.cogeo import cog_validate
from scipy.ndimage import binary_dilation, distance_transform_edt

from stac.search.static import sample_catalog
from tests.command import TINY_BBOX, unveil
from tests.support.catalogs import problems_in

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1500)]

SAMPLE = sample_catalog().parent
BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
#: The product table of the design: data type and number of bands.
RASTERS = {
    "visual": ("uint8", 3),
    "data": ("uint16", 4),
    "provenance": ("uint8", 1),
    "source_date": ("int32", 1),
    "reference_weight": ("float32", 1),
    "uncertainty": ("float32", 4),
}
PICTURES = {"thumbnail", "quicklook", "report", "metadata"}
NODATA, OBSERVED, OTHER_DATE, THIN, REFERENCE, GENERATED, LOST = range(7)


class Product:
    """An item and its rasters, read with rasterio."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.item: dict[str, Any] = json.loads(path.read_text("utf-8"))
        self.target: str = self.item["properties"]["unveil:target"]

    def read(self, key: str) -> NDArray[Any]:
        with rasterio.open(self.path.parent / f"{key}.tif") as file:
            pixels: NDArray[Any] = file.read()
        return pixels

    def window(self, source: Path) -> NDArray[Any]:
        """Pixels of a source file under this product."""
        with rasterio.open(source) as file, rasterio.open(self.path.parent / "data.tif") as own:
            assert file.crs == own.crs and file.res == own.res
            left, top = (~file.transform) @ (own.transform.c, own.transform.f)
            window = rasterio.windows.Window(round(left), round(top), own.width, own.height)
            pixels: NDArray[Any] = file.read(1, window=window)
        return pixels

    @cached_property
    def dates(self) -> dict[str, Source]:
        """All dates of the cell, by item id."""
        tile = self.target.split("_")[1]
        return {folder.name: Source(self, folder) for folder in sorted(SAMPLE.glob(f"*_{tile}_*"))}


class Source:
    """One acquisition of the sample, classified here and not by the code under test."""

    def __init__(self, product: Product, folder: Path) -> None:
        self.dn = np.stack([product.window(folder / f"{name}.tif") for name in BANDS.values()])
        self.scl = product.window(folder / "SCL.tif")
        self.valid = (self.dn > 0).any(axis=0) & (self.scl != 0)
        # Saturated and defective pixels (1), values without a meaning, and bands that deep shadow clips to 0 were
        # acquired, but do not show the ground.
        defective = self.valid & (~np.isin(self.scl, np.arange(2, 12)) | (self.dn == 0).any(axis=0))
        cloud, shadow = np.isin(self.scl, [8, 9, 10]) & self.valid, (self.scl == 3) & self.valid
        # 120 m at 120 m: a pixel and its four neighbours.
        cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
        self.cloud = cloud
        self.hidden = self.valid & (binary_dilation(cloud, cross) | binary_dilation(shadow, cross) | defective)
        self.observed = self.valid & ~self.hidden
        #: Clear as the mask comes: what other dates are compared with.
        self.clear = self.valid & ~(cloud | shadow | defective | (self.scl == 11))  # snow is not asked
        year, month, day = (int(folder.name.split("_")[2][part]) for part in (slice(4), slice(4, 6), slice(6, 8)))
        self.day = (date(year, month, day) - date(1970, 1, 1)).days


def products(root: Path) -> list[Product]:
    return [Product(path) for path in sorted(root.glob("unveil-cloud-free/*/*-unveil-*.json"))]


def cloudy_scenes() -> set[str]:
    items = [json.loads(path.read_text("utf-8")) for path in SAMPLE.glob("S2*/*.json")]
    return {item["id"] for item in items if 5 <= item["properties"]["eo:cloud_cover"] <= 80}


@pytest.fixture(scope="module")
def demo(demo_catalog: Path) -> list[Product]:
    return products(demo_catalog)


def test_the_first_demo_publishes_every_cloudy_date(demo_run: Any) -> None:
    summary = demo_run.outcome.document
    assert demo_run.outcome.err.strip() == ""
    assert {unit["target_id"] for unit in summary["units"]} == cloudy_scenes()
    assert {unit["state"] for unit in summary["units"]} == {"SUCCEEDED"} and summary["already_done"] == []
    assert {product.target for product in products(demo_run.root)} == cloudy_scenes()
    for unit in summary["units"]:
        assert Path(unit["item_href"]).is_file()


def test_a_second_demo_finds_its_work_done_and_touches_nothing(demo_run: Any) -> None:
    files = [p for p in demo_run.root.rglob("*") if p.is_file() and ".unveil" not in p.parts]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    server = [p for folder in ("logs", "prefect") for p in (demo_run.root / ".unveil" / folder).rglob("*")]
    started = {path: path.stat().st_mtime_ns for path in server}
    again = unveil("demo", "--out", demo_run.root, "--json", home=demo_run.home)
    assert again.status == 0 and again.err.strip() == ""
    assert again.document["units"] == [] and len(again.document["already_done"]) == len(cloudy_scenes())
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert {path for path in demo_run.root.rglob("*") if path.is_file() and ".unveil" not in path.parts} == set(before)
    assert {path: path.stat().st_mtime_ns for path in server} == started, "a server was started"


def test_the_prefect_database_holds_tables_and_report_and_no_pictures(tiny_run: Any) -> None:
    database = tiny_run.root / ".unveil" / "prefect" / "prefect.db"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        # Other tests run more flows against the same state; this one is the first.
        run, state = connection.execute("SELECT id, state_type FROM flow_run ORDER BY created LIMIT 1").fetchone()
        of_run = "FROM {} WHERE flow_run_id = ?".format
        artifacts = connection.execute(f"SELECT type, key, data {of_run('artifact')}", (run,)).fetchall()
        tasks = connection.execute(f"SELECT name, state_type {of_run('task_run')}", (run,)).fetchall()
    assert {kind for kind, _, _ in artifacts} == {"markdown", "table"}
    assert max(len(data) for _, _, data in artifacts) < 50_000, "the database keeps no pictures"
    tables = {key: json.loads(json.loads(data)) for kind, key, data in artifacts if kind == "table"}
    assert "reflectance.blue" in {row["feature"] for row in tables["drift"]}
    assert [row["state"] for row in tables["work-units"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert state == "COMPLETED"
    assert {state for _, state in tasks} == {"COMPLETED"}
    assert len([name for name, _ in tasks if name.startswith("process ")]) == 2


def test_the_catalog_is_valid_and_pystac_reads_it(demo_catalog: Path, demo: list[Product]) -> None:
    assert problems_in(demo_catalog) == []
    catalog = pystac.Catalog.from_file(str(demo_catalog / "catalog.json"))
    (model,) = catalog.get_child("unveil-models").get_items(recursive=True)
    items = {item.id: item for item in catalog.get_items(recursive=True) if item.id != model.id}
    assert items.keys() == {product.item["id"] for product in demo} and items
    for item in items.values():
        collection = item.get_collection()
        assert collection is not None and collection.license == "other"
        assert item.datetime is not None and item.get_parent() is not None and item.get_root() is not None
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href() or "").is_file()
    box = catalog.get_child("unveil-cloud-free").extent.spatial.bboxes[0]
    for item in items.values():
        assert box[0] <= item.bbox[0] and item.bbox[2] <= box[2] and box[1] <= item.bbox[1] and item.bbox[3] <= box[3]


def test_items_are_stac_1_1(demo: list[Product]) -> None:
    for product in demo:
        text = product.path.read_text()
        assert product.item["stac_version"] == "1.1.0"
        assert not any(f'"{old}"' in text for old in ("eo:bands", "raster:bands", "proj:epsg"))
        assert product.item["properties"]["proj:code"] == "EPSG:32633"
        for key, (dtype, count) in RASTERS.items():
            bands = product.item["assets"][key]["bands"]
            assert len(bands) == count and {band["data_type"] for band in bands} == {dtype}
        assert [band["eo:common_name"] for band in product.item["assets"]["data"]["bands"]] == list(BANDS)
        assert "file://" not in text and str(product.path.parents[2]) not in text, "an absolute path was published"


def test_every_source_scene_is_linked_at_its_archive(demo: list[Product]) -> None:
    for product in demo:
        linked = [link["href"] for link in product.item["links"] if link["rel"] == "derived_from"]
        archive = {}
        for folder in product.dates:
            item = json.loads((SAMPLE / folder / f"{folder}.json").read_text())
            archive[folder] = next(link["href"] for link in item["links"] if link["rel"] == "canonical")
        assert set(linked[:-1]) == set(archive.values()) and len(linked) == 6
        assert (product.path.parent / linked[-1]).is_file(), "the model, last"


def test_every_asset_is_there_with_its_checksum_and_readable_for_everyone(demo: list[Product]) -> None:
    for product in demo:
        assets = product.item["assets"]
        assert assets.keys() == RASTERS.keys() | PICTURES
        for asset in assets.values():
            path = product.path.parent / asset["href"]
            assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
            assert asset["file:size"] == path.stat().st_size
            assert path.stat().st_mode & 0o444 == 0o444, f"{path.name} cannot be read by a web server"
        assert {p.name for p in product.path.parent.iterdir()} == {
            product.path.name,
            *(asset["href"].removeprefix("./") for asset in assets.values()),
        }


def test_rasters_are_cogs_with_overviews(demo: list[Product]) -> None:
    for product in demo:
        for key, (dtype, count) in RASTERS.items():
            path = product.path.parent / f"{key}.tif"
            assert cog_validate(str(path), strict=True, quiet=True) == (True, [], [])
            with rasterio.open(path) as file:
                assert (set(file.dtypes), file.count) == ({dtype}, count)
                assert file.overviews(1) and file.crs.to_epsg() == 32633
                nodata = product.item["assets"][key]["nodata"]
                assert file.nodata == nodata or (nodata == "nan" and np.isnan(file.nodata))
                if key == "data":
                    assert file.scales == (1e-4,) * 4 and file.descriptions == tuple(BANDS)
                if key == "provenance":
                    colors = file.colormap(1)
                    for entry in product.item["assets"][key]["classification:classes"]:
                        red, green, blue, _ = colors[entry["value"]]
                        assert f"{red:02X}{green:02X}{blue:02X}" == entry["color_hint"]


def test_observed_pixels_are_bit_identical_to_the_source(demo: list[Product]) -> None:
    for product in demo:
        data, observed = product.read("data"), product.read("provenance")[0] == OBSERVED
        source = product.dates[product.target]
        assert observed.any()
        np.testing.assert_array_equal(data[:, observed], source.dn[:, observed])


def test_provenance_follows_from_the_scene_classifications(demo: list[Product]) -> None:
    for product in demo:
        found, target = product.read("provenance")[0], product.dates[product.target]
        donors = [source for name, source in product.dates.items() if name != product.target]
        seen = np.any([donor.observed for donor in donors], axis=0)
        np.testing.assert_array_equal(found == NODATA, ~target.valid)
        assert not ((found == OBSERVED) & ~target.observed).any() and not ((found == OTHER_DATE) & ~seen).any()
        given_up = target.observed & (found != OBSERVED)
        looks = np.stack([np.where(donor.clear, donor.dn, np.nan) for donor in donors])[..., given_up]
        blue, nir = looks[:, 0], looks[:, 3]
        own, away = target.dn[:, given_up], distance_transform_edt(~target.cloud)[given_up]  # pixels
        departs = (own[0] > np.nanmedian(blue, axis=0) + 299) | (own[3] < 0.65 * np.nanmedian(nir, axis=0) + 1)
        # Less is enough within 400 m of a cloud for more of it, and for shadow as far as the sun throws one.
        departs |= (away < 5) & (own[0] > np.nanmin(blue, axis=0) + 199)
        departs |= (away < 53) & (own[3] < 0.8 * np.nanmax(nir, axis=0) + 1)
        assert departs.all(), "a clear look is given up only where the other dates contradict it"
        unseen = target.hidden & ~seen
        assert np.isin(found[unseen], [THIN, REFERENCE, GENERATED, LOST]).all()
        thin = target.scl == 10
        assert set(np.unique(found[unseen & thin])) <= {THIN, LOST} and not (found[~thin] == THIN).any()


def test_dates_weights_and_uncertainty_say_where_each_pixel_is_from(demo: list[Product]) -> None:
    for product in demo:
        found, days = product.read("provenance")[0], product.read("source_date")[0]
        weight, uncertainty = product.read("reference_weight")[0], product.read("uncertainty")
        data, target = product.read("data"), product.dates[product.target]
        assert (days[found == OBSERVED] == target.day).all()
        for source in product.dates.values():
            named = (found == OTHER_DATE) & (days == source.day)
            assert source.observed[named].all(), "a date is named that did not see the pixel"
        others = {s.day for name, s in product.dates.items() if name != product.target}
        assert set(np.unique(days[found == OTHER_DATE]).tolist()) <= others
        assert (days[~np.isin(found, [OBSERVED, OTHER_DATE])] == np.iinfo(np.int32).min).all()
        by_model = np.isin(found, [THIN, REFERENCE, GENERATED])
        np.testing.assert_array_equal(np.isfinite(weight), by_model)
        assert ((weight[by_model] >= 0.3 - 1e-6) & (weight[by_model] <= 1)).all()
        assert (uncertainty[:, found == OBSERVED] == 0).all()
        restored = by_model | (found == OTHER_DATE)
        assert (uncertainty[:, restored] > 0).all() and np.isnan(uncertainty[:, np.isin(found, [NODATA, LOST])]).all()
        np.testing.assert_array_equal((data == 0).any(axis=0), np.isin(found, [NODATA, LOST]))
        np.testing.assert_array_equal((product.read("visual") == 0).any(axis=0), np.isin(found, [NODATA, LOST]))


def test_restored_ground_is_like_the_ground_around_it(demo: list[Product]) -> None:
    """A coarse guard: clouds are gone, and nothing is black, white, or of another season."""
    for product in demo:
        found, data, target = product.read("provenance")[0], product.read("data"), product.dates[product.target]
        hidden = np.isin(found, [OTHER_DATE, THIN, REFERENCE, GENERATED])
        clear = next(s for name, s in product.dates.items() if "20230815" in name)
        both = hidden & clear.observed
        ground = np.median(clear.dn[:, both], axis=1)
        seen = (found == OBSERVED) & clear.observed
        haze = np.median(target.dn[:, seen], axis=1) - np.median(clear.dn[:, seen], axis=1)
        before = np.median(target.dn[:, both], axis=1) - ground
        after = np.median(data[:, both], axis=1) - ground
        assert (np.abs(after) < np.abs(before))[:3].all(), product.target
        assert (np.abs(after - haze) < 100)[:3].all(), "the light of the day, as on the ground that was observed"
        model = np.isin(found, [THIN, REFERENCE, GENERATED])
        if model.any():
            assert 100 < np.median(data[2][model]) < 2500


def test_areas_in_the_item_are_those_of_the_raster(demo: list[Product]) -> None:
    names = {
        "nodata": NODATA,
        "observed": OBSERVED,
        "other_dates": OTHER_DATE,
        "thin_cloud_corrected": THIN,
        "reference_filled": REFERENCE,
        "generated": GENERATED,
        "not_recoverable": LOST,
    }
    for product in demo:
        found = product.read("provenance")[0]
        areas = product.item["properties"]["unveil:areas"]
        assert areas == {name: round(float((found == value).sum()) * 0.0144, 4) for name, value in names.items()}


def test_pictures_and_report_stand_alone(demo: list[Product]) -> None:
    for product in demo:
        for name in ("thumbnail.png", "quicklook.png"):
            with Image.open(product.path.parent / name) as picture:
                picture.load()
                assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 5
        page = (product.path.parent / "report.html").read_text("utf-8")
        assert product.target in page and 'src="http' not in page and "<script" not in page and "<link" not in page
        metadata = json.loads((product.path.parent / "metadata.json").read_text("utf-8"))
        assert metadata["unit"]["work_id"] == product.item["properties"]["unveil:work_id"]
        assert metadata["model"]["sha256"] == product.item["properties"]["unveil:model"]["sha256"]


def test_odc_stac_and_rioxarray_open_the_products(demo: list[Product]) -> None:
    product = demo[0]
    item = pystac.Item.from_file(str(product.path))
    loaded = odc.stac.load([item])
    np.testing.assert_array_equal(loaded["provenance"].values[0], product.read("provenance")[0])
    np.testing.assert_array_equal(loaded["data.1"].values[0], product.read("data")[0])
    assert loaded["data.1"].odc.geobox.crs.epsg == 32633 and loaded["data.1"].nodata == 0
    scaled = rioxarray.open_rasterio(product.path.parent / "data.tif", mask_and_scale=True)
    known = product.read("data") > 0
    np.testing.assert_allclose(scaled.values[known], product.read("data")[known] * 1e-4, atol=1e-6)
    assert np.isnan(scaled.values[~known]).all()


def test_two_runs_in_different_folders_give_the_same_ids_and_bytes(
    tiny_run: Any, services: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere"
    given = ("run", "--bbox", TINY_BBOX, "--out", out, "--state-dir", tmp_path / "state", "--json")
    second = unveil(*given, home=tmp_path / "home", extra=services)
    assert second.status == 0 and second.err.strip() == "" and tiny_run.outcome.err.strip() == ""
    assert _rasters(out) == _rasters(tiny_run.root) and len(_rasters(out)) == 2 * (len(RASTERS) + 2)
    one, other = ({p.item["id"]: p.item for p in products(root)} for root in (tiny_run.root, out))
    assert one.keys() == other.keys()
    for name in one:
        assert _without_times(one[name]) == _without_times(other[name])


def _rasters(root: Path) -> dict[str, str]:
    """SHA-256 of every raster and picture by its path in the catalog."""
    paths = [p for p in root.glob("unveil-cloud-free/*/*") if p.suffix in (".tif", ".png")]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def _without_times(item: dict[str, Any]) -> dict[str, Any]:
    """The item without the instants of its making and the files that hold durations."""
    kept = dict(item) | {"assets": {k: a for k, a in item["assets"].items() if k not in ("report", "metadata")}}
    kept["properties"] = {k: v for k, v in item["properties"].items() if k not in ("created", "updated")}
    return kept


def test_tiny_run_holds_every_kind_of_pixel(tiny_run: Any) -> None:
    kinds: Iterator[NDArray[Any]] = (product.read("provenance") for product in products(tiny_run.root))
    present = {int(value) for kind in kinds for value in np.unique(kind)}
    assert {OBSERVED, OTHER_DATE} <= present and present & {THIN, REFERENCE, GENERATED}
