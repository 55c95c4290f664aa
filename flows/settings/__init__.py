"""Settings of a run: command line > environment (`UNVEIL_*`) > `--config` file > defaults."""

from __future__ import annotations

from flows.settings.fields import Device, GateMode, GridKind
from flows.settings.restoring import GapFilling, ModelFallback
from flows.settings.run_settings import RunSettings, has_password

__all__ = [
    "Device",
    "GapFilling",
    "GateMode",
    "GridKind",
    "ModelFallback",
    "RunSettings",
    "has_password",
]
