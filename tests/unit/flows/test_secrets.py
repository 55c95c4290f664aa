"""Logins of services stand in the environment alone: in no message, parameter, plan, item or log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.errors import InvalidSettings
from flows.models.retrain_settings import load_retrain_settings
from flows.planning.plan_file import freeze
from flows.planning.workunit import ModelRef
from flows.settings import RunSettings
from flows.settings.loading import load_settings

LOGIN = "https://me:hush@mlflow.example.org"
SIGNED = "https://stac.example.org/catalog.json?sv=1&sig=hush"


@pytest.mark.parametrize(
    ("name", "address"), [("mlflow_uri", LOGIN), ("source", LOGIN), ("source", SIGNED), ("signing_url", LOGIN)]
)
def test_a_login_is_used_from_the_environment_and_stored_nowhere(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"UNVEIL_{name.upper()}", address)
    settings = load_settings()
    assert getattr(settings, name) == address
    assert "hush" not in json.dumps(settings.shareable) + settings.shown_source
    assert "hush" not in freeze((), settings, ModelRef("m", "1", "0" * 64, "weights")).request
    # A flow of these parameters, in the same environment, is the same run.
    assert load_settings(None, settings.shareable) == settings


@pytest.mark.parametrize("name", ["mlflow_uri", "source", "signing_url", "public_root"])
def test_a_login_is_refused_where_it_would_be_stored(name: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {LOGIN}\n", "utf-8")
    for config, given in ((None, {name: LOGIN}), (file, {})):
        with pytest.raises(InvalidSettings, match=name) as refused:
            load_settings(config, given)
        assert "hush" not in str(refused.value)


def test_a_public_address_holds_no_login_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNVEIL_PUBLIC_ROOT", LOGIN)
    with pytest.raises(InvalidSettings, match="public_root"):
        load_settings()


DATABASES = pytest.mark.parametrize(
    ("name", "address"), [("indexes", "postgresql://me:hush@db/stac"), ("ledger_url", "postgresql://me:hush@db/unveil")]
)


def test_addresses_of_databases_without_a_password_travel_with_a_run() -> None:
    settings = RunSettings(indexes="https://stac.example.org, postgresql://me@db/stac", ledger_url="postgresql://db/u")
    assert settings.index_addresses == ("https://stac.example.org", "postgresql://me@db/stac")
    assert settings.shareable["ledger_url"] == "postgresql://db/u"
    assert RunSettings(**settings.shareable) == settings


@DATABASES
def test_a_password_of_a_database_stays_in_the_environment(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"UNVEIL_{name.upper()}", address)
    settings = load_settings()
    assert "hush" not in f"{settings!r} {settings.shareable}" and name not in settings.shareable
    # A flow gets the values without it, and finds the rest in its environment.
    again = RunSettings(**settings.shareable)
    assert again == settings and getattr(again, name)


@DATABASES
def test_a_password_of_a_database_is_refused_elsewhere(name: str, address: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {address}\n", "utf-8")
    for config, given in ((None, {name: [address] if name == "indexes" else address}), (file, {})):
        with pytest.raises(InvalidSettings, match="PGPASSWORD") as refused:
            load_settings(config, given)
        assert "hush" not in str(refused.value)


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
