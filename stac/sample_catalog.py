"""The sample that ships: ten real Sentinel-2 acquisitions of two neighbouring areas, thinned to 120 m."""

from __future__ import annotations

from pathlib import Path

SAMPLE_COLLECTION = "sentinel-2-l2a"
SAMPLE_INTERVAL = "2023-08-10/2023-08-20"
#: Both areas together; west, south, east, north in degrees.
SAMPLE_BBOX = (15.0, 45.4, 16.5, 46.7)


def sample_catalog() -> Path:
    """Return the path of the shipped catalog's `catalog.json`."""
    return Path(__file__).parent / "sample" / "catalog.json"
