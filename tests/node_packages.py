"""Node.js and the pinned packages of a folder with scripts, for tests that ask the libraries of STAC Browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Fail where everything should be installed, skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_node(folder: Path) -> str:
    """Return the path of node once the packages that `folder/package-lock.json` pins are installed there."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("Node.js with npm is not installed (infra/ci/install_debian.sh installs it)")
    # npm writes this file last.
    if not (folder / "node_modules/.package-lock.json").is_file():
        command = [npm, "ci", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, timeout=300, stdin=subprocess.DEVNULL)
    return node
