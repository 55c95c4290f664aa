"""The ledger: claims, leases, ends, and what a dead run leaves; the same on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from flows.errors import FlowError, InvalidSettings, LeaseLost, LedgerUnavailable
from flows.ledger.database import parse_url, shown
from flows.ledger.leases import Heartbeat
from flows.ledger.schema import Entry, Lease, State, new_run_id
from flows.ledger.store import Ledger, place_of
from flows.services.process import free_port
from flows.settings import RunSettings
from tests.unit.flows.ledgers import CATALOG, claimed, execute, expire, job

ELSEWHERE = "another-host:1:0"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    if request.param == "sqlite":
        return URL.create("sqlite", database=str(tmp_path / "state" / "ledger.db"))
    server = request.getfixturevalue("postgres")
    return make_url(server.url(server.new_database()))


@pytest.fixture
def ledger(url: URL) -> Iterator[Ledger]:
    found = Ledger(url, CATALOG)
    yield found
    found.close()


def test_a_unit_goes_from_claim_to_end(ledger: Ledger) -> None:
    lease = claimed(ledger, "w", new_run_id())
    entry = ledger.entry("w")
    assert entry and (entry.state, entry.attempts, entry.held) == (State.CLAIMED, 1, True)
    assert ledger.start(lease)
    assert ledger.finish(lease, State.SUCCEEDED, item_href="item.json", seconds=1.5)
    (entry,) = ledger.page(10).entries
    assert (entry.state, entry.attempts, entry.item_href, entry.seconds) == (State.SUCCEEDED, 1, "item.json", 1.5)
    assert (entry.item_id, entry.target_id, entry.cell_id) == ("w-item", "w-target", "cell")
    assert not entry.lease_until and not entry.held and entry.created <= entry.updated


def test_the_same_step_twice_is_one_step_and_an_ended_unit_stays_ended(ledger: Ledger) -> None:
    lease = claimed(ledger, "w", new_run_id())
    assert ledger.start(lease) and ledger.start(lease)
    assert ledger.finish(lease, State.FAILED, error="no") and ledger.finish(lease, State.FAILED, error="no")
    assert not ledger.start(lease) and not ledger.renew(lease) and not ledger.finish(lease, State.SUCCEEDED)
    entry = ledger.entry("w")
    assert entry and (entry.state, entry.error) == (State.FAILED, "no")


def test_only_one_of_many_runs_gets_a_unit(url: URL) -> None:
    ledgers = [Ledger(url, CATALOG) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda one: one.claim(job(), new_run_id()), ledgers))
    assert sum(isinstance(claim, Lease) for claim in claims) == 1
    assert {claim.state for claim in claims if isinstance(claim, Entry)} == {State.CLAIMED}
    assert ledgers[0].entry("w").attempts == 1
    for one in ledgers:
        one.close()


def test_a_claim_holds_until_its_lease_runs_out_and_then_the_old_holder_is_locked_out(ledger: Ledger) -> None:
    old = claimed(ledger, "w", ELSEWHERE)
    ledger.start(old)
    assert isinstance(ledger.claim(job(), new_run_id()), Entry)
    expire(ledger, "w")
    assert ledger.expired() == 1 and ledger.entry("w").expired
    assert ledger.renew(old), "nobody has taken it, so it is still his"
    expire(ledger, "w")
    new = claimed(ledger, "w", new_run_id())
    assert new.attempt == 2 and new.token != old.token
    assert not ledger.renew(old) and not ledger.start(old) and not ledger.finish(old, State.SUCCEEDED)
    with Heartbeat(ledger, old) as pulse, pytest.raises(LeaseLost, match="taken over"):
        pulse.require()
    assert ledger.start(new) and ledger.finish(new, State.SUCCEEDED)


def test_a_run_takes_its_own_unit_over_and_locks_its_earlier_worker_out(ledger: Ledger) -> None:
    run = new_run_id()
    old = claimed(ledger, "w", run)
    assert ledger.start(old)
    new = claimed(ledger, "w", run)
    assert new.attempt == 1, "it is one attempt of the run"
    assert not ledger.renew(old) and not ledger.finish(old, State.SUCCEEDED) and ledger.finish(new, State.FAILED)
    assert claimed(ledger, "w", run).attempt == 1 and isinstance(ledger.claim(job(), ELSEWHERE), Entry)


def test_the_heartbeat_keeps_a_lease_that_is_shorter_than_the_work(url: URL) -> None:
    ledger = Ledger(url, CATALOG, lease_s=1.0)
    lease = claimed(ledger, "w", ELSEWHERE)
    with Heartbeat(ledger, lease) as pulse:
        first, beaten = ledger.entry("w").lease_until, threading.Event()
        for _ in range(200):
            if ledger.entry("w").lease_until > first:
                break
            beaten.wait(0.05)
        assert ledger.entry("w").lease_until > first
        pulse.require()
        assert not pulse.lost
    ledger.close()


CLAIM_AND_DIE = """
import sys
from sqlalchemy import make_url
from flows.ledger.store import Ledger
from flows.ledger.schema import Job, Lease, new_run_id
ledger = Ledger(make_url(sys.argv[1]), sys.argv[2])
assert isinstance(ledger.claim(Job("w", "i", "t"), new_run_id()), Lease)
"""


def test_the_claim_of_a_dead_process_of_this_host_is_taken_over_at_once(ledger: Ledger) -> None:
    address = ledger.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", CLAIM_AND_DIE, address, CATALOG], check=True, timeout=60)
    assert ledger.entry("w").held
    assert claimed(ledger, "w", new_run_id()).attempt == 2


def test_what_a_dead_process_of_this_host_published_is_finished_at_once(ledger: Ledger) -> None:
    address = ledger.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", CLAIM_AND_DIE, address, CATALOG], check=True, timeout=60)
    assert ledger.record_published(job("w"), "item.json")
    entry = ledger.entry("w")
    assert (entry.state, entry.attempts, entry.item_href, entry.held) == (State.SUCCEEDED, 1, "item.json", False)


def test_a_process_whose_parent_never_asked_how_it_ended_is_dead(ledger: Ledger) -> None:
    address = ledger.url.render_as_string(hide_password=False)
    with subprocess.Popen([sys.executable, "-c", CLAIM_AND_DIE, address, CATALOG], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.read() == b""
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert ledger.entry("w").held
        assert claimed(ledger, "w", new_run_id()).attempt == 2


def test_failed_and_aborted_units_are_tried_again_and_invalid_ones_only_when_asked(ledger: Ledger) -> None:
    for state in (State.FAILED, State.ABORTED, State.INVALID):
        ledger.finish(claimed(ledger, state, ELSEWHERE), state, error="why")
    for state in (State.FAILED, State.ABORTED):
        assert claimed(ledger, state, new_run_id()).attempt == 2
    left = ledger.claim(job(State.INVALID), ELSEWHERE)
    assert isinstance(left, Entry) and (left.state, left.error) == (State.INVALID, "why")
    assert isinstance(ledger.claim(job(State.INVALID), ELSEWHERE, again={State.INVALID}), Lease)


def test_abort_marks_only_what_the_run_left(ledger: Ledger) -> None:
    run = new_run_id()
    leases = {name: claimed(ledger, name, run) for name in ("done", "left", "begun")}
    claimed(ledger, "other", new_run_id())
    ledger.start(leases["begun"])
    ledger.finish(leases["done"], State.SUCCEEDED)
    assert sorted(ledger.abort(run)) == ["begun", "left"]
    states = {entry.work_id: entry.state for entry in ledger.page(10).entries}
    aborted = State.ABORTED
    assert states == {"done": State.SUCCEEDED, "left": aborted, "begun": aborted, "other": State.CLAIMED}


def test_what_is_found_published_is_finished_unless_a_run_holds_it(ledger: Ledger) -> None:
    assert ledger.record_published(job("new"), "new.json") and not ledger.record_published(job("new"), "new.json")
    assert ledger.entry("new").attempts == 0
    ledger.finish(claimed(ledger, "failed", ELSEWHERE), State.FAILED, error="died after publishing")
    assert ledger.record_published(job("failed"), "failed.json")
    entry = ledger.entry("failed")
    assert (entry.state, entry.error, entry.item_href, entry.attempts) == (State.SUCCEEDED, "", "failed.json", 1)
    claimed(ledger, "held", ELSEWHERE)
    assert not ledger.record_published(job("held"), "held.json") and ledger.entry("held").held


def test_catalogs_that_share_a_ledger_do_not_mix(url: URL) -> None:
    with closing(Ledger(url, "one")) as one, closing(Ledger(url, "other")) as other:
        claimed(one, "w", ELSEWHERE)
        assert other.entry("w") is None and sum(other.counts().values()) == 0
        claimed(other, "w", ELSEWHERE)
        assert one.entry("w").attempts == 1


def test_pages_hold_every_line_once_latest_first(ledger: Ledger) -> None:
    names = [f"unit-{number:02d}" for number in range(25)]
    for name in names:
        lease = claimed(ledger, name, ELSEWHERE)
        if name < "unit-10":
            ledger.finish(lease, State.FAILED, error="x")
    # Many lines of one instant: the work id decides.
    execute(ledger.url, "UPDATE work SET updated = 7 WHERE work_id < 'unit-08'")
    seen, after = [], ""
    while True:
        page = ledger.page(7, after=after)
        seen += page.entries
        after = page.next
        if not after:
            break
    assert sorted(entry.work_id for entry in seen) == names
    assert [(e.updated, e.work_id) for e in seen] == sorted(((e.updated, e.work_id) for e in seen), reverse=True)
    assert len(ledger.page(100, state=State.FAILED).entries) == 10
    assert ledger.counts() == dict.fromkeys(State, 0) | {State.FAILED: 10, State.CLAIMED: 15}
    assert ledger.of([*names[:3], "unknown"]).keys() == set(names[:3])
    with pytest.raises(InvalidSettings, match="--after"):
        ledger.page(7, after="yesterday,w")


def test_a_sweep_over_more_units_than_a_page_sees_all_of_them(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.ledger.store._PAGE", 4)
    request = ledger.save_request('{"seed": 0}')
    assert ledger.save_request('{"seed": 0}') == request and ledger.request(request) == '{"seed": 0}'
    for number in range(11):
        ledger.finish(claimed(ledger, f"u{number:02d}", ELSEWHERE), State.FAILED)
    found = []
    for planned in ledger.planned([State.FAILED]):
        found.append(planned.entry.work_id)
        ledger.claim(job(planned.entry.work_id), ELSEWHERE)  # it leaves the set while we walk over it
    assert found == [f"u{number:02d}" for number in range(11)]
    assert ledger.request("unknown") is None


def test_runs_that_find_no_ledger_at_once_make_one(url: URL) -> None:
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(lambda _: Ledger(url, CATALOG), range(4)))
    claimed(ledgers[0], "w", ELSEWHERE)
    assert all(isinstance(ledger.claim(job(), new_run_id()), Entry) for ledger in ledgers[1:])
    for ledger in ledgers:
        ledger.close()


def test_a_newer_ledger_is_left_alone_and_named(url: URL) -> None:
    Ledger(url, CATALOG).close()
    execute(url, "UPDATE ledger_version SET version = 99")
    with pytest.raises(LedgerUnavailable, match="version 99"):
        Ledger(url, CATALOG)


def test_a_file_that_is_not_a_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is not a database at all" * 50)
    with pytest.raises(FlowError, match=r"ledger\.db"):
        Ledger(URL.create("sqlite", database=str(tmp_path / "ledger.db")), CATALOG)
    with pytest.raises(FlowError, match="state-dir"):
        Ledger(URL.create("sqlite", database=str(tmp_path / "ledger.db" / "below" / "ledger.db")), CATALOG)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    port = free_port()
    url = parse_url(f"postgresql://me:s3cret@127.0.0.1:{port}/unveil?sslpassword=s3cret")
    with pytest.raises(LedgerUnavailable) as caught:
        Ledger(url, CATALOG)
    assert "s3cret" not in str(caught.value) and f"me:***@127.0.0.1:{port}/unveil" in str(caught.value)
    assert "s3cret" not in shown(url) and caught.value.retryable


@pytest.mark.parametrize("text", ["mysql://a:s3cret@h/d", "s3cret", "sqlite://", "postgresql://h:s3cret/d"])
def test_what_is_not_a_url_of_a_ledger_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidSettings, match="ledger_url") as caught:
        parse_url(text)
    assert "s3cret" not in str(caught.value)


def test_a_file_and_its_catalog_can_be_moved_together(tmp_path: Path) -> None:
    out = tmp_path / "out"
    url, name = place_of(RunSettings(out=out))
    assert name == ".." and url.database == str(out / ".unveil" / "ledger.db")
    assert place_of(RunSettings(out="s3://bucket/x", state_dir=tmp_path))[1] == "s3://bucket/x"
    url, name = place_of(RunSettings(out=out, ledger_url="postgresql://h/d"))
    assert name == str(out) and url.drivername == "postgresql+psycopg"
