"""What workers share is made by one of them, and made again where that one failed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.scheduling import piece_of
from tests.sharing import made_once


def test_callers_at_once_get_what_one_of_them_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path_factory.getbasetemp()  # of which threads of one process would make two
    together = Barrier(4)

    def ask(number: int) -> tuple[Path, int]:
        def make(folder: Path) -> int:
            (folder / "content").write_text(str(number))
            return number

        together.wait(30)
        return made_once(tmp_path_factory, "shared-by-threads", make)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(set(found)) == 1
    folder, number = found[0]
    assert (folder / "content").read_text() == str(number)


def test_a_failure_is_reported_to_each_caller_and_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            made_once(tmp_path_factory, "broken", fail)
    folder, _ = made_once(tmp_path_factory, "broken", lambda _: None)
    assert not (folder / "half").exists()


@pytest.mark.parametrize(
    ("test", "piece"),
    [
        ("tests/unit/test_a.py::test_x[a@b]", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::test_x[a::b]", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::TestIt::test_x", "tests/unit/test_a.py"),
        ("tests/e2e/test_demo.py::test_x", "demo"),
        ("tests/e2e/test_stac_browser.py::test_x", "demo"),
    ],
)
def test_a_group_stays_together_and_so_does_a_file(test: str, piece: str) -> None:
    assert piece_of(test) == piece
