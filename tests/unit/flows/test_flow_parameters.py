"""What the Prefect UI asks for before a run: the settings themselves, as a form."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from prefect.utilities.callables import parameter_schema

from flows.backfill import backfill
from flows.census import census
from flows.models.retrain_settings import RetrainSettings
from flows.mosaic import clear_scenes
from flows.promote import promote
from flows.redrive import redrive
from flows.retrain import retrain
from flows.settings import RunSettings


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
