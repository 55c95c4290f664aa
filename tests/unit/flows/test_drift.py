"""Drift: counts and distances of distributions, and comparisons of the sample with the shipped baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from de_model.checkpoint import sha256_of, shipped_weights
from de_model.errors import InvalidCheckpoint
from flows.drift.compare import (
    DriftReport,
    Verdict,
    compare,
    population_stability_index,
    statistics_of,
    total_variation,
    wasserstein,
)
from flows.drift.statistics import (
    NDVI,
    SKY,
    SUN,
    Baseline,
    Histogram,
    UnitStatistics,
    baseline_of,
    baseline_path,
    feature_of,
    input_statistics,
    load_baseline,
    ndvi_steps,
    reflectance,
)
from flows.planning.search import SceneSet, cloudy_and_clear, dated_stacks_of
from flows.reports.page import drift_parts
from flows.running.summary import drift_markdown
from flows.settings import RunSettings
from stac.load.stack import Stack

BLUE = reflectance("blue")
STEPS = st.lists(st.integers(0, 12_000), min_size=1, max_size=300)


@given(STEPS)
def test_the_mean_is_that_of_the_values(values: list[int]) -> None:
    found = Histogram.of_steps(BLUE, np.array(values, np.uint16))
    assert found.size == len(values)
    assert found.mean == pytest.approx(np.mean(values) * 1e-4)


@given(STEPS, STEPS)
def test_parts_add_up_to_the_whole(one: list[int], other: list[int]) -> None:
    parts = [Histogram.of_steps(BLUE, np.array(values)) for values in (one, other)]
    whole = Histogram.of_steps(BLUE, np.array(one + other))
    pooled = Histogram.pooled(parts)
    assert pooled.counts == whole.counts and pooled.mean == pytest.approx(whole.mean)


def test_values_on_an_edge_belong_to_the_bin_above_and_none_is_lost() -> None:
    found = Histogram.of_steps(BLUE, np.array([0, 99, 100, 2999, 3000, 60_000]))
    assert found.counts[:2] == (2, 1) and found.counts[29:31] == (1, 1) and found.counts[-1] == 1
    below = Histogram.of_steps(NDVI, np.array([-9_000, 9_999]))
    assert below.counts[0] == 1 == below.counts[-1] and below.sum == pytest.approx(0.0999)
    assert Histogram.of_steps(BLUE, np.array([], np.uint16)).size == 0


def test_counts_alone_take_the_middle_of_their_bins() -> None:
    counts = [0] * SUN.bins
    counts[22] = 2  # 55 to 57.5 degrees
    assert Histogram.of_counts(SUN, counts).mean == pytest.approx(56.25)
    assert Histogram.of_counts(SKY, [3, 0, 1, 0, 0, 0]).shares[2] == 0.25


def test_ndvi_of_nothing_is_not_a_division_by_zero() -> None:
    red, nir = np.array([0, 1000, 500], np.int32), np.array([0, 1000, 1500], np.int32)
    assert ndvi_steps(red, nir).tolist() == [0, 0, 5000]


def test_a_feature_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="unknown"):
        feature_of("colour of the sea")


CENTRES = np.array([0.0, 0.1, 0.2, 0.4, 0.9])
COUNTS = arrays(np.int64, 5, elements=st.integers(0, 1000)).filter(lambda counts: counts.sum() > 0)


def shares(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum()


def test_known_values() -> None:
    now, before = np.array([0.2, 0.8]), np.array([0.5, 0.5])
    assert population_stability_index(now, before) == pytest.approx(-0.3 * np.log(0.4) + 0.3 * np.log(1.6))
    assert wasserstein(now, before, np.array([0.0, 10.0])) == pytest.approx(3.0)
    assert total_variation(now, before) == pytest.approx(0.3)


def test_everything_in_another_bin_is_far_and_finite() -> None:
    now, before = np.eye(5)[0], np.eye(5)[4]
    assert wasserstein(now, before, CENTRES) == pytest.approx(0.9)
    assert 10 < population_stability_index(now, before) < 20


@given(COUNTS, COUNTS)
def test_the_way_of_values_is_that_of_scipy(one: np.ndarray, other: np.ndarray) -> None:
    expected = wasserstein_distance(CENTRES, CENTRES, one, other)
    assert wasserstein(shares(one), shares(other), CENTRES) == pytest.approx(expected, abs=1e-9)


#: The square that the shipped model was never trained on.
FOREIGN = SceneSet(cells=("MGRS-33TWL",))
BANDS = ("blue", "green", "red", "nir")


@cache
def shipped() -> Baseline:
    found = baseline_of(shipped_weights())
    assert found is not None
    return found


@cache
def sample() -> list[tuple[Stack, int, tuple[pystac.Item, ...]]]:
    """The cloudy dates of the foreign square."""
    return [
        (stack, index, dates[index].items)
        for stack, dates in dated_stacks_of(FOREIGN)
        for index in cloudy_and_clear(stack)[0]
    ]


def report(change: Callable[[Stack], Stack] = lambda stack: stack, sun: float | None = None) -> DriftReport:
    """The dates after a change, against the shipped baseline."""
    units = []
    for stack, index, items in sample():
        scenes = [item.clone() for item in items]
        for scene in scenes:
            if sun is not None:
                scene.properties["view:sun_elevation"] = sun
        units.append(UnitStatistics(stack.item_ids[index], input_statistics(change(stack), index, scenes)))
    return compare(units, shipped())


def scaled(factor: float, offset: int = 0) -> Callable[[Stack], Stack]:
    def change(stack: Stack) -> Stack:
        dn = np.where(stack.dn > 0, stack.dn * factor + offset, 0).clip(0, 65_535)
        return replace(stack, dn=dn.astype(np.uint16))

    return change


def test_the_shipped_baseline_belongs_to_the_shipped_weights_and_is_small() -> None:
    path = baseline_path(shipped_weights())
    assert shipped().weights_sha256 == sha256_of(shipped_weights())
    assert "MGRS-33TWM" in shipped().made_of and len(shipped().pairs) == 6
    assert path.stat().st_size < 200_000
    names = {name for unit in shipped().units for name in unit.features}
    others = {"ndvi", "sky", "sun_elevation", "reference_weight", "half_width", "residual_cloud"}
    assert names == {f"reflectance.{band}" for band in BANDS} | others


def test_the_neighbour_that_was_not_trained_on_raises_no_alarm() -> None:
    found = report()
    assert found.of(Verdict.ALARM) == (), [feature.sentence for feature in found.of(Verdict.ALARM)]
    assert {feature.name for feature in found.features} >= {"reflectance.blue", "ndvi", "sky", "sun_elevation"}


def test_an_offset_that_was_not_taken_off_alarms_in_every_band() -> None:
    found = report(scaled(1, 1000))
    alarmed = {feature.name for feature in found.of(Verdict.ALARM)}
    assert alarmed >= {f"reflectance.{band}" for band in ("blue", "green", "red")}
    blue = next(feature for feature in found.features if feature.name == "reflectance.blue")
    before = next(feature for feature in report().features if feature.name == "reflectance.blue")
    assert blue.mean is not None and before.mean is not None
    assert blue.mean - before.mean == pytest.approx(0.1, abs=1e-4)
    assert "Drift alarm: 2 units" in found.sentence and "Reflectance of clear ground, blue" in found.sentence
    assert "alarm" in blue.sentence and "in training" in blue.sentence


def test_winter_alarms_by_its_sun() -> None:
    found = report(sun=18.0)
    assert {feature.name for feature in found.of(Verdict.ALARM)} == {"sun_elevation"}


def test_ground_without_plants_alarms() -> None:
    def barren(stack: Stack) -> Stack:
        dn = stack.dn.copy()
        dn[:, BANDS.index("nir")] = dn[:, BANDS.index("red")]
        return replace(stack, dn=dn)

    assert "ndvi" in {feature.name for feature in report(barren).of(Verdict.ALARM)}


def test_a_sky_that_is_clearer_than_in_training_is_not_an_alarm() -> None:
    stack, dates = next(dated_stacks_of(FOREIGN))
    clear = cloudy_and_clear(stack)[1]
    units = [UnitStatistics(dates[i].id, input_statistics(stack, i, dates[i].items)) for i in clear]
    sky = next(f for f in compare(units, shipped()).features if f.name == "sky")
    assert sky.shift.verdict is Verdict.ALARM and sky.verdict is Verdict.STABLE and "harmless" in sky.sentence


def test_few_pixels_are_not_judged() -> None:
    stack, index, items = sample()[0]
    corner = stack.window(slice(300, 306), slice(400, 406))
    unit = UnitStatistics("corner", input_statistics(corner, index, items))
    found = compare([unit], shipped())
    assert [feature.name for feature in found.features] == ["sun_elevation"]
    assert any("too few" in reason for reason in found.left_out)


def test_the_fewer_units_are_judged_the_more_chance_may_do() -> None:
    parts = [
        UnitStatistics(str(i), {n: h for n, h in u.features.items() if n == "reflectance.red"})
        for i, u in enumerate(shipped().units)
    ]
    one, many = (compare(parts[:count], shipped()).features[0] for count in (1, len(parts)))
    assert many.shift.watch < one.shift.watch and one.shift.watch < one.shift.alarm


def test_the_pages_show_every_feature_and_every_alarm() -> None:
    found = report(scaled(1, 1000))
    document = {"statistics": asdict(shipped().units[0]), "comparison": asdict(found), "note": ""}
    parts = drift_parts({"drift": document})
    assert parts is not None and len(parts["rows"]) == len(found.features) and parts["verdict"] == "alarm"
    assert parts["chart"].startswith("<svg") and drift_parts({}) is None
    text = drift_markdown(found.brief)
    assert all(feature.sentence in text for feature in found.of(Verdict.ALARM)) and drift_markdown(None) == ""
    without = drift_parts({"drift": document | {"comparison": None, "note": "no baseline"}})
    assert without == {"rows": [], "note": "no baseline"}


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.baseline.json"
    shipped().save(path)
    assert load_baseline(path) == shipped()


def test_a_broken_or_foreign_baseline_is_named(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"other weights")
    assert baseline_of(weights) is None
    shipped().save(baseline_path(weights))
    with pytest.raises(InvalidCheckpoint, match="belongs to other weights"):
        baseline_of(weights)
    for text in ("", "{}", baseline_path(shipped_weights()).read_text().replace('"counts":[', '"counts":[1,')):
        baseline_path(weights).write_text(text)
        with pytest.raises(InvalidCheckpoint, match=r"model\.baseline\.json"):
            baseline_of(weights)


def test_what_training_does_not_show_is_left_out_with_its_reason() -> None:
    stack, index, items = sample()[0]
    counted = input_statistics(stack, index, items)
    counted[reflectance("swir").name] = counted["reflectance.red"]
    found = compare([UnitStatistics("unit", counted)], shipped())
    assert any("swir" in reason for reason in found.left_out)


def test_statistics_stand_in_the_metadata_of_what_was_published(tmp_path: Path) -> None:
    settings, counted = RunSettings(out=tmp_path), shipped().units[0]
    metadata = {"model": {"sha256": "m"}, "drift": {"statistics": asdict(counted)}}
    for collection, item, document in (
        ("unveil-cloud-free", "good", metadata),
        ("unveil-review", "reviewed", metadata),
        ("unveil-cloud-free", "mosaic", {"model": {"sha256": "m"}}),
        ("unveil-cloud-free", "broken", metadata | {"drift": {"statistics": {"name": "a"}}}),
    ):
        folder = tmp_path / collection / item
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(json.dumps(document))
    assert statistics_of("good", settings, "m") == statistics_of("reviewed", settings, "m") == counted
    assert statistics_of("good", settings, "other") is statistics_of("mosaic", settings, "m") is None
    assert statistics_of("retracted", settings, "m") is None
    with pytest.raises(InvalidCheckpoint, match=r"broken/metadata\.json"):
        statistics_of("broken", settings, "m")
