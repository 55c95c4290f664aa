"""Which machine a figure is from."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil

from flows import __version__
from stac.io.cores import cores


def machine() -> str:
    """Return the machine in one line: processor, cores, memory, Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory = psutil.virtual_memory().total / 2**30
    return f"{cpu}, {cores()} cores, {memory:.0f} GiB, Python {platform.python_version()}, Unveil {__version__}"
