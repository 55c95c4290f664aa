"""Plans and work units with whatever values: one sentence, or a plan that can be used; nothing else is raised."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pystac
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.errors import KNOWN_ERRORS, InvalidPlan
from flows.planning.plan_file import _checksum, freeze, read_plan, revive, settings_of, thaw
from flows.planning.workunit import ModelRef, make_plan
from flows.settings.loading import load_settings
from stac.search.opening import open_source
from stac.search.static import sample_catalog
from tests.fuzz.mutations import VALUES, mutated

MODEL = ModelRef("unveil-de", "1", "a" * 64, "weights")
#: One file is written again and again.
SAME_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@functools.cache
def scenes() -> tuple[pystac.Item, ...]:
    return tuple(open_source(str(sample_catalog())).search(load_settings().search))


@functools.cache
def frozen() -> dict[str, Any]:
    """The plan of the sample, two of its units."""
    here = load_settings()
    plan = freeze(make_plan(scenes(), here, MODEL).units[:2], here, MODEL)
    return json.loads(json.dumps(plan.document()))  # type: ignore[no-any-return]


def is_sentence(error: Exception) -> bool:
    return isinstance(error, KNOWN_ERRORS) and bool(str(error).strip()) and len(str(error)) < 4000


@settings(max_examples=500, suppress_health_check=SAME_FOLDER)
@given(data=st.data(), signed=st.booleans())
def test_a_changed_plan_is_refused_or_can_be_executed(data: st.DataObject, signed: bool, tmp_path: Path) -> None:
    document = mutated(data, copy.deepcopy(frozen()))
    if signed and isinstance(document, dict):
        document["checksum"] = _checksum({name: document.get(name) for name in ("settings", "model", "units")})
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(document))
    try:
        plan = read_plan(file)
        wanted = settings_of(plan, load_settings())
        revive(plan, scenes(), wanted, MODEL)
    except Exception as error:  # noqa: BLE001 - whatever it is has to be one of ours
        assert is_sentence(error), repr(error)


@settings(max_examples=200, suppress_health_check=SAME_FOLDER)
@given(data=st.data())
def test_what_a_ledger_kept_is_refused_or_can_be_executed(data: st.DataObject) -> None:
    body = copy.deepcopy(frozen())
    request = mutated(data, {"settings": body["settings"], "model": body["model"]})
    unit = mutated(data, body["units"][0])
    try:
        plan = thaw(json.dumps(request), [json.dumps(unit)])
        settings_of(plan, load_settings())
        plan.document()
    except Exception as error:  # noqa: BLE001 - whatever it is has to be one of ours
        assert is_sentence(error), repr(error)


@settings(max_examples=100, suppress_health_check=SAME_FOLDER)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))))
def test_a_file_of_any_bytes_is_not_a_plan(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    with pytest.raises(InvalidPlan):
        read_plan(file)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '"\\ud800"', "NaN", "null", ""])
def test_documents_that_break_parsers_are_no_plans(content: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    with pytest.raises(InvalidPlan):
        read_plan(file)
    with pytest.raises(InvalidPlan):
        thaw(content, [content])


@settings(max_examples=100, suppress_health_check=SAME_FOLDER)
@given(value=VALUES)
def test_a_unit_keeps_its_types(value: Any, tmp_path: Path) -> None:
    for name in frozen()["units"][0]:
        document = copy.deepcopy(frozen())
        before, document["units"][0][name] = document["units"][0][name], value
        document["checksum"] = _checksum({key: document[key] for key in ("settings", "model", "units")})
        file = tmp_path / "plan.json"
        file.write_text(json.dumps(document))
        try:
            found = getattr(read_plan(file).units[0], name)
        except InvalidPlan:
            continue
        assert isinstance(found, tuple) if isinstance(before, list) else isinstance(found, (type(before), float))
