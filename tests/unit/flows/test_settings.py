"""Settings: precedence and plain errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from de_model.sampling.kinds import SamplerKind
from flows.errors import InvalidSettings
from flows.planning.search import find_scenes, source_of
from flows.settings.loading import load_settings
from stac.errors import EmptySearch, InvalidQuery
from stac.quality.gate import Gate
from stac.search.static import sample_catalog


def test_command_line_beats_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("seed: 1\nsteps: 5\neta: 0.5\nbands: [red, nir]\n")
    monkeypatch.setenv("UNVEIL_SEED", "2")
    monkeypatch.setenv("UNVEIL_STEPS", "6")
    settings = load_settings(config, {"seed": 3, "samples": None})
    assert (settings.seed, settings.steps, settings.eta, settings.bands) == (3, 6, 0.5, ("red", "nir"))


def test_a_day_needs_no_quotes_in_a_file(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("datetime: 2023-08-18\nseed: 4\n")
    settings = load_settings(config)
    assert settings.datetime == "2023-08-18" and settings.seed == 4
    with pytest.raises(InvalidSettings, match="cannot be read as YAML"):
        load_settings(_written(config, "datetime: !!python/object/apply:os.getcwd []\n"))


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_bands_may_be_written_as_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(None, {"bands": "red, nir"}).bands == ("red", "nir")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cloudd: 3", "cloudd is unknown"),
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


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nothing\.yaml"):
        load_settings(tmp_path / "nothing.yaml")


def test_area_and_interval_are_checked_when_asked_for() -> None:
    with pytest.raises(InvalidQuery, match="no area"):
        _ = load_settings(None, {"bbox": "15,45,15,46"}).query


def test_only_what_changes_pixels_is_part_of_the_identity() -> None:
    base = load_settings().parameters
    assert load_settings(None, {"out": "elsewhere", "block": 64, "timeout_s": 5}).parameters == base
    for name, value in {"seed": 1, "eta": 0.4, "composite": "none", "sampler": "ddim", "start": 400}.items():
        assert load_settings(None, {name: value}).parameters != base


def test_sampler_and_start_reach_the_engine_and_are_always_recorded() -> None:
    settings = load_settings(None, {"sampler": "ddim", "steps": 5, "start": 400})
    sampling = settings.restoration.sampling
    assert (sampling.sampler, sampling.steps, sampling.start) == (SamplerKind.DDIM, 5, 400)
    assert settings.parameters | {"sampler": "ddim", "steps": 5, "start": 400} == settings.parameters
    assert load_settings().parameters | {"sampler": "dpmpp2m", "steps": 1, "start": 200} == load_settings().parameters


@pytest.mark.parametrize(
    ("given", "walk"),
    [
        ({}, ("dpmpp2m", 1, 200)),
        ({"composite": "none"}, ("dpmpp2m", 4, None)),
        ({"steps": 6}, ("dpmpp2m", 6, None)),
        ({"sampler": "ddim"}, ("ddim", 4, None)),
        ({"start": 400}, ("dpmpp2m", 4, 400)),
        ({"composite": "none", "start": 0, "steps": 1}, ("dpmpp2m", 1, 0)),
    ],
)
def test_the_schedule_fits_what_is_restored_unless_a_part_of_it_is_named(
    given: dict[str, Any], walk: tuple[Any]
) -> None:
    assert load_settings(None, given).walk == walk
    assert load_settings(None, given | {"tile": 64}).restoration.sampling.steps == walk[1]


def test_neighbours_share_a_sixteenth_of_a_tile() -> None:
    sizes = {
        composite: load_settings(None, {"composite": composite}).restoration.sampling for composite in ("fused", "none")
    }
    assert (sizes["fused"].tile, sizes["fused"].overlap) == (64, 4)
    assert (sizes["none"].tile, sizes["none"].overlap) == (128, 8)
    assert load_settings(None, {"tile": 32, "sampler": "pyramid"}).restoration.sampling.overlap == 4
    assert load_settings(None, {"tile": 96, "sampler": "pyramid"}).restoration.sampling.overlap == 4
    assert load_settings(None, {"tile": 96, "overlap": 0}).restoration.sampling.overlap == 0


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
        items, _ = find_scenes(mine, source_of(mine))
        assert len(items) == 10 and all(mine.query.contains(item.datetime) for item in items if item.datetime)
        assert mine.shown_dates == "all dates"
    sample = load_settings()
    assert sample.shown_dates == "2023-08-10/2023-08-20" and sample.query.start.year == 2023
    with pytest.raises(EmptySearch, match="in 2023-08-10"):
        dated = load_settings(None, {"source": str(catalog), "datetime": "2023-08-10"})
        find_scenes(dated, source_of(dated))


def test_an_api_is_not_searched_without_dates() -> None:
    for name in ("earth-search", "planetary-computer"):
        api = load_settings(None, {"source": name})
        with pytest.raises(InvalidQuery, match="name the first and the last with --datetime"):
            find_scenes(api, source_of(api))
