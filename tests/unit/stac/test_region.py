"""One radiometry for a region, composites of a period, and dates that lie off, on ground that is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter, shift

from stac.composite.coregistration import find_shifts, read_registered
from stac.composite.period import Method, PeriodComposite, clear_looks, mosaic_stack
from stac.composite.radiometry import Radiometry, choose_reference, fit_radiometry
from stac.grid.cell import Cell
from stac.grid.footprint import outline_of_grid
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.product.cog import RasterSpec, write_cog
from stac.product.mosaic_item import COUNT_SPEC
from stac.product.region_item import CellFile, RegionRecord, build_region_item, repoint, vrt, vrt_names

BANDS = ("blue", "green", "red", "nir")
SIDE = 96
#: How each date sees the ground: gain and offset, reflectance. The first is the clearest.
SEEN_AS = ((1.0, 0.0), (1.12, 0.004), (0.9, 0.01), (1.05, -0.003))


def ground() -> np.ndarray:
    random = np.random.default_rng(1)
    smooth = gaussian_filter(random.random((4, SIDE, SIDE)), (0, 2, 2))
    return (0.05 + 0.5 * (smooth - smooth.min())).astype(np.float32)


def stack_of(seen: np.ndarray, first: int = 0) -> Stack:
    """Dates of the known ground; `seen` `(date, y, x)` is where each has a clear look, elsewhere it is cloud."""
    truth = ground()
    dn = np.stack([np.rint((truth * a + b) * 1e4) for a, b in SEEN_AS[: len(seen)]]).astype(np.uint16)
    classes = np.where(seen, PixelClass.CLEAR, PixelClass.CLOUD).astype(np.uint8)
    dn[np.broadcast_to((~seen)[:, None], dn.shape)] = 9000
    cell = Cell("T", GeoBox((SIDE, SIDE), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633"))
    names = tuple(f"date{first + i}" for i in range(len(seen)))
    return Stack(dn, classes, names, np.arange(len(seen), dtype=np.int32) + 17_000, BANDS, cell)


def patches() -> np.ndarray:
    """The reference misses a corner, the others miss a strip each; two rows are seen by none."""
    seen = np.ones((4, SIDE, SIDE), bool)
    seen[0, :40, :40] = seen[1, 5:25] = seen[2, 30:60] = seen[3, :, :30] = False
    seen[:, 10:12, 3:9] = False
    return seen


def test_what_the_reference_did_not_see_looks_as_it_would_have_seen_it() -> None:
    stack, truth = stack_of(patches()), ground()
    assert choose_reference(stack) == "date0"
    begun = mosaic_stack(stack, "date0", Method.BEST)
    found = PeriodComposite(Method.BEST, fit_radiometry(stack)).apply(begun, 0, where=is_hidden(begun.classes[0]))
    filled = found.source >= 0
    assert filled.sum() == 40 * 40 - 12, "all of the corner that a date saw, and nothing else"
    assert np.abs(found.reflectance - truth)[:, filled].max() < 0.002
    # Without a common radiometry the dates are off by up to 0.05.
    plain = stack.reflectance(1)
    assert np.abs(plain - truth)[:, filled & patches()[1]].max() > 0.02
    assert np.array_equal(clear_looks(begun), patches().sum(axis=0))


def test_a_window_gives_the_pixels_of_the_whole() -> None:
    stack = stack_of(patches())
    for method in Method:
        composite = PeriodComposite(method, fit_radiometry(stack), 0.25)
        begun = mosaic_stack(stack, "date0", method)
        whole = composite.apply(begun, 0)
        rows, columns = slice(7, 50), slice(11, 90)
        part = composite.apply(mosaic_stack(stack.window(rows, columns), "date0", method), 0)
        assert np.array_equal(part.reflectance, whole.reflectance[:, rows, columns], equal_nan=True), method
        assert np.array_equal(part.source, whole.source[rows, columns]), method


def test_a_date_that_never_meets_the_reference_is_matched_through_the_others() -> None:
    seen = np.zeros((3, SIDE, SIDE), bool)
    seen[0, :, :50], seen[1, :, 30:75], seen[2, :, 55:] = True, True, True
    stack = stack_of(seen)
    radiometry = fit_radiometry(stack)
    begun = mosaic_stack(stack, radiometry.reference, Method.BEST)
    found = PeriodComposite(Method.BEST, radiometry).apply(begun, 0)
    assert radiometry.reference == "date0"
    assert np.abs(found.reflectance - ground())[:, :, 78:].max() < 0.004, "only the third date saw it"


def test_a_late_date_changes_no_other_date_and_no_reference() -> None:
    seen = patches()
    seen[3] = True  # clearer than all before
    before = fit_radiometry(stack_of(seen[:3]))
    document = json.loads(json.dumps(before.to_dict()))
    after = fit_radiometry(stack_of(seen), Radiometry.from_dict(document))
    assert after.reference == before.reference == "date0"
    assert after.of(["date0", "date1", "date2"]) == before and len(after.dates) == 4


def test_each_method_is_what_its_name_says() -> None:
    seen = np.ones((4, SIDE, SIDE), bool)
    stack = stack_of(seen)
    radiometry = fit_radiometry(stack)
    normal = np.stack([PeriodComposite(Method.MEDIAN, radiometry.of([name])).apply(
        mosaic_stack(stack, "date0", Method.MEDIAN), 0
    ).reflectance for name in stack.item_ids])  # fmt: skip

    def composite(method: Method, quantile: float = 0.5) -> np.ndarray:
        begun = mosaic_stack(stack, "date0", method)
        return PeriodComposite(method, radiometry, quantile).apply(begun, 0).reflectance

    assert np.allclose(composite(Method.MEDIAN), np.median(normal, axis=0), atol=1e-6)
    assert np.allclose(composite(Method.QUANTILE, 0.25), np.quantile(normal, 0.25, axis=0), atol=1e-6)
    medoid = composite(Method.MEDOID)
    assert (np.abs(medoid - normal).max(axis=1) < 1e-7).any(axis=0).all(), "every pixel is a spectrum that was observed"
    distance = np.sqrt(np.square(composite(Method.GEOMEDIAN) - normal).sum(axis=1)).sum(axis=0)
    others = np.sqrt(np.square(np.median(normal, axis=0) - normal).sum(axis=1)).sum(axis=0)
    assert (distance <= others + 1e-5).all(), "no other spectrum is nearer to all looks"


def test_a_median_is_as_bright_as_its_dates_are_together_and_a_best_date_as_itself() -> None:
    seen = np.ones((4, SIDE, SIDE), bool)
    stack = stack_of(seen)
    dates = np.stack([stack.reflectance(i) for i in range(4)]).mean(axis=(2, 3))
    radiometry = fit_radiometry(stack)
    own = dates[stack.item_ids.index(radiometry.reference)]
    for method, level in ((Method.MEDIAN, dates.mean(axis=0)), (Method.BEST, own)):
        begun = mosaic_stack(stack, radiometry.reference, method)
        found = PeriodComposite(method, radiometry).apply(begun, 0).reflectance.mean(axis=(1, 2))
        assert found == pytest.approx(level, abs=0.002), method
    assert np.abs(own - dates.mean(axis=0)).max() > 0.008, "the reference is not as bright as its dates are"


@pytest.mark.parametrize("method", list(Method))
def test_ground_outside_of_every_swath_stays_empty_and_outside_of_the_references_is_filled(method: Method) -> None:
    stack = stack_of(np.ones((2, SIDE, SIDE), bool))
    stack.classes[0, :, 60:], stack.classes[1, :, 80:] = PixelClass.NODATA, PixelClass.NODATA
    stack.dn[0, :, :, 60:], stack.dn[1, :, :, 80:] = 0, 0
    begun = mosaic_stack(stack, "date0", method)
    found = PeriodComposite(method, fit_radiometry(stack)).apply(begun, 0, where=is_hidden(begun.classes[0]))
    assert (begun.classes[0, :, 80:] == PixelClass.NODATA).all() and (found.source[:, 80:] < 0).all()
    assert (found.source[:, 60:80] >= 0).all()
    assert clear_looks(begun)[0].tolist() == [2] * 60 + [1] * 20 + [0] * 16


def test_a_period_without_a_clear_look_has_nothing_to_say() -> None:
    stack = stack_of(np.zeros((3, SIDE, SIDE), bool))
    radiometry = fit_radiometry(stack)
    begun = mosaic_stack(stack, radiometry.reference, Method.BEST)
    found = PeriodComposite(Method.BEST, radiometry).apply(begun, 0)
    assert (found.source < 0).all() and np.isnan(found.reflectance).all()
    assert not clear_looks(begun).any() and is_hidden(begun.classes[0]).all()


def test_more_looks_than_the_layer_counts_are_not_its_nodata() -> None:
    classes, dn = np.full((300, 1, 1), PixelClass.CLEAR, np.uint8), np.ones((300, 4, 1, 1), np.uint16)
    cell = Cell("T", GeoBox((1, 1), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633"))
    days = np.arange(300, dtype=np.int32)
    stack = Stack(dn, classes, tuple(f"date{day}" for day in days), days, BANDS, cell)
    assert clear_looks(stack)[0, 0] < COUNT_SPEC.nodata


WIDE, PAD = 320, 40
GEOBOX = GeoBox((WIDE, WIDE), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")


def scenery() -> np.ndarray:
    """Fields with borders, twice as large as needed."""
    random = np.random.default_rng(5)
    blocks = random.random((4, 60, 60)).repeat(8, axis=1).repeat(8, axis=2)[:, : WIDE + 2 * PAD, : WIDE + 2 * PAD]
    return gaussian_filter(1000 + 3000 * blocks, (0, 0.8, 0.8))


def world(*shifts: tuple[float, float]) -> Callable[[Cell], Stack]:
    """Return what reads a reference and dates that lie off by so much, brighter, with noise and a cloud each."""
    random, base = np.random.default_rng(6), scenery()
    dates = [base, *(shift(base, (0, *by), order=3, mode="nearest") * 1.1 + 80 for by in shifts)]
    noisy = [np.rint(date + random.normal(0, 20, date.shape)).astype(np.uint16) for date in dates]
    classes = np.full((len(dates), *base.shape[1:]), PixelClass.CLEAR, np.uint8)
    for number in range(1, len(dates)):
        classes[number, 60 * number : 60 * number + 40, 80:150] = PixelClass.CLOUD

    def read(cell: Cell) -> Stack:
        column, row = (round(v) for v in GEOBOX.wld2pix(cell.geobox.affine.c, cell.geobox.affine.f))
        at = np.s_[
            ..., row + PAD : row + PAD + cell.geobox.shape[0], column + PAD : column + PAD + cell.geobox.shape[1]
        ]
        names = tuple(f"date{i}" for i in range(len(dates)))
        days = np.arange(len(dates), dtype=np.int32)
        return Stack(np.stack(noisy)[at], classes[at], names, days, BANDS, cell)

    return read


WHOLE = Cell("T", GEOBOX)


@pytest.mark.parametrize("by", [(0.0, 0.0), (0.8, -1.3), (-2.4, 0.6), (0.3, 0.3)])
def test_a_shift_is_found_to_a_tenth_of_a_pixel(by: tuple[float, float]) -> None:
    found = find_shifts(world(by)(WHOLE), 0)["date1"]
    assert (found.rows, found.columns) == (pytest.approx(by[0], abs=0.12), pytest.approx(by[1], abs=0.12))
    assert found.matters == (np.hypot(*by) > 0.5)


def test_dates_are_read_where_they_belong_and_the_reference_as_it_is() -> None:
    read = world((0.8, -1.3), (0.1, 0.1))
    plain = read(WHOLE)
    moved = read_registered(read, WHOLE, find_shifts(plain, 0))
    assert np.array_equal(moved.dn[[0, 2]], plain.dn[[0, 2]]), "what lies right stays bit for bit"
    seen = is_observed(moved.classes[1])

    def error(stack: Stack) -> float:
        difference = stack.dn[1].astype(float) - (stack.dn[0] * 1.1 + 80)
        return float(np.abs(difference[:, seen]).mean())

    assert error(moved) < 0.4 * error(plain)
    cloud = moved.classes[1] == PixelClass.CLOUD
    assert cloud.sum() == pytest.approx((plain.classes[1] == PixelClass.CLOUD).sum(), rel=0.05)


def test_a_window_is_read_as_the_whole() -> None:
    read = world((1.6, 0.7))
    shifts = find_shifts(read(WHOLE), 0)
    whole = read_registered(read, WHOLE, shifts)
    rows, columns = slice(33, 190), slice(20, 300)
    part = read_registered(read, WHOLE.window(rows, columns), shifts)
    assert np.array_equal(part.dn, whole.dn[:, :, rows, columns])
    assert np.array_equal(part.classes, whole.classes[:, rows, columns])


def test_other_ground_has_no_shift() -> None:
    stack = world((0.0, 0.0))(WHOLE)
    stack.dn[1] = np.random.default_rng(8).integers(500, 4000, stack.dn[1].shape)
    assert find_shifts(stack, 0) == {}


@pytest.mark.parametrize("version", ["", "/0123456789ab"], ids=["in a folder", "in a bucket"])
def test_the_vrt_finds_its_cells_wherever_a_catalog_lies(tmp_path: Path, version: str) -> None:
    grid = GeoBox((32, 64), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")
    pixels = np.random.default_rng(2).integers(1, 9000, (2, *grid.shape), np.uint16)
    halves = [np.s_[:, :32], np.s_[:, 32:]]
    cells = [
        CellFile(n, grid[at], outline_of_grid(grid[at]), f"{n}{version}", "")
        for n, at in zip("ab", halves, strict=True)
    ]
    for cell, at in zip(cells, halves, strict=True):
        (tmp_path / cell.folder).mkdir(parents=True)
        write_cog(tmp_path / cell.folder / "data.tif", pixels[:, *at], cell.geobox, RasterSpec(0))
    region = tmp_path / f"region{version}"
    region.mkdir(parents=True)
    (region / "data.vrt").write_text(vrt(cells, ("red", "nir")))
    with rasterio.open(region / "data.vrt") as together:
        assert np.array_equal(together.read(), pixels)


@pytest.mark.parametrize(
    "affine",
    [
        Affine(10, 0, 500_000, 0, 10, 5_000_000),
        Affine.translation(500_000, 5_000_000) * Affine.rotation(20) * Affine.scale(10, -10),
    ],
    ids=["from south to north", "turned"],
)
def test_the_vrt_lies_where_its_cells_lie(tmp_path: Path, affine: Affine) -> None:
    grid = GeoBox((64, 32), affine, "EPSG:32633")
    pixels = np.random.default_rng(2).integers(1, 9000, (1, *grid.shape), np.uint16)
    cells = [
        CellFile(name, grid[at], outline_of_grid(grid[at]), name, "")
        for name, at in (("b", np.s_[32:, :]), ("a", np.s_[:32, :]))
    ]
    for cell, rows in zip(cells, (slice(32, 64), slice(0, 32)), strict=True):
        (tmp_path / cell.folder).mkdir()
        write_cog(tmp_path / cell.folder / "data.tif", pixels[:, rows], cell.geobox, RasterSpec(0))
    (tmp_path / "region").mkdir()
    (tmp_path / "region" / "data.vrt").write_text(vrt(cells, ("red",)))
    with rasterio.open(tmp_path / "region" / "data.vrt") as together:
        assert np.array_equal(together.read(), pixels)
        assert together.transform.almost_equals(affine, 1e-6)


def test_cells_of_one_grid_are_one_vrt_however_their_projection_is_written() -> None:
    wkt = rasterio.CRS.from_epsg(32633).to_wkt()
    places = {
        "a": ("EPSG:32633", 500_000, 10),
        "b": (wkt, 500_320, 10),
        "half a pixel on": (wkt, 500_645, 10),
        "coarser": ("EPSG:32633", 500_000, 20),
        "next zone": ("EPSG:32634", 500_000, 10),
    }
    cells = []
    for name, (crs, left, size) in places.items():
        grid = GeoBox((32, 32), Affine(size, 0, left, 0, -size, 5_000_000), crs)
        cells.append(CellFile(name, grid, outline_of_grid(grid), name, ""))
    names = {name: [cell.item_id for cell in found] for name, found in vrt_names(cells).items()}
    assert names == {
        "data-epsg32633": ["a", "b"],
        "data-epsg32633-2": ["half a pixel on"],
        "data-epsg32633-3": ["coarser"],
        "data-epsg32634": ["next zone"],
    }


def _record(cells: tuple[CellFile, ...]) -> RegionRecord:
    return RegionRecord(
        item_id="region-unveil-1",
        work_id="1",
        region="region",
        period="2023-08",
        start=datetime(2023, 8, 1, tzinfo=UTC),
        end=datetime(2023, 8, 31, tzinfo=UTC),
        method="median",
        reference="S",
        bands=("red",),
        cells=cells,
        address="/",
        software_version="1",
        created=datetime(2023, 9, 1, tzinfo=UTC),
    )


#: A projection without a code.
OWN = "+proj=tmerc +lon_0=15 +k=0.9996 +x_0=500001 +datum=WGS84 +units=m"


@pytest.mark.parametrize(("crs", "name"), [("EPSG:32633", "data-epsg32633"), (OWN, "data-projection-")])
def test_a_region_has_a_file_for_each_projection_whether_it_has_a_code_or_not(
    crs: str, name: str, tmp_path: Path
) -> None:
    wkt = rasterio.crs.CRS.from_string(crs).to_wkt()
    grid = GeoBox((32, 32), Affine(120, 0, 500_000, 0, -120, 5_200_000), CRS(wkt))
    picture = tmp_path / "visual.tif"
    write_cog(picture, np.full((3, 32, 32), 9, np.uint8), grid, RasterSpec(0, rgb=True))
    cell = CellFile("a", grid, outline_of_grid(grid), "a", str(picture))
    item = build_region_item(_record((cell,)), tmp_path, {})
    (key,) = [key for key, asset in item.assets.items() if asset.roles == ["data"]]
    assert key.startswith(name) and (tmp_path / f"{key}.vrt").is_file() and len(key) < 30


def test_a_region_that_is_copied_to_another_layout_finds_its_cells_there(tmp_path: Path) -> None:
    """As on S3, where the files of an item lie in a folder that is named after their content."""
    grid, mosaics = GeoBox((32, 32), Affine(120, 0, 500_000, 0, -120, 5_200_000), "EPSG:32633"), tmp_path / "mosaics"
    pixels = np.random.default_rng(3).integers(1, 9000, (1, *grid.shape), np.uint16)
    for folder in ("a&b", "a&b/0123", "region-unveil-1/4567"):
        (mosaics / folder).mkdir(parents=True)
    write_cog(mosaics / "a&b" / "visual.tif", np.full((3, 32, 32), 9, np.uint8), grid, RasterSpec(0, rgb=True))
    write_cog(mosaics / "a&b" / "0123" / "data.tif", pixels, grid, RasterSpec(0))
    cell = CellFile("a&b", grid, outline_of_grid(grid), "a&b", str(mosaics / "a&b" / "visual.tif"))
    folder = mosaics / "region-unveil-1" / "4567"
    item = build_region_item(_record((cell,)), folder, {})
    before = item.clone()
    repoint(folder, item, {"a&b": "a&b/0123"}, "s3://bucket/unveil-mosaics/")
    with rasterio.open(folder / "data-epsg32633.vrt") as together:
        assert np.array_equal(together.read(), pixels)
    document = json.loads((folder / "mosaic.json").read_text("utf-8"))
    assert document["asset_prefix"] == "s3://bucket/unveil-mosaics/"
    assert {path for paths in document["tiles"].values() for path in paths} == {"a&b/0123/visual.tif"}
    changed = {key for key, asset in item.assets.items() if asset.extra_fields != before.assets[key].extra_fields}
    assert changed == {"data-epsg32633", "mosaicjson"}
    assert all(
        asset.extra_fields["file:size"] == (folder / asset.href).stat().st_size for asset in item.assets.values()
    )
