"""Intervals that move with the day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.errors import InvalidSettings
from flows.settings import RunSettings
from flows.settings.loading import recent

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_the_last_days_end_today() -> None:
    settings = recent(RunSettings(datetime="2020-01-01"), 3, NOON)
    assert settings.datetime == "2026-02-27/2026-03-02"
    assert settings.query.contains(NOON) and settings.query.contains(datetime(2026, 2, 27, tzinfo=UTC))


def test_without_them_the_interval_stays_and_none_is_not_an_interval() -> None:
    settings = RunSettings(datetime="2020-01-01")
    assert recent(settings, None) is settings
    with pytest.raises(InvalidSettings, match="last_days is 0"):
        recent(settings, 0)
