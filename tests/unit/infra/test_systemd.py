"""infra/systemd: systemd takes the units, they may do little, and they run what there is."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.containers import problem_of, unknown_settings

FOLDER = ROOT / "infra" / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
PROGRAMS = "/opt/unveil/.venv/bin"


def section(unit: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / unit)
    return parser["Service"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with the units, their programs, and the units of the system that they name."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed; its own check needs it")
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(FOLDER, units)
    for unit in UNITS:
        program = tmp_path / section(unit)["ExecStart"].split()[0].lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for target in ("sysinit", "basic", "shutdown", "multi-user", "network-online", "network"):
        (units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    (units / "postgresql.service").write_text("[Service]\nExecStart=/opt/unveil/.venv/bin/unveil\n")
    return tmp_path


def systemd(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", f"--root={root}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_takes_the_units(root: Path) -> None:
    done = systemd(root, "verify", "--man=no", *UNITS, "unveil.target")
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_systemd_notices_a_wrong_line(root: Path) -> None:
    unit = root / "etc/systemd/system/unveil-worker.service"
    unit.write_text(unit.read_text("utf-8").replace("MemoryMax=8G", "MemroyMax=8G"), "utf-8")
    assert "MemroyMax" in systemd(root, "verify", "--man=no", unit.name).stderr


def test_the_units_may_do_little(root: Path) -> None:
    # systemd's own measure of exposure, times ten: 100 is a service without any limit.
    done = systemd(root, "security", "--offline=true", "--threshold=30", "--no-pager", *UNITS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_what_there_is_with_as_many_threads_as_processors(unit: str) -> None:
    service = section(unit)
    program, *arguments = service["ExecStart"].split()
    assert program.startswith(f"{PROGRAMS}/") and problem_of([program.rsplit("/", 1)[-1], *arguments]) is None
    threads = re.fullmatch(r"OMP_NUM_THREADS=(\d+)", service["Environment"])
    assert threads and service["CPUQuota"] == f"{threads[1]}00%"
    assert {"MemoryMax", "TasksMax"} <= set(service)


def test_settings_are_settings_and_hold_no_secret() -> None:
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", (FOLDER / "example.env").read_text("utf-8"), re.MULTILINE))
    assert list(unknown_settings(given)) == []
    assert not [
        name for name, value in given.items() if value and re.search("PASSWORD$|AUTH_STRING$|SECRET_KEY$", name)
    ]
    # The root is read-only but for the state's folder and /tmp.
    for name in ("PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY", "UNVEIL_OUT", "UNVEIL_STATE_DIR", "HOME"):
        assert given[name].startswith("/var/lib/unveil")
