"""Figures of quality on products whose flaws are known, made of real layers on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter, uniform_filter

from stac.errors import InvalidProduct
from stac.product.layers import SOURCE_DATE_NODATA, ProductLayers, Provenance
from stac.product.writer import write_product
from stac.quality.assess import assess
from stac.quality.figures import HALF_WIDTH_EDGES, QualityFigures
from stac.quality.gate import Gate, judge

BANDS = ("blue", "green", "red", "nir")
SIDE = 120
#: Rows and columns of the restored patch: seen on another date on the left, drawn by the model on the right.
PATCH, LEFT, RIGHT = np.s_[40:80, 40:80], np.s_[40:80, 40:60], np.s_[40:80, 60:80]
DAY = 19586


@dataclass(frozen=True)
class Case:
    """A product that tests change before it is written."""

    layers: ProductLayers
    folder: Path

    def figures(self, window: int = 1024) -> QualityFigures:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_product([self.layers], self.layers.geobox, self.layers.bands, self.layers.data, self.folder)
        return assess(self.folder, self.layers.bands, window=window)

    def with_data(self, change: Callable[[np.ndarray], None]) -> Case:
        """Return the case with its data `(band, y, x)` changed in place by a function."""
        data = self.layers.data.copy()
        change(data)
        return replace(self, layers=replace(self.layers, data=data))


def ground(seed: int = 0) -> np.ndarray:
    """Return clear ground `(band, y, x)`, reflectance / 1e-4: vegetation with texture of one kind everywhere."""
    random = np.random.default_rng(seed)
    texture = gaussian_filter(random.normal(size=(SIDE, SIDE)), 1.0, mode="wrap") * 300
    means = np.array([300, 500, 400, 3000])[:, None, None]
    return np.rint(means + texture * np.array([0.3, 0.4, 0.5, 1.5])[:, None, None]).astype(np.uint16)


def perfect(folder: Path) -> Case:
    """Return a product whose restored pixels are the true ones."""
    provenance = np.full((SIDE, SIDE), Provenance.OBSERVED, np.uint8)
    provenance[LEFT], provenance[RIGHT] = Provenance.OTHER_DATES, Provenance.GENERATED
    uncertainty = np.zeros((4, SIDE, SIDE), np.float32)
    uncertainty[:, *LEFT], uncertainty[:, *RIGHT] = 0.02, 0.05
    days = np.full((SIDE, SIDE), DAY, np.int32)
    days[LEFT], days[RIGHT] = DAY + 3, SOURCE_DATE_NODATA
    weight = np.full((SIDE, SIDE), np.nan, np.float32)
    weight[RIGHT] = 0.4
    box = GeoBox((SIDE, SIDE), Affine(120, 0, 500_000, 0, -120, 5_200_000), "EPSG:32633")
    data = ground()
    return Case(ProductLayers(data, provenance, days, weight, uncertainty, box, BANDS), folder)


def blur(data: np.ndarray) -> None:
    """Smooth the patch."""
    for band in data:
        band[PATCH] = uniform_filter(band.astype(float), 5)[PATCH]


def brighten(data: np.ndarray) -> None:
    """Make the patch 0.03 brighter in every band."""
    data[:, *PATCH] += 300


def cloud(data: np.ndarray) -> None:
    """Leave a white bright cloud of 10 x 20 pixels in the patch."""
    data[:, 50:60, 45:65] = 4000


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return perfect(tmp_path / "product")


def test_a_perfect_restoration_cannot_be_distinguished_from_its_surroundings(case: Case) -> None:
    figures = case.figures()
    restored = figures.groups["restored"]
    assert restored.sharpness == pytest.approx(1, abs=0.1)
    assert restored.largest_shift is not None and restored.largest_shift < 0.003
    assert restored.ndvi_shift == pytest.approx(0, abs=0.01)
    assert restored.residual_cloud == 0 and figures.observed_cloud == 0
    assert figures.seam_ratio == pytest.approx(1, abs=0.15)
    assert {(s.first, s.second) for s in figures.seams} == {(1, 2), (1, 5), (2, 5)}
    assert figures.warnings == () and judge(figures, Gate()).passed


def test_areas_dates_and_intervals_are_those_of_the_layers(case: Case) -> None:
    figures = case.figures()
    pixel = 0.12**2
    assert figures.areas_km2["generated"] == pytest.approx(800 * pixel, abs=1e-3)
    assert sum(figures.areas_km2.values()) == pytest.approx(120 * 120 * pixel, abs=1e-3)
    assert [(d.date, round(d.km2 / pixel)) for d in figures.dates] == [("2023-08-17", 12_800), ("2023-08-20", 800)]
    generated, other = figures.groups["generated"], figures.groups["other_dates"]
    assert (generated.half_width_mean, generated.half_width_p90) == pytest.approx((0.05, 0.05))
    assert generated.reference_weight == pytest.approx(0.4) and other.reference_weight is None
    assert figures.groups["restored"].half_width_mean == pytest.approx(0.035)
    assert other.half_widths[HALF_WIDTH_EDGES.index(0.02)] == 4 * 800 == sum(other.half_widths)
    assert figures.restored_share == pytest.approx(1600 / 14_400) and figures.not_recoverable == 0


def test_blur_lowers_sharpness_and_noise_raises_it(case: Case) -> None:
    random = np.random.default_rng(1)

    def roughen(data: np.ndarray) -> None:
        data[:, *PATCH] += random.integers(0, 400, data[:, *PATCH].shape, np.uint16)

    assert _sharpness(case.with_data(blur)) < 0.5 < 1.5 < _sharpness(case.with_data(roughen))


def _sharpness(case: Case) -> float:
    found = case.figures().groups["restored"].sharpness
    assert found is not None
    return found


def test_brighter_ground_is_a_shift_of_its_size(case: Case) -> None:
    before, after = case.figures().groups["restored"], case.with_data(brighten).figures().groups["restored"]
    assert before.colour_shift and after.colour_shift
    for band in BANDS:
        assert after.colour_shift[band] - before.colour_shift[band] == pytest.approx(0.03)
    assert (
        before.ndvi_shift is not None and after.ndvi_shift is not None and after.ndvi_shift < before.ndvi_shift - 0.05
    )


def test_a_class_that_differs_raises_only_its_own_seams(case: Case) -> None:
    def lift(data: np.ndarray) -> None:
        data[:, *RIGHT] += 800

    before = {(s.first, s.second): s.ratio for s in case.figures().seams}
    after = {(s.first, s.second): s.ratio for s in case.with_data(lift).figures().seams}
    assert after[1, 2] == before[1, 2]
    assert after[1, 5] > 3 * before[1, 5] and after[2, 5] > 3 * before[2, 5]


def test_cloud_left_in_the_result_is_found_where_it_is(case: Case) -> None:
    figures = case.with_data(cloud).figures()
    assert figures.groups["restored"].residual_cloud == pytest.approx(200 / 1600)
    assert figures.groups["generated"].residual_cloud == pytest.approx(50 / 800)
    assert not judge(figures, Gate()).passed


def test_ground_as_bright_as_its_surroundings_is_not_a_cloud(case: Case) -> None:
    def whiten(data: np.ndarray) -> None:
        data[:] = 3000 + (ground() - ground().min()) // 4

    assert case.with_data(whiten).figures().groups["restored"].residual_cloud == 0


@pytest.mark.parametrize("window", [16, 37, 64])
def test_windows_give_the_figures_of_the_whole(case: Case, window: int) -> None:
    flawed = case.with_data(blur).with_data(cloud)
    assert flawed.figures(window) == flawed.figures()


def test_nothing_restored_has_no_figures_rather_than_zeros(case: Case) -> None:
    seen = np.full_like(case.layers.provenance, Provenance.OBSERVED)
    figures = replace(case, layers=replace(case.layers, provenance=seen)).figures()
    assert not figures.groups and not figures.seams
    assert figures.seam_ratio is None and figures.observed_cloud is None
    verdict = judge(figures, Gate())
    assert verdict.passed and [c.name for c in verdict.checks if c.passed is not None] == ["not_recoverable"]
    assert "Nothing was restored" in figures.warnings[0]


def test_without_surroundings_nothing_is_compared(case: Case) -> None:
    seen = np.full_like(case.layers.provenance, Provenance.GENERATED)
    restored = replace(case, layers=replace(case.layers, provenance=seen)).figures().groups["restored"]
    assert (restored.sharpness, restored.colour_shift, restored.ndvi_shift) == (None, None, None)
    assert restored.residual_cloud == 0, "tested against ground as it usually is"


def test_an_empty_product_has_no_shares(case: Case) -> None:
    seen = np.full_like(case.layers.provenance, Provenance.NODATA)
    dates = np.full_like(case.layers.source_date, SOURCE_DATE_NODATA)
    figures = replace(case, layers=replace(case.layers, provenance=seen, source_date=dates)).figures()
    assert figures.not_recoverable is None and figures.restored_share is None and figures.dates == ()


def test_other_bands_have_no_cloud_test_and_no_ndvi(case: Case) -> None:
    layers = replace(case.layers, bands=("swir16", "swir22", "rededge1", "lwir"))
    figures = replace(case, layers=layers).figures()
    restored = figures.groups["restored"]
    assert restored.residual_cloud is None and restored.ndvi_shift is None and restored.sharpness is not None
    assert any("blue, green and red" in warning for warning in figures.warnings)


def test_layers_that_do_not_fit_are_refused(case: Case) -> None:
    case.figures()
    with pytest.raises(InvalidProduct, match="bands"):
        assess(case.folder, ("red",))
    (case.folder / "uncertainty.tif").write_bytes(b"II*\0 no raster")
    with pytest.raises(InvalidProduct, match="cannot be read"):
        assess(case.folder, BANDS)


@pytest.mark.parametrize(
    ("flaw", "name"),
    [(blur, "sharpness"), (brighten, "colour_shift"), (brighten, "ndvi_shift"), (cloud, "residual_cloud")],
)
def test_the_gate_says_which_limit_was_broken(case: Case, flaw: object, name: str) -> None:
    gate = Gate(min_sharpness=0.5, max_colour_shift=0.02, max_ndvi_shift=0.03)
    assert judge(case.figures(), gate).passed
    verdict = judge(case.with_data(flaw).figures(), gate)  # type: ignore[arg-type]
    failed = [check for check in verdict.checks if check.passed is False]
    assert not verdict.passed and name in {check.name for check in failed}
    assert len(verdict.reasons) == len(failed) and all("limit of" in reason for reason in verdict.reasons)


def test_too_wide_intervals_and_lost_ground_fail(case: Case) -> None:
    wide = replace(case, layers=replace(case.layers, uncertainty=case.layers.uncertainty * 10)).figures()
    assert [c.name for c in judge(wide, Gate()).checks if c.passed is False] == ["half_width"]
    lost = case.layers.provenance.copy()
    lost[80:] = Provenance.NOT_RECOVERABLE
    figures = replace(case, layers=replace(case.layers, provenance=lost)).figures()
    assert figures.not_recoverable == pytest.approx(1 / 3)
    assert [c.name for c in judge(figures, Gate()).checks if c.passed is False] == ["not_recoverable"]
