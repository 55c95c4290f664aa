"""What a model is worth beside trivial fillers, on cases whose truth is exact and that nothing can see."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from de_model import checkpoint
from de_model.calibration import Origin
from de_model.card import ModelCard
from de_model.inference.sampling import Sampling
from de_model.validation import Filler, PixelKind, fillers_of
from flows.errors import InvalidSettings
from flows.models.evaluation import (
    Case,
    Protocol,
    cases_of,
    evaluate,
    every_second_pair,
    real_cases,
    transplanted_cases,
)
from flows.models.evaluation_figures import Evaluation, error_sums
from flows.models.evaluation_report import metrics_of, sentences, tables
from flows.models.gates import Gates, compared, judge
from flows.settings.restoring import RestorationOptions
from stac.composite.fusion import fit_fused
from stac.composite.methods import CompositeMethod
from stac.composite.temporal import median_clear, nearest_clear
from stac.grid.cell import Cell, cell_of
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_hidden
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from tests.unit.de_model.tiny_model import tiny_model

SIDE = 96
SAMPLING = Sampling(samples=1, steps=1, tile=32, overlap=8)


def usage(_: ModelCard) -> RestorationOptions:
    return RestorationOptions(SAMPLING, CompositeMethod.MEDIAN)


def case_of(dates: int) -> Case:
    """A bright cloud with a thin rim over ground that rises from west to east; the second date saw half of it."""
    random = np.random.default_rng(0)
    ground = np.linspace(0.1, 0.3, SIDE, dtype=np.float32)
    truth = np.broadcast_to(ground, (2, SIDE, SIDE)) + random.normal(0, 0.002, (2, SIDE, SIDE)).astype(np.float32)
    classes = np.full((dates, SIDE, SIDE), PixelClass.CLEAR, np.uint8)
    classes[0, 20:70, 20:70], classes[0, 25:65, 25:65] = PixelClass.THIN_CLOUD, PixelClass.CLOUD
    classes[1:, :, 45:] = PixelClass.CLOUD
    hidden = classes[0] != PixelClass.CLEAR
    dn = np.round(np.broadcast_to(truth, (dates, 2, SIDE, SIDE)) * 1e4).astype(np.uint16)
    dn[0][:, hidden] = 8000
    dn[1:] += 100
    ids, days = tuple(f"item{i}" for i in range(dates)), np.array([100, 103][:dates], np.int32)
    cell = Cell("T", GeoBox((SIDE, SIDE), Affine(10, 0, 0, 0, -10, 0), "EPSG:32633"))
    stack = Stack(dn, classes, ids, days, ("red", "nir"), cell)
    return Case(Protocol.TRANSPLANTED, "2020-01-01", "2020-01-02", stack, 0, truth, hidden)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    checkpoint.save(tiny_model(), path)
    return path


@pytest.fixture(scope="module")
def found(weights: Path) -> Evaluation:
    return evaluate(weights, [case_of(1), case_of(2)], usage)


def test_every_filler_is_scored_on_the_same_pixels_of_its_kinds(found: Evaluation) -> None:
    alone, dated = found.cases
    assert set(alone.errors) == {PixelKind.THIN_CLOUD, PixelKind.GAP_NEAR, PixelKind.GAP_FAR}
    in_gaps = {Filler.FLAT, Filler.NORMALISED_CONVOLUTION, Filler.FILLNODATA} | {f for f in Filler if f.of_model}
    for kind, errors in alone.errors.items():
        assert set(errors) == in_gaps, kind
        assert len({sums.pixels for sums in errors.values()}) == 1
    assert sum(next(iter(errors.values())).pixels for errors in alone.errors.values()) == 50 * 50
    others = dated.errors[PixelKind.OTHER_DATES]
    assert set(others) == {f for f in Filler if "date" in f or "match" in f} | {Filler.COMPOSITE} - {Filler.FILLNODATA}
    assert next(iter(others.values())).pixels == 50 * 25
    assert others[Filler.NEAREST_DATE].mae == pytest.approx(0.01, abs=1e-3), "100 digital numbers too bright"
    assert others[Filler.LINEAR_MATCH].mae < 0.001


def test_an_untrained_model_is_beaten_and_does_not_fill(found: Evaluation) -> None:
    record = found.record()
    assert record.weights_sha256 == found.sha256 and record.bands == ("red", "nir")
    near = record.kinds[PixelKind.GAP_NEAR].fillers
    assert near[Filler.NORMALISED_CONVOLUTION].mae < near[Filler.FLAT].mae < near[Filler.DE].mae  # type: ignore[union-attr]
    assert not any(f.of_model for kind, f in fillers_of(record).items() if kind is not PixelKind.NO_CLEAR_GROUND)
    (said,) = (text for text in sentences(found) if text.startswith("gap_near"))
    assert "is beaten by" in said and "normalised_convolution" in said.split("beaten by")[1]
    assert f"mae/{PixelKind.GAP_FAR}/de" in metrics_of(found) and "### gap_far" in tables(found)


def test_the_gate_refuses_weights_that_lose_to_a_trivial_filler_with_the_figures(found: Evaluation) -> None:
    comparison = compared(found, found)
    assert comparison.gain.mean == 0 and comparison.trivial_gain.mean < 0 and comparison.changed_pixels == 0
    loose = Gates(least_blocks=1, least_coverage=0, most_coverage=1, least_psnr_db=0, most_time_ratio=99)
    verdict = judge(comparison, loose)
    (reason,) = verdict.reasons
    assert (
        reason.startswith(f"Mean gain in PSNR over {comparison.trivial} (dB) is -") and "below the limit of 0" in reason
    )


def test_coverage_and_score_of_intervals_are_those_of_plain_formulas(found: Evaluation) -> None:
    assert found.coverage(Origin.OTHER_DATES).values == 2 * 50 * 25
    around = found.coverage(Origin.SURROUNDINGS, "T")
    assert 0 <= around.share <= 1 and around.mean_score > 0 and around == found.coverage(Origin.SURROUNDINGS)
    assert np.isnan(found.coverage(Origin.MODEL, "elsewhere").share)


def test_there_must_be_cases_and_the_models_bands(weights: Path) -> None:
    with pytest.raises(InvalidSettings, match="no case"):
        evaluate(weights, [], usage)


SAMPLE_BANDS = ("blue", "green", "red", "nir")
CLOUDY, CLEAR = [3], [2, 4]


@pytest.fixture(scope="module")
def stack() -> Stack:
    items = open_source(str(sample_catalog())).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    chosen = sorted((item for item in items if "33TWL" in item.id), key=lambda item: item.id[11:19])
    whole = read_stack(chosen, cell_of(chosen[0], "blue"), SAMPLE_BANDS)
    return whole.window(slice(100, 300), slice(200, 400))


@pytest.fixture(scope="module")
def cases(stack: Stack) -> list[Case]:
    return [*transplanted_cases(stack, CLOUDY, CLEAR), *real_cases(stack, CLOUDY, CLEAR)]


def test_the_truth_is_in_none_of_the_dates(cases: list[Case]) -> None:
    for case in cases:
        truth = case.truth[:, case.where]
        # Under the rim of a grown mask the target itself is nearly clear; it is hidden from everything by its class.
        assert is_hidden(case.stack.classes[case.target][case.where]).all()
        for index in set(range(len(case.stack.days))) - {case.target}:
            same = (case.stack.reflectance(index)[:, case.where] == truth).all(axis=0)
            assert same.mean() < 0.01, (case.name, case.stack.item_ids[index])


def test_what_intervals_are_fitted_on_does_not_judge_them(stack: Stack) -> None:
    every = list(cases_of([stack], 64))
    fitted, judged = (list(every_second_pair(every, later=later)) for later in (False, True))
    pairs = [{(case.protocol, case.clouds, case.truth_day) for case in part} for part in (fitted, judged)]
    assert all(pairs) and not pairs[0] & pairs[1] and len(fitted) + len(judged) == len(every)


def test_outside_the_clouds_the_target_is_observed(stack: Stack, cases: list[Case]) -> None:
    for case in cases:
        if case.protocol is Protocol.TRANSPLANTED:
            classes = case.stack.classes[case.target]
            kept = ~is_hidden(stack.classes[3]) & (classes != PixelClass.NODATA)
            original = stack.dn[stack.index_of(case.stack.item_ids[case.target])]
            assert np.array_equal(case.stack.dn[case.target][:, kept], original[:, kept])
            assert (is_hidden(classes) == is_hidden(classes) | case.where).all()


def test_the_fused_composite_beats_simpler_ones_under_transplanted_clouds(cases: list[Case]) -> None:
    """The bar of the product: per-band lines fitted on what both dates saw."""
    for case in cases:
        if case.protocol is Protocol.REAL_PAIRS:
            continue
        images = [make(case.stack, case.target).reflectance for make in (nearest_clear, median_clear)] + [
            fit_fused(case.stack, case.target).apply(case.stack, case.target).reflectance
        ]
        where = case.where & np.isfinite(np.stack(images)).all(axis=(0, 1))
        line, median, fused = (error_sums(image, case.truth, where, SAMPLE_BANDS).mae for image in images)
        assert fused < min(line, median), case.name


def test_errors_are_those_of_plain_formulas() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.4, (4, 90, 70)).astype(np.float32)
    image = (truth + random.normal(0, 0.01, truth.shape)).astype(np.float32)
    where = random.random((90, 70)) < 0.5
    sums = error_sums(image, truth, where, SAMPLE_BANDS)
    difference = (image - truth)[:, where].astype(np.float64)
    assert sums.pixels == where.sum() and len(sums.sums) == 4
    assert sums.mae == pytest.approx(np.abs(difference).mean())
    assert sums.psnr == pytest.approx(-10 * np.log10(np.square(difference).mean()))
    low, high = sums.mae_interval()
    assert low < sums.mae < high
    worse = error_sums(image + np.float32(0.02), truth, where, SAMPLE_BANDS)
    assert worse.mae > sums.mae
    same = error_sums(truth, truth, where, SAMPLE_BANDS)
    assert same.mae == 0 and same.psnr == np.inf and same.ndvi == 0
    assert dataclasses.replace(sums).mae == (sums + sums).mae
