"""Intervals that move with the day: what a schedule wants to look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flows.errors import InvalidSettings
from flows.settings import RunSettings


def recent(settings: RunSettings, last_days: int | None, now: datetime | None = None) -> RunSettings:
    """Return settings whose interval is the last days, the present one included; unchanged for None.

    Args:
        settings: of a run.
        last_days: how many days back, 1 or more.
        now: the end of the interval; the present moment when left out.

    Raises:
        InvalidSettings: `last_days` is less than 1.
    """
    if last_days is None:
        return settings
    if last_days < 1:
        raise InvalidSettings(f"last_days is {last_days}; give 1 or more, or leave it out for a fixed interval.")
    end = (now or datetime.now(UTC)).astimezone(UTC)
    begin = end - timedelta(days=last_days)
    return settings.model_copy(update={"datetime": f"{begin:%Y-%m-%d}/{end:%Y-%m-%d}"})
