"""What a run left behind: its items, its files, its blocks, what is wrong with them, and how far it got."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

#: Files of a catalog that begin with a dot and are no leftovers.
_HIDDEN = (".publish.lock", ".source-collection.json")
_PICTURES = (".tif", ".png")
#: Written last into a staging folder: the product waits to be published.
STAGED = "staged-item.json"


def items_of(out: Path) -> list[Path]:
    """Return the documents of all published items."""
    return sorted(p for p in out.glob("[!.]*/[!.]*/*.json") if p.stem == p.parent.name)


def work_ids_of(out: Path) -> list[str]:
    """Return the work id of every published product; models are no products."""
    found = (json.loads(path.read_text("utf-8"))["properties"] for path in items_of(out))
    return [properties["unveil:work_id"] for properties in found if "mlm:name" not in properties]


def files_of(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every published raster and picture."""
    paths = [p for p in out.glob("[!.]*/[!.]*/*") if p.suffix in _PICTURES]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def problems_of(out: Path) -> list[str]:
    """Return what is wrong with a catalog and each item in it, linked or not."""
    from stac.catalog.validation import item_problems
    from tests.support.catalogs import problems_in

    found = problems_in(out, publishing=True) if (out / "catalog.json").is_file() else []
    return sorted({*found, *(problem for path in items_of(out) for problem in item_problems(path))})


def unlinked_of(out: Path) -> list[str]:
    """Return the published items that no document of a finished catalog links."""
    linked = set()
    for path in (*out.glob("[!.]*/collection.json"), *out.glob("[!.]*/_dates/**/catalog.json")):
        links = json.loads(path.read_text("utf-8"))["links"]
        linked |= {(path.parent / link["href"]).resolve() for link in links if link["rel"] == "item"}
    return [str(path) for path in items_of(out) if path.resolve() not in linked]


def unsettled_of(out: Path, state: Path) -> list[str]:
    """Return the units of a finished catalog that the ledger does not know as published."""
    from flows.ledger.schema import State
    from flows.ledger.store import open_ledger
    from flows.settings import RunSettings

    with closing(open_ledger(RunSettings(out=out, state_dir=state))) as ledger:
        entries = ledger.page(100).entries
    return [f"{entry.item_id} is {entry.state}" for entry in entries if entry.state is not State.SUCCEEDED]


def blocks_of(state: Path) -> dict[str, int]:
    """Return when each finished block was written, nanoseconds, by its path."""
    return {str(path): path.stat().st_mtime_ns for path in state.glob("blocks/*/*/*.block")}


def leftovers_of(out: Path, state: Path) -> list[str]:
    """Return what nothing will ever use again, once a catalog is done and what crashes left is cleared away."""
    from stac.catalog.publish import StaticCatalog

    StaticCatalog(out).repair(older_than_s=0)
    hidden = [p for p in out.rglob(".*") if p.is_file() and p.name not in _HIDDEN]
    return [str(p) for p in (*hidden, *out.glob(".staging/*"), *out.glob("[!.]*/.*.old"), *state.glob("blocks/*/*"))]


def is_staged(out: Path) -> bool:
    """Tell whether a product waits to be published."""
    try:
        return any(out.glob(f".staging/*/*/{STAGED}"))
    except FileNotFoundError:  # its folder went while it was looked at: it is published
        return False


def moment_of(log: Path, out: Path) -> str:
    """Return what a run was doing when it was killed, from its log and its staging folders."""
    ended = [line for line in log.read_text("utf-8").splitlines() if "Finished in state Completed" in line]
    last = ended[-1] if ended else ""
    if "'report" in last or "Flow run" in last:
        return "ending"
    if "'plan" in last or "'process" in last:
        if is_staged(out):
            return "publishing"
        if any(out.glob(".staging/*/*/*")):
            return "writing a product"
        return "reading and restoring, or between units"
    return "resolving the model, planning" if "'find" in last else "starting, searching"
