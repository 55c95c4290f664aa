"""One unit under a real ledger: what others hold, lost leases and GPUs, how it ends. Pixels are not computed here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from de_model import checkpoint
from de_model.errors import DeviceLost
from de_model.inference.running import watched
from flows.errors import InvalidSettings, LeaseLost, RunStopped, WorkerKilled
from flows.ledger.leases import wait_for_others
from flows.ledger.schema import Lease, State, new_run_id
from flows.ledger.store import Ledger, open_ledger, reconcile
from flows.planning.workunit import ModelRef, WorkUnit
from flows.processing import model as loaded
from flows.processing import unit as processing
from flows.processing.model import load_model, without_a_lost_gpu
from flows.processing.product import Made, UnitFigures
from flows.processing.unit import (
    Payload,
    RunContext,
    UnitResult,
    failure_of,
    job_of,
    process_unit,
    record_failure,
)
from flows.settings import Device, RunSettings
from stac.catalog.product_collections import GATE, GATE_REASONS, GateState, ProductCollection
from stac.catalog.publish import StaticCatalog
from stac.errors import InvalidItem, UnreadableAsset, UnsafeHref
from stac.io.files import write_json
from tests.unit.flows.ledgers import execute

FIGURES = UnitFigures(**{field.name: 0 for field in fields(UnitFigures)})
ELSEWHERE = "another-host:1:0"
NAME = "11111111-2222-5333-8444-555555555555"


def unit(name: str = NAME) -> WorkUnit:
    return WorkUnit(name, f"{name}-item", f"{name}-target", ("d",), ((name,), ("d",)), "cell", 4, 50.0)


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    return RunSettings(out=tmp_path / "out")


@pytest.fixture
def ledger(settings: RunSettings) -> Iterator[Ledger]:
    with closing(open_ledger(settings)) as found:
        yield found


class Product:
    """Stands for restoring and publishing: remembers what was published, as a catalog does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.items: dict[str, Path] = {}
        self.making: Callable[[], None] = lambda: None
        self.left_out: tuple[str, ...] = ()
        monkeypatch.setattr("flows.processing.product.make_product", self.make)
        monkeypatch.setattr("flows.processing.unit.publish_staged", self.publish)
        monkeypatch.setattr(processing, "published_place", lambda one, _: self.items.get(one.work_id))

    def make(self, one: WorkUnit, _i: Any, _s: Any, _m: Any, staging: Path, progress: Callable[..., None]) -> Any:
        self.work_id = one.work_id
        (staging / "data.tif").touch()
        self.making()
        progress("block", 1, 1)
        return Made(FIGURES, self.left_out)

    def publish(self, staging: Path, _settings: Any, _collection: Any) -> Path:
        self.items[self.work_id] = staging / "item.json"
        return self.items[self.work_id]


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> Product:
    return Product(monkeypatch)


def run_of(settings: RunSettings, ledger: Ledger, run_id: str = "", **more: Any) -> RunContext:
    model = ModelRef("unveil-de", "1", "a" * 64, "weights")
    return RunContext(run_id or new_run_id(), settings.shareable, model, {}, ledger.shown, "r", **more)


def processed(run: RunContext, name: str = NAME) -> UnitResult:
    return process_unit(Payload(unit(name), "[]"), run, lambda _: nullcontext())


def state_of(ledger: Ledger) -> tuple[State, int, str]:
    entry = ledger.entry(NAME)
    assert entry is not None
    return entry.state, entry.attempts, entry.error


def staged(settings: RunSettings) -> list[Path]:
    return [path for path in Path(settings.out).glob(f".staging/{NAME}/*") if path.is_dir()]


def test_a_product_without_one_of_its_dates_says_so(settings: RunSettings, ledger: Ledger, product: Product) -> None:
    product.left_out = ("Date d cannot be read.", "Date e lies 3 pixels off.")
    done = processed(run_of(settings, ledger))
    assert done.note.startswith("2 dates are not used (metadata.json): Date d cannot be read. Once")
    assert state_of(ledger)[2] == done.note


def test_a_unit_is_published_once_and_the_ledger_knows(settings: RunSettings, ledger: Ledger, product: Product) -> None:
    done = processed(run_of(settings, ledger))
    assert (done.state, done.figures) == (State.SUCCEEDED, FIGURES) and done.item_href == str(product.items[NAME])
    assert state_of(ledger) == (State.SUCCEEDED, 1, "") and staged(settings) == []
    again = processed(run_of(settings, ledger))
    assert (again.state, again.figures, again.note) == (State.SUCCEEDED, None, "published by another run")
    assert state_of(ledger) == (State.SUCCEEDED, 1, "")
    review = StaticCatalog(settings.out).beside(ProductCollection.REVIEW)
    failed = {"properties": {GATE: GateState.FAILED, GATE_REASONS: ["Too smooth."]}}
    place = Path(str(review.place_of(f"{NAME}-item")))
    place.parent.mkdir(parents=True)
    write_json(place, failed)
    assert processed(run_of(settings, ledger)).note == "needs review: Too smooth."
    product.items.clear()  # removed from the catalog: made again
    assert processed(run_of(settings, ledger)).figures == FIGURES and state_of(ledger)[1] == 2


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (InvalidItem("no bands"), State.INVALID, "no bands"),
        (UnsafeHref("name it in allow_hosts"), State.FAILED, "name it in allow_hosts"),
        (UnreadableAsset("cut short"), State.FAILED, "cut short"),
        (ZeroDivisionError("oh"), State.FAILED, "ZeroDivisionError: oh"),
        (RunStopped("stopped"), State.ABORTED, "stopped"),
        (KeyboardInterrupt(), State.ABORTED, ""),
    ],
)
def test_a_failure_is_raised_recorded_and_cleaned_up(
    error: BaseException, state: State, text: str, settings: RunSettings, ledger: Ledger, product: Product
) -> None:
    def fail() -> None:
        raise error

    product.making = fail
    with pytest.raises(type(error)):
        processed(run_of(settings, ledger))
    assert state_of(ledger) == (state, 1, text) and product.items == {} and staged(settings) == []
    ended = failure_of(unit(), error)
    assert (ended.state, ended.error) == (state, text)


def test_what_another_run_holds_is_left_to_it(settings: RunSettings, ledger: Ledger, product: Product) -> None:
    lease = ledger.claim(job_of(unit(), "r"), ELSEWHERE)
    assert isinstance(lease, Lease)
    held = processed(run_of(settings, ledger))
    assert held.state is State.RUNNING and "another run" in held.error and product.items == {}
    wait_for_others(ledger, [NAME], 0.2)
    assert ledger.entry(NAME).held, "the time is over"
    ledger.finish(lease, State.ABORTED)
    wait_for_others(ledger, [NAME], 600)  # returns at once
    assert processed(run_of(settings, ledger)).figures == FIGURES and state_of(ledger)[1] == 2


def test_whoever_lost_the_lease_neither_publishes_nor_cleans_up(
    settings: RunSettings, ledger: Ledger, product: Product
) -> None:
    def stand_still() -> None:
        execute(ledger.url, "UPDATE work SET lease_until = 0, run_id = 'x:1:y'")
        assert isinstance(ledger.claim(job_of(unit(), "r"), ELSEWHERE), Lease)

    product.making = stand_still
    lost = processed(run_of(settings, ledger))
    assert lost.state is State.RUNNING and "taken over" in lost.error and not LeaseLost.retryable
    assert product.items == {} and len(staged(settings)) == 1
    entry = ledger.entry(NAME)
    assert entry.held and (entry.run_id, entry.attempts) == (ELSEWHERE, 2)


def test_a_second_execution_by_the_same_run_locks_the_first_one_out(
    settings: RunSettings, ledger: Ledger, product: Product
) -> None:
    """As when a worker is taken for lost that still lives: one of the two publishes, in one attempt of the run."""
    run, ends = run_of(settings, ledger), []

    def executed_again() -> None:
        product.making = lambda: None
        ends.append(processed(run))

    product.making = executed_again
    first = processed(run)
    assert first.state is State.RUNNING and ends[0].figures == FIGURES
    assert state_of(ledger) == (State.SUCCEEDED, 1, "") and staged(settings) == []


def test_a_stopped_run_takes_its_units_from_workers_that_go_on(
    settings: RunSettings, ledger: Ledger, product: Product
) -> None:
    run = run_of(settings, ledger)

    def stopped() -> None:
        assert ledger.abort(run.run_id) == [NAME]

    product.making = stopped
    assert processed(run).state is State.RUNNING and product.items == {}
    assert state_of(ledger)[0] is State.ABORTED


def test_invalid_units_are_left_alone_with_their_reason_until_asked_for(
    settings: RunSettings, ledger: Ledger, product: Product
) -> None:
    lease = ledger.claim(job_of(unit(), "r"), ELSEWHERE)
    assert isinstance(lease, Lease) and ledger.finish(lease, State.INVALID, error="no bands")
    left = processed(run_of(settings, ledger))
    assert left.state is State.INVALID and left.error.startswith("no bands") and "redrive" in left.error
    assert processed(run_of(settings, ledger, invalid_too=True)).state is State.SUCCEEDED


def test_a_unit_whose_workers_were_killed_is_failed(settings: RunSettings, ledger: Ledger) -> None:
    run = run_of(settings, ledger)
    assert isinstance(ledger.claim(job_of(unit(), "r"), run.run_id), Lease)
    assert record_failure(ledger, unit(), run, WorkerKilled("4 workers")).state is State.FAILED
    assert state_of(ledger) == (State.FAILED, 1, "4 workers")


def test_what_a_dead_run_published_is_recorded(settings: RunSettings, ledger: Ledger) -> None:
    assert isinstance(ledger.claim(job_of(unit(), "r"), ELSEWHERE), Lease)
    execute(ledger.url, "UPDATE work SET lease_until = 0")
    reconcile(ledger, [job_of(unit(), "r")], {NAME: Path("w.json")})
    assert state_of(ledger)[0] is State.SUCCEEDED


def test_a_worker_with_another_ledger_is_refused(settings: RunSettings, ledger: Ledger, product: Product) -> None:
    run = replace(run_of(settings, ledger), ledger="postgresql+psycopg://there/unveil")
    with pytest.raises(InvalidSettings, match="UNVEIL_LEDGER_URL"):
        processed(run)
    assert product.items == {} and ledger.entry(NAME) is None


GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    loaded._GPU_LOST.clear()
    load_model.cache_clear()


def failing(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def test_only_a_device_that_answers_no_more_is_lost() -> None:
    assert list(watched(iter([1, 2]), GPU, lambda _: False)) == [1, 2]
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(watched(failing(RuntimeError("shapes differ")), GPU, lambda _: True))
    found = watched(
        failing(torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")), GPU, lambda _: False
    )
    assert next(found) == 1
    with pytest.raises(DeviceLost, match=r"GPU cuda .*\(CUDA error: unspecified launch failure\); see") as lost:
        next(found)
    assert lost.value.retryable
    with pytest.raises(ValueError, match="another"):
        list(watched(failing(ValueError("another matter")), GPU, lambda _: False))


def test_a_process_that_lost_its_gpu_goes_on_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = str(checkpoint.shipped_weights())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[str] = []
    load = checkpoint.load

    def loading(path: object, device: str) -> object:
        asked.append(device)
        return load(path, "cpu")

    monkeypatch.setattr(checkpoint, "load", loading)
    before = load_model(weights, "digest", Device.AUTO)
    assert load_model(weights, "digest", Device.AUTO) is before and asked == ["cuda"]
    with caplog.at_level(logging.WARNING), pytest.raises(DeviceLost), without_a_lost_gpu():
        raise DeviceLost("The GPU cuda:0 no longer answers.")
    assert "goes on with the CPU" in caplog.text
    assert load_model(weights, "digest", Device.AUTO) is not before and asked == ["cuda", "cpu"]
    with pytest.raises(InvalidSettings, match="stopped answering"):
        load_model(weights, "digest", Device.CUDA)


def test_other_errors_leave_the_gpu_in_use() -> None:
    with pytest.raises(RuntimeError), without_a_lost_gpu():
        raise RuntimeError("disk")
    assert not loaded._GPU_LOST.is_set()
