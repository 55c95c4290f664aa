"""What is expensive is made once, also where several worker processes run the tests."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

#: A worker waits this long for what another one makes, seconds.
WAIT_S = 1200
_DONE = "made.json"


def common_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of this test run, the same one for all of its workers."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """Return the folder `name` that `make` filled, and the JSON document it returned; the first caller makes it.

    The others wait for the first one. When it fails, nothing is kept and the next caller tries for itself, so that
    every test that needs the folder tells the reason.
    """
    folder = common_folder(factory) / name
    with FileLock(f"{folder}.lock", timeout=WAIT_S):
        done = folder / _DONE
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            document = make(folder)
            done.write_text(json.dumps(document), encoding="utf-8")
        return folder, json.loads(done.read_text(encoding="utf-8"))
