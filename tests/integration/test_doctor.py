"""`unveil doctor`: every check runs, changes nothing, and what is broken is named with its remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.ops.doctor import Status, examine
from flows.settings.loading import load_settings
from tests.command import ROOT, environment

pytestmark = pytest.mark.integration

NAMES = [
    "Python", "packages", "GDAL", "compute", "memory", "output folder", "state folder", "sample", "weights",
    "Prefect", "MLflow", "source", "STAC Browser", "S3 credentials", "Sentinel Hub credentials",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PREFECT", "UNVEIL", "AWS", "SH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages that a test may break."""
    folder = tmp_path_factory.mktemp("installation")
    for package in ("flows", "stac", "de_model"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    return folder


def doctor(installation: Path, home: Path, **extra: str) -> tuple[int, dict[str, Any]]:
    """Exit status and checks by name of `unveil doctor --json`."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "flows.cli", "doctor", "--out", str(home / "out"), "--json"]
    own = environment(home, {"PYTHONPATH": str(installation)} | extra)
    done = subprocess.run(command, cwd=home, env=own, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert not (home / "out").exists(), "the doctor changed something"
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_every_check_runs_and_nothing_is_made(tmp_path: Path) -> None:
    checks = examine(load_settings(None, {"out": tmp_path / "out"}))
    assert [check.name for check in checks] == NAMES
    assert not (tmp_path / "out").exists()
    failed = [check for check in checks if check.status is Status.FAIL]
    assert not failed, failed
    assert all(check.detail for check in checks)
    assert all(bool(check.remedy) is (check.status is not Status.OK) for check in checks)
    assert all("\n" not in check.detail + check.remedy for check in checks)


def test_what_is_broken_is_named_and_the_other_checks_still_run(installation: Path, tmp_path: Path) -> None:
    weights = installation / "de_model" / "weights" / "unveil-de-small.safetensors"
    whole = weights.read_bytes()
    os.truncate(installation / "stac" / "sample" / "S2B_33TWL_20230813_0_L2A" / "B04.tif", 1000)
    weights.write_bytes(whole[: len(whole) // 2])
    status, checks = doctor(installation, tmp_path, PREFECT_API_URL="http://name:secret@127.0.0.1:9/api")
    assert status == 1 and list(checks) == NAMES
    assert {name for name, check in checks.items() if check["status"] == "FAIL"} == {"sample", "weights", "Prefect"}
    assert "S2B_33TWL_20230813_0_L2A" in checks["sample"]["detail"] and "B04.tif" in checks["sample"]["detail"]
    assert weights.name in checks["weights"]["detail"]
    assert "127.0.0.1:9" in checks["Prefect"]["detail"] and "secret" not in json.dumps(checks)
    weights.unlink()
    status, checks = doctor(installation, tmp_path, UNVEIL_MLFLOW_URI="http://127.0.0.1:9")
    assert status == 1
    assert {name for name, check in checks.items() if check["status"] == "FAIL"} == {"sample", "weights", "MLflow"}
    assert "make setup" in checks["weights"]["remedy"]


def test_folders_and_sources_that_cannot_be_used_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    settings = load_settings(None, {"out": tmp_path / "file" / "out", "source": str(tmp_path / "nowhere")})
    checks = {check.name: check for check in examine(settings)}
    for name in ("output folder", "state folder", "source"):
        assert checks[name].status is Status.FAIL and str(tmp_path) in checks[name].detail
    monkeypatch.setenv("UNVEIL_SOURCE", "http://me:secret@127.0.0.1:9/v1")
    settings = load_settings(None, {"out": tmp_path})
    source = next(check for check in examine(settings) if check.name == "source")
    assert source.status is Status.FAIL and "secret" not in source.detail
