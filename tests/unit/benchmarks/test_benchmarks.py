"""Every benchmark at its smallest size: what is counted, what is compared, and what its page says."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

from benchmarks import another_day, demo, drift, ledger, quality, report, scale, tile
from benchmarks.composite import Line, Score, Simple, blobby, least_squares, major_axis, page_of, theil_sen
from benchmarks.limits import kriging
from benchmarks.measuring import run_unveil
from benchmarks.report import Page
from de_model.metrics.baselines import interpolated
from flows.drift.compare import Verdict
from flows.errors import WorkFailed
from flows.ledger.schema import State
from stac.grid.assets import find_asset
from stac.grid.cell import cell_of
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_hidden
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog


def test_a_page_is_written_with_its_command_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--out", "docs/results"])
    page = Page("Title", (report.table(("a", "b"), [(1, "x")]),), {"psnr": math.inf, "a": [1.5]}, b"PNG")
    report.publish("demo", page, report.parser("demo", "").parse_args(["--out", str(tmp_path)]))
    text = (tmp_path / "demo.md").read_text("utf-8")
    assert "`python -m benchmarks.demo --out docs/results`" in text and text.endswith(
        "| a | b |\n| --- | --- |\n| 1 | x |\n"
    )
    assert json.loads((tmp_path / "demo.json").read_text("utf-8")) == {"psnr": None, "a": [1.5]}
    assert (tmp_path / "demo.png").read_bytes() == b"PNG"


def test_a_command_is_measured_and_its_failure_named() -> None:
    found = run_unveil("doctor", ["doctor", "--json"])
    assert found.seconds > 0 and found.peak_bytes > 2**26 and found.result
    with pytest.raises(WorkFailed, match="unveil nothing ended with 2"):
        run_unveil("nothing", ["nothing"])
    text = demo.page_of([found]).markdown("c")
    assert f"| doctor | {found.seconds:.1f} | {found.peak_bytes / 2**30:.2f} |" in text


def test_ledgers_are_measured_at_every_size() -> None:
    measured = ledger.measure(units=45, sizes=(50, 100), lives=5)
    assert [tenth.units for tenth in measured.carried.tenths] == [4, 9, 13, 18, 22, 27, 31, 36, 40, 45]
    assert measured.carried.counts == {State.SUCCEEDED: 45}
    assert [(rates.database, rates.lines, rates.units) for rates in measured.ledgers] == [
        ("SQLite", 50, 5),
        ("SQLite", 100, 5),
    ]
    text = ledger.page_of(measured).markdown("c")
    assert "among 100 lines as among 50" in text and "45 SUCCEEDED" in text


def test_the_sample_is_mirrored_into_a_readable_cell(tmp_path: Path) -> None:
    side = 1100
    root = tile.write_big_cell(tmp_path / "big", side)
    items = open_source(str(root)).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    assert len(items) == 5
    cell = cell_of(items[0], "blue")
    assert cell.geobox.shape == (side, side) and cell.gsd_m == 10
    small = sample_catalog().parent / items[0].id / Path(find_asset(items[0], "blue").href).name
    with rasterio.open(small) as file:
        pixels = file.read(1)
    rows = slice(len(pixels) - 20, len(pixels) + 30)
    stack = read_stack(items, cell.window(rows, slice(0, 100)), ("blue",))
    np.testing.assert_array_equal(stack.dn[0, 0, :20], pixels[-20:, :100])
    np.testing.assert_array_equal(stack.dn[0, 0, 20:], pixels[:-31:-1, :100])


def test_parts_of_stages_are_not_counted_twice() -> None:
    stages = {"prepare": 1.0, "read": 5.0, "waited": 1.0, "restore": 7.0, "model": 6.0, "write": 2.0, "quality": 1.0}
    alone = tile.PipelineMeasurement(1024, 100, stages, 20.0)
    assert (alone.unit_seconds, alone.efficiency) == (12.0, 0.5)
    turn = tile.Turn({"load": 4.0, "write": 4.0}, 10.0, 2**30, stages, 15.0, 30.0, 2**30)
    measured = tile.TileMeasurement(2048, 5, (turn,), 3.0, 5.0, 2.0)
    text = tile.page_of([measured], alone).markdown("c")
    assert "| 5 | 12.0 | 8.0 | 1.50 | 1.50 | 30 | 1.00 | 1.50 | 2.50 |" in text
    assert "1.6, reached" in text and "1.2, **missed**" in text
    assert "take 12.0 s" in text and "0.8, **missed**" in text


def test_two_workers_are_compared_with_one() -> None:
    one, two = (scale.ScaleRun(n, 6, 60.0 / n, 80.0 / n, 50.0, 5.0, 2**30) for n in (1, 2))
    measured = scale.ScaleMeasurement((one, two), 0.5, same_bytes=True)
    text = scale.page_of(measured).markdown("c")
    assert (
        "2.00 times as fast" in text and "1.7, reached" in text and "| 2 | 30.0 | 40.0 | 12.0 | 0.83 | 1.00 |" in text
    )


def test_a_large_offset_raises_an_alarm_and_the_sample_does_not() -> None:
    rows = dict(drift.measure())
    assert len(rows) == 10 + 2 + len(drift.SCENARIOS)
    assert rows["MGRS-33TWM, cloudy dates, as they are"].verdict is Verdict.STABLE
    assert rows["MGRS-33TWL, cloudy dates, offset +0.1"].verdict is Verdict.ALARM
    text = drift.page_of([*rows.items()]).markdown("c")
    assert text.count("| MGRS-33TWL, cloudy dates") == 1 + len(drift.SCENARIOS)


@pytest.fixture
def stack() -> Stack:
    """The target, and what two other dates saw of it: darker, brighter, the second one seen everywhere."""
    found = blobby(2).window(slice(0, 200), slice(0, 200))
    target = found.dn[0].astype(float)
    dn = np.stack([target, target * 0.8 + 100, target * 1.25 - 50])
    classes = found.classes.copy()
    classes[2] = PixelClass.CLEAR
    return replace(found, dn=np.rint(dn).clip(1, 65_535).astype(np.uint16), classes=classes)


@pytest.mark.parametrize("line", [least_squares, major_axis, theil_sen])
@pytest.mark.parametrize("believed", [False, True])
def test_dates_that_differ_by_a_line_give_the_target(stack: Stack, line: Line, believed: bool) -> None:
    filled = Simple(line, 2, 2, believed=believed)(stack, 0, 15)
    assert np.abs(filled - stack.reflectance(0)).max() < 2e-3


def test_only_the_nearest_dates_count(stack: Stack) -> None:
    moved = stack.dn.copy()
    moved[2] = np.maximum(moved[2] // 2, 1)
    one, other = (Simple(least_squares, 1)(replace(stack, dn=dn), 0, 15) for dn in (stack.dn, moved))
    seen = stack.classes[1] == PixelClass.CLEAR
    assert np.array_equal(one[:, seen], other[:, seen])
    assert np.isnan(Simple(least_squares, 1)(stack, 0, 1)[:, ~seen]).all(), "the second date is two days away"


def test_the_page_weighs_cases_by_their_pixels_and_counts_the_better_ones() -> None:
    names = ("mean of the two nearest linear matches", "fused")
    scores = [
        Score(300, dict(zip(names, [(0.02, 4e-4), (0.01, 1e-4)], strict=True)), 0.9),
        Score(100, dict(zip(names, [(0.02, 4e-4), (0.03, 9e-4)], strict=True)), 0.5),
    ]
    page = page_of({"here": scores}, {4: (1.0, 0.1), 8: (2.0, 0.2)})
    assert page.record["mae"]["fused"]["here"] == pytest.approx(0.015)
    assert page.record["coverage"]["here"] == pytest.approx(0.8)
    text = page.markdown("command")
    assert "| -25 %, better in 1 of 2 |" in text and "| 8 | 2.00 s | 0.200 s | 2.0 |" in text


def _field(seed: int) -> np.ndarray:
    """Return two bands of smooth ground with noise of single pixels, mean 0 and deviation near 1."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(2, 96, 96)), (0, 6, 6), mode="wrap")
    smooth = smooth / smooth.std() + 0.3 * random.normal(size=smooth.shape)
    return (smooth - smooth.mean(axis=(1, 2), keepdims=True)).astype(np.float32)


def test_kriging_of_smooth_ground_beats_its_colour_and_its_interpolation() -> None:
    known = np.ones((96, 96), bool)
    known[30:60, 20:70] = False
    errors = []
    for seed in range(6):
        ground = _field(seed)
        guesses = (np.zeros_like(ground), interpolated(ground, known, (0.0, 0.0)).image, kriging(ground, known))
        errors.append([np.square(guess - ground)[:, ~known].mean() for guess in guesses])
    flat, nearby, kriged = np.mean(errors, axis=0)
    assert kriged < 0.9 * nearby
    assert kriged < 0.8 * flat


def test_kriging_looks_at_known_pixels_only() -> None:
    ground, known = _field(1), np.ones((96, 96), bool)
    known[40:50, 40:50] = False
    other = np.where(known, ground, 9.0).astype(np.float32)
    np.testing.assert_array_equal(kriging(ground, known), kriging(other, known))


CODES = ("B01", "B02", "B03", "B04", "B08")


def write(path: Path, pixels: np.ndarray, names: tuple[str, ...] = ()) -> None:
    profile = {"driver": "GTiff", "count": len(pixels), "height": 64, "width": 64, "dtype": pixels.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=Affine(10, 0, 0, 0, -10, 0), **profile) as target:
        target.write(pixels)
        if names:
            target.descriptions = names


def test_pairs_are_read_by_band_name_and_clouds_grown_as_in_products(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("name,verdict\na,sound\nb,hazy target\n")
    clear = np.broadcast_to(np.arange(5, dtype=np.uint16)[:, None, None] * 100 + 500, (5, 64, 64)).copy()
    cloudy, cloud = clear.copy(), np.zeros((1, 64, 64), np.uint8)
    cloud[0, 30, 30], cloudy[:, 30, 30] = 1, 9000
    for half, pixels, mask in (("cloudy", cloudy, cloud), ("clear", clear, np.zeros_like(cloud))):
        write(tmp_path / f"a_{half}.tif", pixels, CODES)
        write(tmp_path / f"a_{half}_cloudmask.tif", mask)
    (case,) = quality._pairs(tmp_path)
    np.testing.assert_allclose(case.truth[:, 0, 0], [0.06, 0.07, 0.08, 0.09], rtol=1e-6)
    hidden = is_hidden(case.stack.classes[0])
    assert hidden[30, 42] and not hidden[30, 43], "120 m are 12 pixels"
    assert np.array_equal(case.where, hidden) and case.place == "a"


def test_places_count_alike_beside_their_pairs_and_the_worst_pair_is_shown() -> None:
    def score(place: str, gain: float, held_out: bool) -> another_day.PairScore:
        names = ("normalised_convolution", "fillnodata", "share", "without haze", *another_day._AT_LEVEL)
        psnr = {"flat": 25.0, "same day": 24.0, "predict": 25.0 + gain} | dict.fromkeys(names, 25.5)
        return another_day.PairScore(place, f"{place} pair", held_out, 100, psnr)

    scores = [score("a", 1.0, True), score("a", 2.0, True), score("b", -3.0, True), score("c", 9.0, False)]
    text = another_day.page_of(scores).markdown("c")
    held, trained = text.split("## Places that were trained on")
    assert "| **mean of places** | 3 | -1.00 | +0.50 | +0.50 | -0.75 |" in held
    assert "| mean of pairs | 3 | -1.00 | +0.50 | +0.50 | +0.00 |" in held
    assert "| worst pair | 3 | -1.00 | +0.50 | +0.50 | -3.00 |" in held
    assert "| **mean of places** | 1 | -1.00 | +0.50 | +0.50 | +9.00 |" in trained
