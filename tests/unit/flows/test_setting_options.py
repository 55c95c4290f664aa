"""What is made of the settings: options of the command line, the form in the Prefect UI, ids of work units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from prefect.utilities.callables import parameter_schema
from typer.testing import CliRunner

from flows.backfill import backfill
from flows.census import census
from flows.cli import app, runs
from flows.models.retrain_settings import RetrainSettings, load_retrain_settings
from flows.mosaic import clear_scenes
from flows.promote import promote
from flows.redrive import redrive
from flows.retrain import retrain
from flows.settings import RunSettings
from flows.settings.fields import Mark
from flows.settings.loading import load_settings
from flows.settings.restoring import RestoringSettings
from flows.settings.run_settings import groups, marked


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
    "persistent_bright": True, "radiometry_check": "off", "max_spread": 0.1, "interpolation": "cubic",
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
