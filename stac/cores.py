"""The cores that this process may use, which in a container or under a scheduler are not all of the machine's."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many there are, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
