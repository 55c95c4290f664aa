"""Settings of any value, from the file, the environment or the command line: one sentence, or settings that work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.backfill import windows_of
from flows.errors import KNOWN_ERRORS, InvalidSettings
from flows.settings import RunSettings
from flows.settings.loading import load_settings, read_yaml
from tests.fuzz.mutations import VALUES

SAME_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
#: Thirty lines that stand for a billion words.
LAUGHS = "b0: &b0 [x]\n" + "".join(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}]\n" for n in range(1, 30))
NAMES = st.sampled_from(sorted(RunSettings.model_fields))


def used(found: RunSettings) -> None:
    """Do with settings what a run does before it works."""
    found.shareable, found.parameters, found.fixed_grid, found.state, found.retry_policy, found.reading  # noqa: B018
    query = found.search
    assert query.start <= query.end and "T" in query.interval and query.start.year >= 1


def tried(**given_: Any) -> None:
    try:
        used(load_settings(**given_))
    except Exception as error:  # noqa: BLE001 - whatever it is has to be one of ours
        assert isinstance(error, KNOWN_ERRORS), repr(error)
        assert str(error).strip() and len(str(error)) < 5000


@settings(max_examples=400, suppress_health_check=SAME_FOLDER)
@given(values=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
@example(values={"out": {}})
@example(values={"out": "é" * 200})
@example(values={"datetime": "0001-01-01/9999-12-31"})
@example(values={"datetime": "0001-01-01T00:00:00+14:00", "composite_days": 10**6})
@example(values={"composite_days": 10**12})
def test_a_file_of_settings_is_refused_or_works(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    tried(config=file)
    tried(overrides=values)


@settings(max_examples=200, suppress_health_check=SAME_FOLDER)
@given(name=NAMES, text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30))
def test_the_environment_is_refused_or_works(name: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"UNVEIL_{name.upper()}", text)
        tried()


@settings(max_examples=200, suppress_health_check=SAME_FOLDER)
@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"(\w{1,5}: ?[\[\]{}&*!|>'\"\w:-]{0,12}\n){1,4}")))
def test_text_of_any_kind_is_settings_or_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    tried(config=file)


@pytest.mark.parametrize(
    "text",
    [
        "bands: " + "[" * 3000,
        LAUGHS,
        "bands: &a [*a]",
        "max_cloud: !!int x",
        "max_cloud: !!bool x",
        "max_cloud: !!timestamp x",
        "? [a]\n: 1",
        "_cli_parse_args: true",
        "__pydantic_self__: 1",
        "max_cloud: .nan",
        "timeout_s: .inf",
        "!!python/object/apply:os.system [ls]",
        "out: {}",
        "max_cloud: 1\n---\nmax_cloud: 2",
        "- 1",
        "",
    ],
)  # fmt: skip
def test_yaml_that_breaks_readers_is_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(KNOWN_ERRORS) as caught:
        load_settings(file)
    assert len(str(caught.value)) < 5000


@settings(max_examples=200)
@given(ends=st.tuples(st.dates(), st.dates()).map(sorted), parts=st.integers(1, 50))
def test_any_interval_is_cut_into_windows(ends: Any, parts: int) -> None:
    start, end = ends
    days = 1 + (end - start).days // parts
    query = load_settings(None, {"datetime": f"{start}/{end}"}).query
    windows = windows_of(query.start, query.end, days)
    assert [a.partition("/")[2] for a in windows[:-1]] == [b.partition("/")[0] for b in windows[1:]]
    assert all(RunSettings(datetime=window).search.start <= query.start for window in windows[:1])


def test_names_that_are_not_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("max_clouds: 3\n")
    with pytest.raises(InvalidSettings, match=r"Setting max_clouds is unknown \(in .*run.yaml"):
        load_settings(tmp_path / "run.yaml")
    assert read_yaml(tmp_path / "run.yaml") == {"max_clouds": 3}
