"""Writing: whole or not at all, and plain words for what the operating system says."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from stac.errors import DiskFull, NotWritable
from stac.io.files import write_json, writing


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
    assert os.strerror(number) in str(caught.value) and "--out" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), writing(Path("a")):
        raise ValueError("mine")


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


def test_what_is_written_is_its_owners_unless_it_is_published(tmp_path: Path) -> None:
    for public, mode in ((False, 0o600), (True, 0o644)):
        write_json(tmp_path / "a.json", {}, public=public)
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_readers_see_the_old_or_the_new_document(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 0, "fill": "x" * 20_000})
    with ThreadPoolExecutor(2) as pool:
        work = pool.submit(lambda: [write_json(path, {"n": n, "fill": "x" * 20_000}) for n in range(1, 60)])
        seen = [json.loads(path.read_text())["n"]]
        while not work.done():
            seen.append(json.loads(path.read_text())["n"])
    assert seen == sorted(seen)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match="nowhere"):
        write_json(tmp_path / "nowhere" / "a.json", {})
