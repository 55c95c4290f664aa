"""The ledger: claims, ends, and what a dead run leaves."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.errors import FlowError
from flows.ledger import Ledger, State, new_run_id


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / "ledger.db")


def test_a_unit_goes_from_claim_to_end(ledger: Ledger) -> None:
    run = new_run_id()
    assert ledger.start("w", "item", "target", run)
    ledger.finish("w", State.SUCCEEDED, item_href="item.json", seconds=1.5)
    (entry,) = ledger.entries()
    assert (entry.state, entry.attempts, entry.item_href, entry.seconds) == (State.SUCCEEDED, 1, "item.json", 1.5)


def test_only_one_of_many_runs_gets_a_unit(ledger: Ledger) -> None:
    runs = [new_run_id() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda run: ledger.start("w", "i", "t", run), runs))
    assert claims.count(True) == 1


def test_a_run_renews_its_own_claim_and_counts_the_attempt(ledger: Ledger) -> None:
    run = new_run_id()
    assert ledger.start("w", "i", "t", run) and ledger.start("w", "i", "t", run)
    assert ledger.entries()[0].attempts == 2


def test_the_claim_of_a_dead_process_is_taken_over(ledger: Ledger) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.ledger import Ledger, new_run_id;"
        "assert Ledger(Path(sys.argv[1])).start('w', 'i', 't', new_run_id())"
    )
    subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=True, timeout=60)
    assert ledger.entries()[0].state is State.RUNNING
    assert ledger.start("w", "i", "t", new_run_id())


def test_abort_marks_only_what_the_run_left(ledger: Ledger) -> None:
    run = new_run_id()
    for name in ("done", "left"):
        ledger.start(name, "i", "t", run)
    ledger.start("other", "i", "t", new_run_id())
    ledger.finish("done", State.SUCCEEDED)
    assert ledger.abort(run) == 1
    states = {entry.work_id: entry.state for entry in ledger.entries()}
    assert states == {"done": State.SUCCEEDED, "left": State.ABORTED, "other": State.RUNNING}


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is not a database at all" * 50)
    with pytest.raises(FlowError, match=r"ledger\.db"):
        Ledger(tmp_path / "ledger.db")
    with pytest.raises(FlowError, match="state-dir"):
        Ledger(tmp_path / "ledger.db" / "below" / "ledger.db")
