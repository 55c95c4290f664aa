"""The addresses of indexes as settings: a password in one goes nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.errors import InvalidSettings
from flows.settings import RunSettings
from flows.settings.loading import load_settings


def test_addresses_without_a_password_travel_with_a_run() -> None:
    settings = RunSettings(indexes="https://stac.example.org, postgresql://me@db/stac")
    assert settings.index_addresses == ("https://stac.example.org", "postgresql://me@db/stac")
    again = RunSettings(**settings.shareable)
    assert again.index_addresses == settings.index_addresses


def test_a_password_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNVEIL_INDEXES", "postgresql://me:hush@db/stac")
    settings = load_settings()
    assert "hush" not in f"{settings!r} {settings.shareable}"
    assert RunSettings(**settings.shareable).index_addresses == ("postgresql://me:hush@db/stac",)


def test_a_password_is_refused_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("indexes: ['postgresql://db/stac?password=hush']\n", "utf-8")
    for config, given in ((None, {"indexes": ["postgresql://me:hush@db/stac"]}), (file, {})):
        with pytest.raises(InvalidSettings, match="PGPASSWORD") as refused:
            load_settings(config, given)
        assert "hush" not in str(refused.value)
