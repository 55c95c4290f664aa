"""Settings of a run: command line > environment (`UNVEIL_*`) > `--config` file > defaults."""

from __future__ import annotations

from flows.settings.kinds import SAMPLE, Device, GapFilling, GateMode, GridKind, ModelFallback
from flows.settings.places import has_password
from flows.settings.run_settings import ADDRESSES, RunSettings

__all__ = [
    "ADDRESSES",
    "SAMPLE",
    "Device",
    "GapFilling",
    "GateMode",
    "GridKind",
    "ModelFallback",
    "RunSettings",
    "has_password",
]
