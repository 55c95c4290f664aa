"""Settings: plain errors, logins that stay in the environment, options, forms, and ids that follow from them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from prefect.utilities.callables import parameter_schema
from typer.testing import CliRunner

from de_model.inference.sampling import SamplerKind, Sampling
from flows.backfill import backfill
from flows.census import census
from flows.cli import app, runs
from flows.errors import InvalidSettings
from flows.models.retrain_settings import RetrainSettings, load_retrain_settings
from flows.mosaic import clear_scenes
from flows.planning.plan_file import freeze
from flows.planning.search import dates_of, find_scenes
from flows.planning.workunit import ModelRef
from flows.promote import promote
from flows.redrive import redrive
from flows.retrain import retrain
from flows.settings import RunSettings
from flows.settings.fields import Mark
from flows.settings.loading import load_settings, recent
from flows.settings.restoring import RestoringSettings
from flows.settings.run_settings import groups, marked
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


def test_area_interval_and_grid_are_checked_when_asked_for() -> None:
    with pytest.raises(InvalidQuery, match="no area"):
        _ = load_settings(None, {"bbox": "15,45,15,46"}).query
    for ignored in ({"resolution": 30}, {"cell_size": 256}, {"grid_crs": 3035}, {"grid_origin": "60,0"}):
        with pytest.raises(InvalidQuery, match="is of fixed grids, native tiles have their own; add --grid fixed"):
            _ = load_settings(None, ignored).query
        assert load_settings(None, ignored | {"grid": "fixed"}).query


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


def options_of(name: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    _, command, _ = group.resolve_command(group.make_context("unveil", [name], resilient_parsing=True), [name])
    return {option.lstrip("-").replace("-", "_"): each for each in command.params for option in each.opts}


@pytest.mark.parametrize("name", ["run", "plan", "backfill", "census"])
def test_every_setting_is_an_option_under_the_title_of_its_group(name: str) -> None:
    options = options_of(name)
    for title, fields in groups():
        for field in fields:
            option = options["index" if field == "indexes" else field]
            assert option.help, field
            assert name == "backfill" or option.rich_help_panel == title, field


def test_predict_shows_no_default_that_the_weights_decide() -> None:
    options = options_of("predict")
    assert all("weights" in options[name].help for name in ("samples", "steps", "sampler", "start", "eta", "tile"))
    assert not any("default" in options[name].help for name in ("samples", "steps", "eta", "tile", "overlap"))


def test_what_is_planned_already_is_not_an_option_of_a_redrive() -> None:
    options = options_of("redrive")
    assert marked(Mark.LOCAL) - {"indexes"} <= options.keys() and {"seed", "bbox", "composite"}.isdisjoint(options)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """The settings of each plan that a command asks for."""
    asked: list[RunSettings] = []
    monkeypatch.setattr(runs, "_plan", lambda settings, *_: asked.append(settings))
    return asked


def test_the_command_line_beats_the_environment_which_beats_the_file(
    planned: list[RunSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("max_pixels: 1000\nlease_s: 10\ncomposite_days: 3\ngeoparquet: true\nbands: [red]\n")
    monkeypatch.setenv("UNVEIL_MAX_PIXELS", "2000")
    monkeypatch.setenv("UNVEIL_LEASE_S", "20")
    given = ("--max-pixels", "3000", "--no-geoparquet", "--bands", "red,nir", "--grid-origin", "5,6")
    more = ("--allow-hosts", "one", "--allow-hosts", "two", "--out", str(tmp_path / "there"))
    ended = CliRunner().invoke(app, ["plan", "--config", str(config), *given, *more])
    assert ended.exit_code == 0, ended.output
    (found,) = planned
    assert (found.max_pixels, found.lease_s, found.composite_days, found.geoparquet) == (3000, 20, 3, False)
    assert (found.bands, found.grid_origin) == (("red", "nir"), (5.0, 6.0))
    assert (found.allow_hosts, found.out) == (("one", "two"), tmp_path / "there")


def test_a_wrong_value_is_named(planned: list[RunSettings]) -> None:
    ended = CliRunner().invoke(app, ["plan", "--eta", "2"])
    assert "eta" in str(ended.exception) and planned == []


#: Another value of each setting that pixels depend on.
OTHERS: dict[str, Any] = {
    "bands": ("red",), "seed": 1, "samples": 3, "steps": 3, "sampler": "dpmpp2m", "start": 300, "eta": 0.5, "tile": 96,
    "overlap": 12, "use_model": False, "gaps": "model", "composite": "median",
    "composite_days": 3, "cloud_dilation_m": 0, "shadow_dilation_m": 0, "masks": ("scl",), "mask_rule": "all",
    "radiometry_check": "off", "max_spread": 0.1, "interpolation": "cubic",
}  # fmt: skip


def test_an_id_depends_on_every_setting_of_restoration_but_those_that_change_no_pixel() -> None:
    usual = load_settings().parameters
    for name, value in OTHERS.items():
        assert load_settings(None, {name: value}).parameters != usual, name
    without = RestoringSettings.model_fields.keys() - OTHERS.keys()
    assert without == {"model", "model_fallback", "block"}, "the weights are in the id by their checksum"
    assert load_settings(None, {"block": 64, "out": "there", "workers": 1}).parameters == usual


def test_settings_of_a_retraining_are_options_and_the_environment_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("retrain", "promote"):
        assert RetrainSettings.model_fields.keys() - {"gates", "model"} <= options_of(name).keys()
    config = tmp_path / "retrain.yaml"
    config.write_text("out: file\nstate_dir: file-state\neffort: 0.2\ncells: [A, B]\n")
    monkeypatch.setenv("UNVEIL_STATE_DIR", "environment")
    found = load_retrain_settings({"holdout": "B,C", "out": "line"}, config)
    run = found.run_settings()
    assert (str(run.out), str(run.state), found.effort) == ("line", "environment", 0.2)
    assert (found.cells, found.holdout) == (("A", "B"), ("B", "C"))


def test_squares_and_dates_of_the_sample_are_defaults_of_the_sample_alone(tmp_path: Path) -> None:
    sample = load_retrain_settings()
    assert sample.split() == (("MGRS-33TWM",), ("MGRS-33TWL",))
    assert {date.instant.year for dates in dates_of(sample.scenes(sample.cells)) for date in dates} == {2023}
    catalog = shutil.copytree(sample_catalog().parent, tmp_path / "catalog", ignore=shutil.ignore_patterns("*.tif"))
    for path in catalog.rglob("*_L2A.json"):
        path.write_text(path.read_text("utf-8").replace('"datetime": "2023-', '"datetime": "2019-'), "utf-8")
    own = load_retrain_settings({"source": str(catalog), "cells": ["MGRS-33TWM"]})
    assert own.holdout == ()
    (found,) = dates_of(own.scenes(own.cells))
    assert len(found) == 5 and {date.instant.year for date in found} == {2019}
    assert own.scenes(own.cells).title == "sentinel-2-l2a all dates, cells MGRS-33TWM"
    with pytest.raises(InvalidSettings, match="0 would be trained on"):
        load_retrain_settings({"source": str(catalog)}).split()
    with pytest.raises(InvalidQuery, match=r"earth-search is an API.*--datetime"):
        next(dates_of(load_retrain_settings({"source": "earth-search", "cells": ["MGRS-33TWM"]})))


@pytest.mark.parametrize("flow", [clear_scenes, census, redrive, backfill])
def test_settings_are_a_form_that_takes_what_runs_store(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = parameter_schema(flow).model_dump()
    fields = schema["definitions"]["RunSettings"]["properties"]
    assert fields.keys() == RunSettings.model_fields.keys()
    whole = {"type": "object", "properties": schema["properties"], "definitions": schema["definitions"]}
    jsonschema.validate({"settings": RunSettings().shareable}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"settings": {"max_cloud": "many"}}, whole)
    # What is not given is found in the environment of the worker, as for a command.
    monkeypatch.setenv("UNVEIL_SEED", "7")
    found = flow.validate_parameters({"settings": {"max_cloud": 60}})["settings"]
    assert (found.seed, found.max_cloud) == (7, 60)


@pytest.mark.parametrize("flow", [retrain, promote])
def test_settings_of_a_retraining_are_a_form_that_leaves_places_to_the_worker(
    flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = parameter_schema(flow).model_dump()
    fields = schema["definitions"]["RetrainSettings"]["properties"]
    assert fields.keys() == RetrainSettings.model_fields.keys()
    whole = {"type": "object", "properties": schema["properties"], "definitions": schema["definitions"]}
    jsonschema.validate({"settings": RetrainSettings().shareable}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"settings": {"effort": "much"}}, whole)
    monkeypatch.setenv("UNVEIL_OUT", "there")
    found = flow.validate_parameters({"settings": {"effort": 0.1, "gates": {"least_blocks": 3}}})["settings"]
    assert (str(found.run_settings().out), found.effort, found.gates.least_blocks) == ("there", 0.1, 3)
    assert str(flow.validate_parameters({"settings": {"out": "here"}})["settings"].run_settings().out) == "here"


LOGIN = "https://me:hush@mlflow.example.org"
SIGNED = "https://stac.example.org/catalog.json?sv=1&sig=hush"


DATABASES = (("indexes", "postgresql://me:hush@db/stac"), ("ledger_url", "postgresql://me:hush@db/unveil"))


@pytest.mark.parametrize(
    ("name", "address"),
    [("mlflow_uri", LOGIN), ("source", LOGIN), ("source", SIGNED), ("signing_url", LOGIN), *DATABASES],
)
def test_a_login_is_used_from_the_environment_and_stored_nowhere(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"UNVEIL_{name.upper()}", address)
    settings = load_settings()
    if name in dict(DATABASES):
        assert getattr(settings, name) and "hush" not in repr(settings)
    else:
        assert getattr(settings, name) == address
    assert "hush" not in json.dumps(settings.shareable) + settings.shown_source
    assert "hush" not in freeze((), settings, ModelRef("m", "1", "0" * 64, "weights")).request
    # A flow of these parameters, in the same environment, is the same run.
    assert load_settings(None, settings.shareable) == settings


@pytest.mark.parametrize(
    ("name", "address", "says"),
    [
        *((name, LOGIN, name) for name in ("mlflow_uri", "source", "signing_url", "public_root")),
        *((name, address, "PGPASSWORD") for name, address in DATABASES),
    ],
)
def test_a_login_is_refused_where_it_would_be_stored(name: str, address: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {address}\n", "utf-8")
    for config, given in ((None, {name: [address] if name == "indexes" else address}), (file, {})):
        with pytest.raises(InvalidSettings, match=says) as refused:
            load_settings(config, given)
        assert "hush" not in str(refused.value)


def test_a_public_address_holds_no_login_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNVEIL_PUBLIC_ROOT", LOGIN)
    with pytest.raises(InvalidSettings, match="public_root"):
        load_settings()


def test_addresses_of_databases_without_a_password_travel_with_a_run() -> None:
    settings = RunSettings(indexes="https://stac.example.org, postgresql://me@db/stac", ledger_url="postgresql://db/u")
    assert settings.index_addresses == ("https://stac.example.org", "postgresql://me@db/stac")
    assert settings.shareable["ledger_url"] == "postgresql://db/u"
    assert RunSettings(**settings.shareable) == settings


def test_a_retraining_finds_the_login_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNVEIL_MLFLOW_URI", LOGIN)
    settings = load_retrain_settings({})
    assert settings.run_settings().mlflow_uri == LOGIN
    assert "hush" not in f"{settings!r} {json.dumps(settings.shareable)}"
    assert load_retrain_settings(settings.shareable) == settings
    for name in ("mlflow_uri", "source"):
        with pytest.raises(InvalidSettings, match=name) as refused:
            load_retrain_settings({name: LOGIN})
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize("value", ["{a: 'postgresql://me:hush@db/x'}", "[{b: 'postgresql://me:hush@db/x'}]"])
@pytest.mark.parametrize("name", ["indexes", "ledger_url", "mlflow_uri"])
def test_a_setting_of_the_wrong_kind_is_not_repeated(name: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {value}\n", "utf-8")
    with pytest.raises(InvalidSettings, match=name) as refused:
        load_settings(file)
    assert "hush" not in str(refused.value)
