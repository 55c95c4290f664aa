"""The cores of a process: its affinity mask and the quotas of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stac.io.cores import cores

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        ("max 100000", "max 100000", ALLOWED),
        ("150000 100000", "max 100000", min(ALLOWED, 2)),
        ("max 100000", "100000 100000", 1),
        ("50000 100000", "400000 100000", 1),
        ("6400000 100000", None, ALLOWED),
        ("nonsense", None, ALLOWED),
        (None, None, ALLOWED),
    ],
)
def test_a_quota_limits_what_the_mask_allows(tmp_path: Path, own: str | None, above: str | None, expected: int) -> None:
    inner = tmp_path / "mount" / "slice" / "box"
    inner.mkdir(parents=True)
    for folder, text in ((inner, own), (inner.parent, above)):
        if text is not None:
            (folder / "cpu.max").write_text(f"{text}\n")
    (tmp_path / "cgroup").write_text("1:name=systemd:/other\n0::/slice/box\n")
    assert cores(tmp_path / "cgroup", tmp_path / "mount") == expected


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "cgroup").write_text("0::/\n")
    assert cores(tmp_path / "cgroup", tmp_path) == 1
    assert cores(tmp_path / "missing", tmp_path) == ALLOWED
