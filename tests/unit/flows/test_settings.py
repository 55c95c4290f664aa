"""Settings: plain errors, and what follows from those that are left out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from de_model.inference.sampling import Sampling
from de_model.sampling.kinds import SamplerKind
from flows.errors import InvalidSettings
from flows.planning.search import find_scenes
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent
from stac.errors import EmptySearch, InvalidQuery
from stac.quality.gate import Gate
from stac.search.static import sample_catalog

#: What suits a model.
OWN = Sampling(start=150, steps=3, samples=1, tile=192, overlap=48)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_a_day_needs_no_quotes_in_a_file(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("datetime: 2023-08-18\nseed: 4\n")
    settings = load_settings(config)
    assert settings.datetime == "2023-08-18" and settings.seed == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("composit: fused", "composit is unknown .*; the nearest is composite"),
        ("period: month", "period is unknown .*; it is an option of its own: `unveil mosaic --period`"),
        ("zzz: 1", "zzz is unknown .*; the command's --help lists all"),
        ("bands: [1, red]", r"Setting bands\[0\]"),
        ("max_cloud: 200", "max_cloud"),
        ("eta: lots", "eta"),
        ("min_cloud: 50\nmax_cloud: 10", "swap"),
        ("[1, 2", "YAML"),
        ("- a\n- b", "lines such as"),
        ("composite: magic", "composite"),
        ("sampler: euler", "sampler"),
        ("start: 1000", "start"),
        ("start: 2\nsteps: 4", "4 steps do not fit"),
    ],
)
def test_wrong_files_are_reported_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(InvalidSettings, match=says) as caught:
        load_settings(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidSettings, match=r"nothing\.yaml"):
        load_settings(tmp_path / "nothing.yaml")


def test_area_and_interval_are_checked_when_asked_for() -> None:
    with pytest.raises(InvalidQuery, match="no area"):
        _ = load_settings(None, {"bbox": "15,45,15,46"}).query


def test_the_gate_is_set_by_configuration_and_changes_no_work(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("gate_max_seam_ratio: 1.5\n")
    default, strict = load_settings(), load_settings(config)
    assert default.quality_gate == Gate() and strict.quality_gate == Gate(max_seam_ratio=1.5)
    assert strict.gate_limits != default.gate_limits and strict.parameters == default.parameters
    off = load_settings(None, {"gate": "off"})
    assert off.quality_gate is None and off.gate_limits is None


def test_masks_are_named_in_a_file_or_in_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("masks: [scl, s2cloudless]\nmask_rule: majority\nradiometry_check: warn\n")
    reading = load_settings(file).reading
    assert [kind.value for kind in reading.masks] == ["scl", "s2cloudless"]
    assert (reading.mask_rule.value, reading.radiometry_check.value) == ("majority", "warn")
    monkeypatch.setenv("UNVEIL_MASKS", "qa_pixel, omnicloudmask")
    assert [kind.value for kind in load_settings().masks] == ["qa_pixel", "omnicloudmask"]
    with pytest.raises(InvalidSettings, match="masks"):
        load_settings(overrides={"masks": "fmask"})


def test_dates_of_the_sample_are_those_of_the_sample_alone(tmp_path: Path) -> None:
    catalog = Path(shutil.copytree(sample_catalog().parent, tmp_path / "mine")) / "catalog.json"
    for path in catalog.parent.glob("*/*.json"):
        text = path.read_text("utf-8")
        path.write_text(text.replace("2023-08-", "2021-03-"), "utf-8")
    for location in (str(catalog), str(catalog.parent)):
        mine = load_settings(None, {"source": location})
        items, _ = find_scenes(mine)
        assert len(items) == 10 and all(mine.query.contains(item.datetime) for item in items if item.datetime)
        assert mine.shown_dates == "all dates"
    sample = load_settings()
    assert sample.shown_dates == "2023-08-10/2023-08-20" and sample.query.start.year == 2023
    with pytest.raises(EmptySearch, match="in 2023-08-10"):
        dated = load_settings(None, {"source": str(catalog), "datetime": "2023-08-10"})
        find_scenes(dated)


def test_an_api_is_not_searched_without_dates() -> None:
    for name in ("earth-search", "planetary-computer"):
        api = load_settings(None, {"source": name})
        with pytest.raises(InvalidQuery, match="name the first and the last with --datetime"):
            find_scenes(api)


def test_what_is_left_out_suits_the_weights_and_what_is_named_stays() -> None:
    fitted = load_settings(None, {}).fitted_to(OWN)
    assert fitted.restoration.sampling == OWN and fitted.fitted_to(OWN) == fitted
    assert (fitted.parameters["start"], fitted.parameters["sampler"]) == (150, "ddim")
    named = load_settings(None, {"steps": 10, "samples": 2, "tile": 128, "seed": 4, "sampler": "pyramid"})
    sampling = named.fitted_to(OWN).restoration.sampling
    assert sampling == replace(OWN, steps=10, samples=2, tile=128, overlap=32, seed=4, sampler=SamplerKind.PYRAMID), (
        "a value is kept where it is as published, too, and neighbours share a quarter of a tile"
    )
    assert load_settings(None, {"tile": 96, "overlap": 0}).fitted_to(OWN).restoration.sampling.overlap == 0
    assert load_settings(None, {}).restoration.sampling == Sampling(), "as published, where no model is known"


def test_the_last_days_end_today() -> None:
    settings = recent(RunSettings(datetime="2020-01-01"), 3, NOON)
    assert settings.datetime == "2026-02-27/2026-03-02"
    assert settings.query.contains(NOON) and settings.query.contains(datetime(2026, 2, 27, tzinfo=UTC))


def test_without_them_the_interval_stays_and_none_is_not_an_interval() -> None:
    settings = RunSettings(datetime="2020-01-01")
    assert recent(settings, None) is settings
    with pytest.raises(InvalidSettings, match="last_days is 0"):
        recent(settings, 0)
