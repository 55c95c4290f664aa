"""The cores that this process may use, which in a container or under a scheduler are not all of the machine's."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path


def cores(cgroup: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many there are, at least 1: the affinity mask or the CPU quota of the container, whichever is less.

    Args:
        cgroup: names the control group (version 2) of this process.
        mount: where control groups are mounted; `cpu.max` of a group limits those below it, too.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(cgroup, mount))]))


def _quotas(cgroup: Path, mount: Path) -> list[float]:
    """Return the quotas in cores of a group and of those above it that have one."""
    try:
        lines = cgroup.read_text("utf-8").splitlines()
    except (OSError, ValueError):  # not Linux
        return []
    inner = mount / "".join(line[3:] for line in lines if line.startswith("0::")).strip("/")
    found: list[float] = []
    for folder in (inner, *(each for each in inner.parents if each.is_relative_to(mount))):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # without a quota it says "max"
            quota, period = (folder / "cpu.max").read_text("ascii").split()
            found.append(int(quota) / int(period))
    return found
