"""Load many items into pgstac and through a STAC API: rate, memory, and what one more item costs as the index grows.

    python -m tests.load.index_many --items 10000 --out docs/results

A private PostgreSQL with its defaults (what is committed is on disk) and stac-fastapi-pgstac run on this machine. Every
item is read back and compared, as when products are published.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer

from benchmarks.machine import machine
from benchmarks.measuring import MemoryWatch
from stac.catalog.indexes.base import TOKEN_VARIABLE, open_index
from stac.catalog.indexes.following import copy_of
from stac.search.static import SAMPLE_COLLECTION, sample_catalog
from tests.support import pgstac

if TYPE_CHECKING:
    from stac.catalog.indexes.base import Index

COLLECTION = "many"
#: Items of one load, and single items that are timed at each size.
BATCH, SINGLES = 500, 20
PUBLISHERS = 8
_EPOCH = datetime(2016, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of loading one kind of index."""

    kind: str
    items: int
    bytes_per_item: int
    seconds: float
    items_per_s: float
    #: Highest resident memory of the loading process, MiB.
    memory_mib: float
    #: Median time to put one item and read it back, seconds, by the number of items that are there.
    one_more_s: dict[int, float]
    #: 8 processes that publish single items at the same time.
    together_items: int
    together_per_s: float
    together_lost: int
    together_failed: int
    #: Deadlocks that the server resolved meanwhile; each was tried again.
    deadlocks: int


class Many:
    """Any number of items after a real one, each with its own id, day and place."""

    def __init__(self) -> None:
        path = next(sample_catalog().parent.glob(f"{SAMPLE_COLLECTION}/**/*_L2A.json"), None)
        path = path or next(p for p in sample_catalog().parent.rglob("*.json") if _is_item(p))
        address = f"https://data.example.org/catalog/{path.relative_to(sample_catalog().parent).as_posix()}"
        self._like = copy_of(json.loads(path.read_text("utf-8")), address)
        box = [-180.0, -90.0, 180.0, 90.0]
        self.collection: dict[str, Any] = {
            "type": "Collection",
            "stac_version": "1.1.0",
            "id": COLLECTION,
            "description": "Many items.",
            "license": "other",
            "extent": {"spatial": {"bbox": [box]}, "temporal": {"interval": [["2016-01-01T00:00:00Z", None]]}},
            "links": [],
        }

    def item(self, name: str, number: int) -> dict[str, Any]:
        """Return an item; numbers give days of ten years and places on a grid."""
        west, south = -170 + number * 7 % 340, -60 + number * 3 % 120
        ring = [[west, south], [west + 1, south], [west + 1, south + 1], [west, south + 1], [west, south]]
        day = _EPOCH + timedelta(hours=number * 8 % 87_600)
        properties = self._like["properties"] | {"datetime": day.isoformat(), "unveil:work_id": f"work-{name}"}
        return self._like | {
            "id": name,
            "collection": COLLECTION,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "bbox": [west, south, west + 1, south + 1],
            "properties": properties,
        }


def _is_item(path: Path) -> bool:
    return bool(json.loads(path.read_text("utf-8")).get("type") == "Feature")


def measure(kind: str, address: str, dsn: str, items: int) -> Figures:
    """Load one index step by step."""
    many = Many()
    steps = sorted({0, items // 10, items // 2, items})
    one_more: dict[int, float] = {}
    seconds, loaded = 0.0, 0
    with closing(open_index(address)) as index, MemoryWatch(os.getpid()) as memory:
        index.put(many.collection, [])
        for size in steps:
            seconds += load(index, many, loaded, size)
            loaded = size
            one_more[size] = one_by_one(index, many, size)
            sys.stderr.write(f"{kind}: {size} items, one more takes {1000 * one_more[size]:.0f} ms\n")
    before = deadlocks(dsn)
    together, lost, failed = publish_together(address, many)
    return Figures(
        kind=kind,
        items=items,
        bytes_per_item=len(json.dumps(many.item("x", 1))),
        seconds=round(seconds, 1),
        items_per_s=round(items / seconds, 1),
        memory_mib=round(memory.peak / 2**20, 1),
        one_more_s={size: round(value, 4) for size, value in one_more.items()},
        together_items=PUBLISHERS * SINGLES,
        together_per_s=round(PUBLISHERS * SINGLES / together, 1),
        together_lost=lost,
        together_failed=failed,
        deadlocks=deadlocks(dsn) - before,
    )


def load(index: Index, many: Many, first: int, last: int) -> float:
    """Load items in batches; return the seconds."""
    began = time.monotonic()
    for start in range(first, last, BATCH):
        index.put(many.collection, [many.item(f"item-{n}", n) for n in range(start, min(start + BATCH, last))])
    return time.monotonic() - began


def one_by_one(index: Index, many: Many, size: int) -> float:
    """Return the median time to put a single item, seconds."""
    taken = []
    for number in range(SINGLES):
        began = time.monotonic()
        index.put(many.collection, [many.item(f"single-{size}-{number}", number)])
        taken.append(time.monotonic() - began)
    return median(taken)


def publish_together(address: str, many: Many) -> tuple[float, int, int]:
    """Let 8 processes put single items; return the seconds, items that are not there, and processes that failed."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=publish_some, args=(address, n)) for n in range(PUBLISHERS)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - began
    with closing(open_index(address)) as index:
        held = index.works(COLLECTION)
    wanted = {f"together-{n}-{k}" for n in range(PUBLISHERS) for k in range(SINGLES)}
    return seconds, len(wanted - set(held)), sum(worker.exitcode != 0 for worker in workers)


def publish_some(address: str, number: int) -> None:
    """Put single items, as one publisher does; the collection is another one each time."""
    many = Many()
    with closing(open_index(address)) as index:
        for k in range(SINGLES):
            collection = many.collection | {"description": f"Publisher {number}, item {k}."}
            index.put(collection, [many.item(f"together-{number}-{k}", number * SINGLES + k)])


def deadlocks(dsn: str) -> int:
    """Return how many deadlocks the server has seen in the database."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    return int(row[0]) if row else 0


def page_of(command: str, figures: list[Figures], busy: float) -> str:
    """Return the page of results; `busy` is the load of the machine before."""
    heads = " | ".join(each.kind for each in figures)
    rows = [
        ("items loaded, each read back and compared", [f"{each.items:,}" for each in figures]),
        ("size of an item, kB", [f"{each.bytes_per_item / 1000:.1f}" for each in figures]),
        ("time, s", [f"{each.seconds:.0f}" for each in figures]),
        ("items a second", [f"{each.items_per_s:.0f}" for each in figures]),
        ("memory of the loader at most, MiB", [f"{each.memory_mib:.0f}" for each in figures]),
        *(
            (f"one more item beside {size:,}, ms", [f"{1000 * each.one_more_s[size]:.0f}" for each in figures])
            for size in figures[0].one_more_s
        ),
        (
            f"{PUBLISHERS} publishers at once, items a second, starts included",
            [f"{e.together_per_s:.0f}" for e in figures],
        ),
        ("  items lost", [str(each.together_lost) for each in figures]),
        ("  publishers that failed", [str(each.together_failed) for each in figures]),
        ("  deadlocks that the server resolved, all tried again", [str(each.deadlocks) for each in figures]),
    ]
    lines = [
        "# Many items in an index",
        "",
        "Copies of a real Sentinel-2 item, each with its own id, day and place, are put into pgstac's database by",
        "bulk load, and through stac-fastapi-pgstac over HTTP, 500 at a time. `One more item` is the median of 20",
        "single ones, each put and read back. PostgreSQL runs with its defaults on the same machine.",
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}.",
        f"{busy:.0f} other processes wanted the processors when it began (load average).",
        "",
        f"| | {heads} |",
        f"|---|{'---|' * len(figures)}",
        *(f"| {name} | {' | '.join(values)} |" for name, values in rows),
        "",
    ]
    return "\n".join(lines)


def main(
    items: Annotated[int, typer.Option("--items", min=10, help="Items to load.")] = 10_000,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of indexes.md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Load many items into both kinds of index and tell rates, memory, and what one more item costs."""
    figures, busy = [], os.getloadavg()[0]
    for kind in ("pgstac", "STAC API"):
        with pgstac.service({}) as service:
            os.environ[TOKEN_VARIABLE] = service.token
            address = service.dsn if kind == "pgstac" else service.api
            figures.append(measure(kind, address, service.dsn, items))
    page = page_of(f"python -m tests.load.index_many --items {items}", figures, busy)
    if out is not None:
        (out / "indexes.md").write_text(page, "utf-8")
    if as_json:
        sys.stdout.write(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    elif out is None:
        sys.stdout.write(page)
    raise SystemExit(0 if all(each.together_lost + each.together_failed == 0 for each in figures) else 1)


if __name__ == "__main__":
    typer.run(main)
