"""Publish into a catalog of ten thousand items: time for one more, many publishers at once, a reader all the while.

    python -m tests.load.publish_many --items 10000 --publishers 8 --lay --out docs/results

Every publication is a full one, with schema, COG and checksum checks. With `--lay` the items between the points of
measurement are put in place without a link and linked by one `repair`, as after a crash; without it every one of them
is published, which takes about a tenth of a second of processor each.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import typer

from stac.catalog.publish import StaticCatalog
from tests.load.products import lay, make_stock, stage

#: Publications that are timed at each size.
_TIMED = 10


@dataclass(slots=True)
class Figures:
    """What was measured."""

    items: int = 0
    publishers: int = 0
    laid: bool = False
    #: Median seconds of one publication, and of its part under the lock, by the number of items before.
    one_more: dict[int, float] = field(default_factory=dict)
    links: dict[int, float] = field(default_factory=dict)
    #: Items linked a second by one `repair`, 0 without.
    linked_per_second: float = 0.0
    #: Publications a second of all publishers together.
    published_per_second: float = 0.0
    lost_links: int = 0
    failed_publishers: int = 0
    #: Paths from the root to an item that a reader followed meanwhile, and what it found broken.
    walks: int = 0
    broken: list[str] = field(default_factory=list)
    #: Seconds to find all published work, documents read for it, most links in one of them, and their bytes.
    published_work_s: float = 0.0
    nodes: int = 0
    most_links: int = 0
    node_bytes: int = 0
    #: Largest resident memory of a publisher, MiB.
    peak_mib: float = 0.0

    @property
    def ok(self) -> bool:
        """Nothing was lost or broken."""
        return not (self.broken or self.lost_links or self.failed_publishers)


@dataclass(frozen=True, slots=True)
class Yard:
    """The stock of files and a catalog."""

    stock: Path
    document: dict[str, Any]
    root: Path

    @property
    def catalog(self) -> StaticCatalog:
        """The catalog, as a process of its own opens it."""
        return StaticCatalog(self.root)

    def publish(self, number: int) -> None:
        """Stage and publish a product."""
        catalog = self.catalog
        catalog.publish(*stage(catalog, self.stock, self.document, number))


def read(path: Path) -> dict[str, Any]:
    """Return a document."""
    return json.loads(path.read_text("utf-8"))


def walk(root: Path, draw: random.Random) -> None:
    """Follow random links from the root to an item and look at all its files; raise where one leads nowhere."""
    path = root / "catalog.json"
    document = read(path)
    while document["type"] != "Feature":
        links = [link for link in document["links"] if link["rel"] in ("child", "item")]
        above, path = path, path.parent / draw.choice(links)["href"]
        document = read(path)
        parent = next(link for link in document["links"] if link["rel"] == "parent")
        if (path.parent / parent["href"]).resolve() != above.resolve():
            raise ValueError(f"{path} does not name {above} as its parent")
    for asset in document["assets"].values():
        if (path.parent / asset["href"]).stat().st_size != asset["file:size"]:
            raise ValueError(f"{path}: {asset['href']} is not whole")


def read_on(root: Path, stop: Any, answers: Any) -> None:
    """Walk until asked to stop; the entry of the reader's process."""
    draw, walks, broken = random.Random(0), 0, []  # noqa: S311 - paths, not secrets
    while not stop.is_set():
        try:
            walk(root, draw)
        except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
            broken.append(f"{type(error).__name__}: {error}")
        walks += 1
        time.sleep(0.002)
    answers.put((walks, broken[:20]))


def publish_all(yard: Yard, numbers: Sequence[int], answers: Any) -> None:
    """Publish products one after the other; the entry of a publisher's process."""
    for number in numbers:
        yard.publish(number)
    answers.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def at_once(yard: Yard, numbers: Sequence[int], publishers: int) -> tuple[int, float]:
    """Publish with several processes; return how many failed, and the peak memory of one, MiB."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    parts = [numbers[start::publishers] for start in range(publishers)]
    processes: list[BaseProcess] = [context.Process(target=publish_all, args=(yard, p, answers)) for p in parts if p]
    for process in processes:
        process.start()
    for process in processes:
        process.join(3600)
    failed = sum(process.exitcode != 0 for process in processes)
    peaks = [answers.get() for _ in range(len(processes) - failed)]
    return failed, max(peaks, default=0.0)


def time_links(catalog: StaticCatalog) -> Callable[[], float]:
    """Measure the part of publications that keeps other publishers out; the result tells its last length, seconds."""
    spent, inner = [0.0], catalog.target.exclusive

    @contextmanager
    def exclusive() -> Any:
        with inner():
            began = time.perf_counter()
            yield
            spent[0] = time.perf_counter() - began

    catalog.target.exclusive = exclusive  # type: ignore[method-assign]
    return lambda: spent[0]


def measure_one_more(yard: Yard, number: int, before: int, figures: Figures) -> None:
    """Time single publications into a catalog of `before` items."""
    whole, links = [], []
    for each in range(number, number + _TIMED):
        catalog = yard.catalog
        product, under_lock = stage(catalog, yard.stock, yard.document, each), time_links(catalog)
        began = time.perf_counter()
        catalog.publish(*product)
        whole.append(time.perf_counter() - began)
        links.append(under_lock())
    figures.one_more[before] = round(statistics.median(whole), 4)
    figures.links[before] = round(statistics.median(links), 4)


def fill(yard: Yard, items: int, points: Sequence[int], figures: Figures, say: Callable[[str], None]) -> int:
    """Fill the catalog up to `items`, timing publications at each point; return the next number."""
    number, seconds, linked = 0, 0.0, 0
    for point in points:
        wanted = max(0, point - number)
        if wanted:
            say(f"filling up to {point}")
            numbers = range(number, number + wanted)
            if figures.laid:
                lay(yard.catalog, yard.stock, yard.document, numbers)
                began = time.perf_counter()
                yard.catalog.repair()
                seconds, linked = seconds + time.perf_counter() - began, linked + wanted
            else:
                failed, _ = at_once(yard, numbers, figures.publishers)
                figures.failed_publishers += failed
            number += wanted
        measure_one_more(yard, number, number, figures)
        number += _TIMED
    figures.linked_per_second = round(linked / seconds, 1) if seconds else 0.0
    return number


def crowd(yard: Yard, number: int, many: int, figures: Figures) -> int:
    """Let all publishers publish at once while a reader walks; return the next number."""
    context = multiprocessing.get_context("fork")
    stop, answers = context.Event(), context.Queue()
    reader = context.Process(target=read_on, args=(yard.root, stop, answers))
    reader.start()
    began = time.perf_counter()
    failed, figures.peak_mib = at_once(yard, range(number, number + many), figures.publishers)
    figures.published_per_second = round(many / (time.perf_counter() - began), 2)
    stop.set()
    figures.walks, figures.broken = answers.get()
    reader.join()
    figures.failed_publishers += failed
    return number + many


def count(yard: Yard, number: int, figures: Figures) -> None:
    """Compare what links lead to with what was published, and measure the documents above the items."""
    began = time.perf_counter()
    found = yard.catalog.published_work()
    figures.published_work_s = round(time.perf_counter() - began, 3)
    figures.items = len(found)
    figures.lost_links = len({f"{n:064x}" for n in range(number)} - found.keys())
    paths = [yard.root / "catalog.json", *yard.root.glob("*/collection.json"), *yard.root.glob("*/_dates/**/*.json")]
    figures.nodes, figures.node_bytes = len(paths), sum(path.stat().st_size for path in paths)
    figures.most_links = max(sum(k["rel"] in ("child", "item") for k in read(path)["links"]) for path in paths)


def page_of(figures: Figures, command: str, load: float) -> str:
    """Return the page of results; `load` is how many processes wanted a processor, on average of 15 minutes."""
    from benchmarks.machine import machine

    linked = "put in place as by publishers that are killed just before the link, and linked by one `repair`: "
    filled = (
        f"Those between the points were {linked}{figures.linked_per_second:g} a second."
        if figures.laid
        else "Every one was published."
    )
    rows = [
        ("items in the end", f"{figures.items:,}"),
        ("documents above the items, together", f"{figures.nodes:,}, {figures.node_bytes / 1e6:.1f} MB"),
        ("most children of one of them", figures.most_links),
        ("finding all published work", f"{figures.published_work_s:.2f} s"),
        (f"{figures.publishers} publishers at once", f"{figures.published_per_second:g} products a second"),
        ("peak memory of a publisher", f"{figures.peak_mib:.0f} MiB"),
        ("publishers that failed or waited for ever", figures.failed_publishers),
        ("lost links", figures.lost_links),
        ("random paths from the root to all files of an item, meanwhile", f"{figures.walks:,}"),
        ("of these, broken", len(figures.broken)),
    ]
    return "\n".join(
        [
            "# Publishing into a large catalog",
            "",
            f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}.",
            f"{load:.0f} processes wanted a processor on average, those of other work among them.",
            "",
            "Small products of ten files, ten of them a day over 1000 days.",
            filled,
            "Each publication that is timed is a whole one: schema, COG layout and checksums of all files, then item",
            "and links, read back. The part under the lock reads and writes the way to the root, whose documents hold",
            "about a hundred children at most: it is longer until they are full.",
            "",
            "| items before | one more, median s | of it under the lock, median s |",
            "|---|---|---|",
            *(f"| {n:,} | {figures.one_more[n]:.3f} | {figures.links[n]:.3f} |" for n in figures.one_more),
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
        ]
    )


def main(
    items: Annotated[int, typer.Option(min=1, help="Items in the catalog.")] = 10_000,
    publishers: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 8,
    crowded: Annotated[int, typer.Option(min=1, help="Items that they publish at once.")] = 80,
    lay: Annotated[bool, typer.Option("--lay", help="Link most items by `repair`.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of publishing.md and publishing.json.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where the catalog is made.")] = None,
) -> None:
    """Measure publishing into a folder; exit status 1 when anything was lost or broken."""

    def say(text: str) -> None:
        typer.echo(f"{datetime.now(UTC):%H:%M:%S} {text}", err=True)

    figures = Figures(publishers=publishers, laid=lay)
    with tempfile.TemporaryDirectory(prefix="unveil-publish-", dir=work) as folder:
        stock = Path(folder) / "stock"
        yard = Yard(stock, make_stock(stock), Path(folder) / "catalog")
        points = sorted({0, *(point for point in (1000, 5000) if point < items), items})
        number = fill(yard, items, points, figures, say)
        say(f"{publishers} publishers at once")
        number = crowd(yard, number, crowded, figures)
        count(yard, number, figures)
    document = asdict(figures) | {"ok": figures.ok}
    if out is not None:
        given = f"--items {items} --publishers {publishers} --crowded {crowded}{' --lay' if lay else ''}"
        (out / "publishing.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        command = f"python -m tests.load.publish_many {given}"
        (out / "publishing.md").write_text(page_of(figures, command, os.getloadavg()[2]), "utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    raise SystemExit(0 if figures.ok else 1)


if __name__ == "__main__":
    typer.run(main)
