"""Before a training: can its results be written, and which code makes them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from stac.errors import NotWritable


def check_writable(path: Path) -> None:
    """Make the folder of `path`; raise `NotWritable` now rather than after hours of training."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
    except OSError as error:
        raise NotWritable(f"{path} cannot be written ({error.strerror or error}); choose another place.") from error


def revision() -> str:
    """Return the version-control revision of this code, or `unknown` outside a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
