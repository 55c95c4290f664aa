"""What a command loads before it works: a person who asks for help or status does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.command import ROOT

_HEAVY = {"torch", "prefect", "mlflow", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        pytest.param("flows.cli", _HEAVY | {"rasterio", "scipy", "s3fs"}, id="help"),
        pytest.param("flows.settings.loading", _HEAVY, id="settings"),
        pytest.param("flows.ledger.opening", _HEAVY, id="status"),
        pytest.param("stac.catalog.check", _HEAVY, id="check"),
        pytest.param("flows.mosaic", _HEAVY - {"prefect"}, id="a run with nothing to do"),
        pytest.param("flows.period_mosaic", _HEAVY - {"prefect"}, id="mosaics with nothing to do"),
    ],
)
def test_loads_nothing_it_does_not_need(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    loaded = set(told.stdout.split())
    assert module in loaded and not unwanted & loaded
