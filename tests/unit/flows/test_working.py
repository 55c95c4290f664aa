"""Working through units under a real ledger: what others hold, lost leases, and how each unit ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest
from sqlalchemy import URL

from flows.errors import LeaseLost, LedgerUnavailable, RunStopped, WorkersLost
from flows.execution.units import Made, Worker, job_of, settle, work_through
from flows.ledger.schema import Lease, State, new_run_id
from flows.ledger.store import Ledger
from flows.planning.workunit import WorkUnit
from flows.processing.product import UnitFigures
from stac.errors import InvalidItem, UnreadableAsset
from tests.unit.flows.ledgers import CATALOG, execute

FIGURES = UnitFigures(**{field.name: 0 for field in fields(UnitFigures)})
ELSEWHERE = "another-host:1:0"
Make = Callable[[WorkUnit, Callable[[], None]], Made]


def unit(name: str) -> WorkUnit:
    return WorkUnit(name, f"{name}-item", f"{name}-target", ("d",), ((name,), ("d",)), "cell", 4, 50.0)


@pytest.fixture
def url(tmp_path: Path) -> URL:
    return URL.create("sqlite", database=str(tmp_path / "ledger.db"))


@pytest.fixture
def ledger(url: URL) -> Iterator[Ledger]:
    with closing(Ledger(url, CATALOG)) as found:
        yield found


class Catalog:
    """Remembers what was published, as a catalog does."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.cleaned: list[str] = []

    def make(self, one: WorkUnit, fence: Callable[[], None]) -> Made:
        fence()
        self.items.append(one.work_id)
        return Made(f"{one.work_id}.json", FIGURES)

    def worker(
        self,
        ledger: Ledger,
        make: Make | None = None,
        wait: float = 0.0,
        invalid_too: bool = False,
        width: int = 1,
        stop: Callable[[], None] = lambda: None,
    ) -> Worker:
        return Worker(
            width=lambda: width,
            stop=stop,
            ledger=ledger,
            run_id=new_run_id(),
            request_id="r",
            make=make or self.make,
            clean=lambda one: self.cleaned.append(one.work_id),
            published=lambda unit: Path(f"{unit.work_id}.json") if unit.work_id in self.items else None,
            held_wait_s=wait,
            invalid_too=invalid_too,
        )


def test_every_unit_ends_in_its_own_state_and_none_stops_the_others(ledger: Ledger) -> None:
    catalog = Catalog()
    errors = {"bad": InvalidItem("no bands"), "broken": UnreadableAsset("cut short"), "bug": ZeroDivisionError("oh")}

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        if one.work_id in errors:
            raise errors[one.work_id]
        return catalog.make(one, fence)

    names = ["bad", "good", "broken", "bug", "last"]
    results = work_through(catalog.worker(ledger, make), [unit(name) for name in names])
    assert [r.work_id for r in results] == names
    states = [State.INVALID, State.SUCCEEDED, State.FAILED, State.FAILED, State.SUCCEEDED]
    assert [r.state for r in results] == states and results[3].error == "ZeroDivisionError: oh"
    entries = ledger.listing.of(names)
    assert [entries[name].state for name in names] == states
    assert entries["good"].item_href == "good.json" and entries["broken"].error == "cut short"
    assert sorted(catalog.cleaned) == sorted(names)


def test_ctrl_c_leaves_the_unit_aborted_and_its_staging_clean(ledger: Ledger) -> None:
    catalog = Catalog()

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_through(catalog.worker(ledger, make), [unit("a"), unit("b")])
    assert ledger.listing.entry("a").state is State.ABORTED and ledger.listing.entry("b") is None
    assert catalog.cleaned == ["a"] and catalog.items == []


def test_units_of_another_run_come_last_and_are_reported_when_they_stay_held(ledger: Ledger) -> None:
    catalog = Catalog()
    assert isinstance(ledger.claim(job_of(unit("held"), "r"), ELSEWHERE), Lease)
    held, free = work_through(catalog.worker(ledger), [unit("held"), unit("free")])
    assert (held.state, free.state) == (State.RUNNING, State.SUCCEEDED) and "another run" in held.error
    assert catalog.items == ["free"]


def test_a_unit_that_another_run_publishes_meanwhile_is_recognised(ledger: Ledger) -> None:
    catalog = Catalog()
    lease = ledger.claim(job_of(unit("held"), "r"), ELSEWHERE)
    assert isinstance(lease, Lease)

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        catalog.items.append("held")  # the other run is done while we work on ours
        ledger.finish(lease, State.SUCCEEDED, item_href="held.json")
        return catalog.make(one, fence)

    held, free = work_through(catalog.worker(ledger, make, wait=30), [unit("held"), unit("free")])
    assert (held.state, held.item_href, held.figures) == (State.SUCCEEDED, "held.json", None)
    assert "another run" in held.note and free.figures is FIGURES
    assert ledger.listing.entry("held").attempts == 1


def test_a_unit_whose_run_gave_up_is_taken_at_the_end(ledger: Ledger) -> None:
    catalog = Catalog()
    lease = ledger.claim(job_of(unit("held"), "r"), ELSEWHERE)
    assert isinstance(lease, Lease)
    timer = threading.Timer(0.3, lambda: ledger.finish(lease, State.ABORTED))
    timer.start()
    (result,) = work_through(catalog.worker(ledger, wait=60), [unit("held")])
    timer.join()
    assert result.state is State.SUCCEEDED and ledger.listing.entry("held").attempts == 2


def test_whoever_lost_the_lease_neither_publishes_nor_cleans_up(ledger: Ledger, url: URL) -> None:
    catalog = Catalog()

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        # This process stood still for so long that another run has the unit now.
        execute(url, "UPDATE work SET lease_until = 0, run_id = 'x:1:y'")
        assert isinstance(ledger.claim(job_of(one, "r"), ELSEWHERE), Lease)
        return catalog.make(one, fence)

    (result,) = work_through(catalog.worker(ledger, make), [unit("w")])
    assert result.state is State.RUNNING and "taken over" in result.error
    assert catalog.items == [] and catalog.cleaned == []
    entry = ledger.listing.entry("w")
    assert entry.held and (entry.run_id, entry.attempts) == (ELSEWHERE, 2)
    assert not LeaseLost.retryable


def test_invalid_units_are_left_alone_with_their_reason_until_asked_for(ledger: Ledger) -> None:
    catalog = Catalog()

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        raise InvalidItem("no bands")

    work_through(catalog.worker(ledger, make), [unit("w")])
    (left,) = work_through(catalog.worker(ledger), [unit("w")])
    assert left.state is State.INVALID and left.error.startswith("no bands") and "redrive" in left.error
    (again,) = work_through(catalog.worker(ledger, invalid_too=True), [unit("w")])
    assert again.state is State.SUCCEEDED and catalog.items == ["w"]


def test_a_product_that_was_removed_from_the_catalog_is_made_again(ledger: Ledger) -> None:
    catalog = Catalog()
    work_through(catalog.worker(ledger), [unit("w")])
    catalog.items.clear()
    (again,) = work_through(catalog.worker(ledger), [unit("w")])
    assert again.figures is FIGURES and ledger.listing.entry("w").attempts == 2


def test_what_a_dead_run_published_is_settled(ledger: Ledger) -> None:
    assert isinstance(ledger.claim(job_of(unit("w"), "r"), ELSEWHERE), Lease)
    execute(ledger.url, "UPDATE work SET lease_until = 0")
    settle(ledger, [unit("w"), unit("other")], {"w": Path("w.json")}, "r")
    assert ledger.listing.entry("w").state is State.SUCCEEDED and ledger.listing.entry("other") is None


def test_several_at_once_end_as_they_would_one_by_one(ledger: Ledger) -> None:
    catalog, together = Catalog(), threading.Barrier(3)

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        together.wait(60)  # broken unless three are being made
        if one.work_id == "w2":
            raise UnreadableAsset("cut short")
        return catalog.make(one, fence)

    names = [f"w{number}" for number in range(6)]
    results = work_through(catalog.worker(ledger, make, width=3), [unit(name) for name in names])
    assert [r.work_id for r in results] == names
    states = [State.FAILED if name == "w2" else State.SUCCEEDED for name in names]
    assert [r.state for r in results] == states
    entries = ledger.listing.of(names)
    assert [entries[name].state for name in names] == states and {e.attempts for e in entries.values()} == {1}
    assert sorted(catalog.items) == sorted(set(names) - {"w2"}) and sorted(catalog.cleaned) == names


@pytest.mark.parametrize("error", [RunStopped("stopped"), WorkersLost("no workers")])
def test_what_concerns_the_run_stops_it_and_aborts_what_is_in_hand(ledger: Ledger, error: Exception) -> None:
    catalog, halted, began = Catalog(), threading.Event(), threading.Barrier(2)

    def make(one: WorkUnit, fence: Callable[[], None]) -> Made:
        began.wait(60)
        if one.work_id == "w0":
            raise error
        assert halted.wait(60)
        raise RunStopped("stopped")  # as a runner tells all callers that wait

    units = [unit(f"w{number}") for number in range(40)]
    with pytest.raises(type(error), match=str(error)):
        work_through(catalog.worker(ledger, make, width=2, stop=halted.set), units)
    entries = ledger.listing.page(100).entries
    assert {e.work_id: e.state for e in entries} == {"w0": State.ABORTED, "w1": State.ABORTED}
    assert sorted(catalog.cleaned) == ["w0", "w1"] and catalog.items == []


def test_nobody_waits_for_other_runs_once_all_is_stopped(ledger: Ledger) -> None:
    catalog = Catalog()
    for name in ("a", "b"):
        assert isinstance(ledger.claim(job_of(unit(name), "r"), ELSEWHERE), Lease)

    def published(_: WorkUnit) -> Path:
        raise LedgerUnavailable("no answer")

    worker = catalog.worker(ledger, wait=3600, width=2)
    timer = threading.Timer(0.2, lambda: execute(ledger.url, "UPDATE work SET state = 'SUCCEEDED' WHERE work_id = 'a'"))
    timer.start()
    with pytest.raises(LedgerUnavailable):
        work_through(replace(worker, published=published), [unit("a"), unit("b")])
    timer.join()
    assert ledger.listing.entry("b").held, "it is left to its holder"
