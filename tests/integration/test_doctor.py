"""`unveil doctor`: every check runs, changes nothing, and what is broken is named with its remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flows.ops.doctor import Status, examine
from flows.settings.loading import load_settings
from tests.command import unveil

pytestmark = pytest.mark.integration

NAMES = [
    "compute", "output folder", "state folder", "Prefect", "MLflow", "source", "STAC Browser", "S3 credentials",
    "Sentinel Hub credentials",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PREFECT", "UNVEIL", "AWS", "SH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))


def doctor(home: Path, **extra: str) -> tuple[int, dict[str, Any]]:
    """Exit status and checks by name of `unveil doctor --json`."""
    done = unveil("doctor", "--out", home / "out", "--json", home=home, extra=extra)
    assert not (home / "out").exists(), "the doctor changed something"
    return done.status, {check["name"]: check for check in done.document}


def test_every_check_runs_and_nothing_is_made(tmp_path: Path) -> None:
    checks = examine(load_settings(None, {"out": tmp_path / "out"}))
    assert [check.name for check in checks] == NAMES
    assert not (tmp_path / "out").exists()
    failed = [check for check in checks if check.status is Status.FAIL]
    assert not failed, failed
    assert all(check.detail for check in checks)
    assert all(bool(check.remedy) is (check.status is not Status.OK) for check in checks)
    assert all("\n" not in check.detail + check.remedy for check in checks)


def test_services_that_do_not_answer_are_named_and_the_other_checks_still_run(tmp_path: Path) -> None:
    broken = {"PREFECT_API_URL": "http://name:secret@127.0.0.1:9/api", "UNVEIL_MLFLOW_URI": "http://127.0.0.1:9"}
    status, checks = doctor(tmp_path, **broken)
    assert status == 1 and list(checks) == NAMES
    assert {name for name, check in checks.items() if check["status"] == "FAIL"} == {"Prefect", "MLflow"}
    assert "127.0.0.1:9" in checks["Prefect"]["detail"] and "secret" not in json.dumps(checks)


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
