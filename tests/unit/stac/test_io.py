"""Writing files, waiting for servers, and the cores of a process."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stac.errors import DiskFull, NotWritable
from stac.io.cores import cores
from stac.io.files import write_json, writing
from stac.io.http import Pace, pace_of


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EACCES, NotWritable),
        (errno.EROFS, NotWritable),
        (errno.ENOTDIR, NotWritable),
    ],
)
def test_errors_of_the_system_are_reported_in_one_sentence(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"out/a\.tif") as caught, writing(Path("out/a.tif")):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value) and "choose another folder" in str(caught.value)
    assert "\n" not in str(caught.value)


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 1000 bytes, like a disk that is full; pytest's own log is such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_document_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with small_files(), pytest.raises(DiskFull, match=r"a\.json"):
        write_json(path, {"new": "x" * 5000})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_a_document_that_is_not_json_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_or_the_new_document(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 0, "fill": "x" * 20_000})
    with ThreadPoolExecutor(2) as pool:
        work = pool.submit(lambda: [write_json(path, {"n": n, "fill": "x" * 20_000}) for n in range(1, 60)])
        seen = [json.loads(path.read_text())["n"]]
        while not work.done():
            seen.append(json.loads(path.read_text())["n"])
    assert seen == sorted(seen)


class Clock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rested_host_gets_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    pace = Pace(4, clock)
    assert [pace.reserve() for _ in range(6)] == [0, 0, 0, 0, 0.25, 0.5]
    clock.now += 60
    assert [pace.reserve() for _ in range(5)] == [0, 0, 0, 0, 0.25]


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0, 10.0]))
def test_the_rate_is_never_exceeded(pauses: list[float], rate: float) -> None:
    clock, sent = Clock(), []
    pace = Pace(rate, clock)
    for pause in pauses:
        clock.now += pause
        sent.append(clock.now + pace.reserve())
    burst = max(1.0, rate)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + rate * (sent[last] - sent[first]) + 1e-6


def test_a_host_that_asks_for_a_pause_gets_it() -> None:
    pace = Pace(10, Clock())
    pace.pause(5)
    assert pace.reserve() == 5


def test_threads_share_a_host() -> None:
    waits: list[float] = []
    threads = [threading.Thread(target=lambda: waits.append(pace_of("host.test", 2).reserve())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wait == 0 for wait in waits) == 2 and max(waits) == pytest.approx(3, abs=0.2)
    assert pace_of("other.test", 2).reserve() == 0


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
