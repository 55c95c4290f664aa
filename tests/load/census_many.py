"""What a census and a run with nothing to do ask of a catalog of ten thousand items, in a folder and on S3.

    python -m tests.load.census_many --items 10000 --on-s3 1000 --out docs/results

Timed is what both do with the catalog; the search at the source is not. Requests are counted by a real S3 service on
loopback, whose seconds say nothing, on a smaller catalog: laying ten thousand products there takes it an hour.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from stac.catalog.product_collections import broken_work, finished_work, published_place, repair_collections
from stac.catalog.publish import StaticCatalog
from stac.io.s3 import Location, S3Location
from tests.load.products import item_of, lay, make_stock
from tests.s3_server import S3Server, s3_server

#: What both commands do with a catalog of work that is all published, in words.
_CENSUS, _NOTHING, _UNIT = "census", "run with nothing to do", "one unit, is it published?"


def acts(catalog: StaticCatalog, last: tuple[str, str]) -> dict[str, Callable[[], int]]:
    """Return what is measured, by name; each returns how many products it found whole."""

    def whole(done: dict[str, Location]) -> int:
        return len(done) - len(broken_work(catalog, done))

    return {
        _CENSUS: lambda: whole(finished_work(catalog, None)),
        _NOTHING: lambda: whole(repair_collections(catalog, None)),
        _UNIT: lambda: published_place(catalog, *last, None) is not None,
    }


def made(folder: Path, items: int) -> tuple[StaticCatalog, tuple[str, str]]:
    """Return a catalog of so many items in a folder, with id and work of the last."""
    document = make_stock(folder / "stock")
    catalog = StaticCatalog(folder / "catalog")
    lay(catalog, folder / "stock", document, range(items))
    catalog.repair()
    last = item_of(document, items - 1)
    return catalog, (last.id, last.properties["unveil:work_id"])


def timed(items: int) -> dict[str, float]:
    """Return the seconds of each act on a catalog in a folder."""
    with tempfile.TemporaryDirectory(prefix="unveil-census-") as folder:
        catalog, last = made(Path(folder), items)
        found = {}
        for name, act in acts(catalog, last).items():
            began = time.monotonic()
            assert act() == (1 if name == _UNIT else items)
            found[name] = time.monotonic() - began
        return found


def asked(items: int) -> dict[str, dict[str, int]]:
    """Return the requests of each act on a catalog in a bucket, by method; listings are GETs of the bucket."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    with tempfile.TemporaryDirectory(prefix="unveil-census-") as name, s3_server() as service:
        folder, bucket = Path(name), service.bucket("census")
        _, last = made(folder, items)
        service.upload(folder / "catalog", bucket, "c")
        catalog = StaticCatalog(S3Location(bucket, "c"), s3=service.options, workspace=folder / "work")
        return {act: _requests(service, bucket, call) for act, call in acts(catalog, last).items()}


def _requests(service: S3Server, bucket: str, act: Callable[[], int]) -> dict[str, int]:
    service.requests.clear()
    act()
    kinds = ("LIST" if r.method == "GET" and r.path.strip("/") == bucket else r.method for r in service.requests)
    return dict(sorted(Counter(kinds).items()))


def page_of(seconds: dict[str, float], requests: dict[str, dict[str, int]], items: int, on_s3: int) -> str:
    """Return the page of results."""
    from benchmarks.machine import machine

    def words(counts: dict[str, int]) -> str:
        return ", ".join(f"{number:,} {method}" for method, number in counts.items())

    command = f"python -m tests.load.census_many --items {items} --on-s3 {on_s3}"
    rows = [f"| {name} | {seconds[name]:.3g} | {words(requests[name])} |" for name in seconds]
    return "\n".join(
        [
            "# Census of a large catalog",
            "",
            f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}.",
            f"{os.getloadavg()[2]:.0f} processes wanted a processor on average, those of other work among them.",
            "",
            f"All work is published: {items:,} products of ten files in a folder, {on_s3:,} on S3. Every product is",
            "looked at: its item is read, and presence and size of its files are compared. A listing of a thousand",
            "objects is one request. The last line is what a unit asks that is tried again; it does not grow with the",
            "catalog.",
            "",
            f"| what | seconds, {items:,} items in a folder | requests, {on_s3:,} items on S3 |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main(
    items: Annotated[int, typer.Option(min=1, help="Items in the folder.")] = 10_000,
    on_s3: Annotated[int, typer.Option(min=1, help="Items on S3.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder of census.md and census.json.")] = None,
) -> None:
    """Measure both and print the figures."""
    seconds, requests = timed(items), asked(on_s3)
    document = {"items": items, "seconds": seconds, "on_s3": on_s3, "requests": requests}
    if out is not None:
        (out / "census.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        (out / "census.md").write_text(page_of(seconds, requests, items, on_s3), "utf-8")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
