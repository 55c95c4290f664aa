"""Kill runs of the sample at random moments, continue them, and look for what was lost, doubled or damaged.

    python -m tests.chaos.kill_runs --kills 200 --out docs/results

Every catalog is killed several times (SIGKILL of the process group) and then run to its end. Published items are
checked after every kill, too: a reader may come at any instant.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from tests.command import TINY_BBOX, TINY_SETTINGS, start

#: A catalog is killed so often at most before it is run to its end.
_KILLS_PER_CATALOG = 4
_TIMEOUT_S = 300
_TILES = (".tif", ".png")


@dataclass(slots=True)
class Tally:
    """What came of it."""

    kills: int = 0
    catalogs: int = 0
    #: Kills by what the run was doing.
    moments: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    #: What was wrong with a published item or catalog, right after a kill or at the end.
    invalid: list[str] = field(default_factory=list)
    #: Files whose bytes differ from the undisturbed run's.
    different: list[str] = field(default_factory=list)
    #: Runs after a kill that did not end well.
    broken: list[str] = field(default_factory=list)

    def killed(self, moment: str) -> None:
        """Count a kill."""
        self.kills += 1
        self.moments[moment] = self.moments.get(moment, 0) + 1

    @property
    def ok(self) -> bool:
        """Nothing was lost, doubled or damaged."""
        return not (self.lost or self.duplicated or self.invalid or self.different or self.broken)


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed run."""

    work_ids: frozenset[str]
    files: dict[str, str]
    seconds: float


def run_flow(out: str, state: str, log: str) -> None:
    """Run the main flow in a process group of its own; the entry of a child process."""
    os.setsid()
    record = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(record, 1)
    os.dup2(record, 2)
    from flows.clear_scenes import clear_scenes
    from flows.settings import RunSettings

    settings = RunSettings(bbox=TINY_BBOX, out=Path(out), state_dir=Path(state))
    clear_scenes(settings.shareable)


class Flow:
    """Runs of the flow function: a process that has imported everything is forked, so most kills hit real work."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["flows.clear_scenes", "flows.runs"])

    def begin(self, out: Path) -> BaseProcess:
        process = self.context.Process(
            target=run_flow, args=(str(out), str(self.work / "state"), str(self.work / "log"))
        )
        process.start()
        return process

    def finish(self, out: Path) -> str:
        """Run to the end; return what went wrong, nothing when all is well."""
        process = self.begin(out)
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            kill_group(process.pid)
            return f"{out.name}: a run did not end within {_TIMEOUT_S} s"
        return f"{out.name}: a run ended with status {process.exitcode}" if process.exitcode else ""


def kill_group(pid: int | None) -> None:
    """SIGKILL to a process and all it started."""
    assert pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def items_of(out: Path) -> list[Path]:
    """Return the documents of all published items."""
    return sorted(p for p in out.glob("[!.]*/[!.]*/*.json") if p.stem == p.parent.name)


def work_ids_of(out: Path) -> list[str]:
    return [json.loads(path.read_text("utf-8"))["properties"]["unveil:work_id"] for path in items_of(out)]


def files_of(out: Path) -> dict[str, str]:
    """SHA-256 of every published raster and picture."""
    paths = [p for p in out.glob("[!.]*/[!.]*/*") if p.suffix in _TILES]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def problems_of(out: Path) -> list[str]:
    """Return what is wrong with a catalog and each item in it."""
    from stac.validate import item_problems, validate_catalog

    found = validate_catalog(out) if (out / "catalog.json").is_file() else []
    return found + [problem for path in items_of(out) for problem in item_problems(path)]


def moment_of(out: Path, state: Path) -> str:
    """Return what a run was doing when it was killed."""
    from flows.ledger.book import Ledger
    from flows.ledger.opening import ledger_place

    ledger = Ledger(*ledger_place(state, str(out), None))
    entries = ledger.listing.page(100).entries
    ledger.close()
    held = [entry for entry in entries if entry.lease_until]
    if not held:
        return "between units or reporting" if entries else "searching and planning"
    if (out / "unveil-cloud-free" / held[0].item_id).is_dir():
        return "published, not yet recorded"
    staged = list((out / ".staging").glob("*/*"))
    return "staged or publishing" if any(p.suffix == ".json" for p in staged) else "reading and restoring"


def undisturbed(flow: Flow, tally: Tally) -> Reference:
    """Run without a kill, twice: the first one also registers the model, the second one is timed."""
    for name in ("warm", "reference"):
        began, out = time.monotonic(), flow.work / name
        if problem := flow.finish(out):
            raise SystemExit(f"{problem}; see {flow.work / 'log'}")
    tally.invalid += problems_of(out)
    return Reference(frozenset(work_ids_of(out)), files_of(out), time.monotonic() - began)


def torment(flow: Flow, out: Path, reference: Reference, kills: int, draw: random.Random, tally: Tally) -> None:
    """Kill runs of one catalog up to `kills` times, run it to the end, and compare."""
    for _ in range(kills):
        process = flow.begin(out)
        process.join(draw.uniform(0, reference.seconds))
        if process.exitcode is not None:
            break
        kill_group(process.pid)
        process.join(_TIMEOUT_S)
        tally.killed(moment_of(out, flow.work / "state"))
        tally.invalid += problems_of(out)
    compare(out, flow.finish(out), reference, tally)


def compare(out: Path, problem: str, reference: Reference, tally: Tally) -> None:
    """Compare a catalog that was run to its end with the undisturbed one."""
    tally.catalogs += 1
    tally.broken += [problem] if problem else []
    tally.invalid += problems_of(out)
    found = Counter(work_ids_of(out))
    tally.lost += [f"{out.name}: {name}" for name in sorted(reference.work_ids - found.keys())]
    tally.duplicated += [f"{out.name}: {name}" for name, count in found.items() if count > 1]
    files = files_of(out)
    names = reference.files.keys() | files.keys()
    tally.different += [f"{out.name}: {n}" for n in sorted(names) if reference.files.get(n) != files.get(n)]


def torment_command(work: Path, out: Path, reference: Reference, draw: random.Random, tally: Tally) -> None:
    """Kill `unveil run` once, its own Prefect server included, and continue with the same command."""
    given = ("run", "--bbox", TINY_BBOX, "--out", out, "--state-dir", work / "state", "--json")
    process = start(*given, home=work / "home", extra=TINY_SETTINGS)
    began = time.monotonic()
    with contextlib.suppress(Exception):
        process.wait(draw.uniform(0, 3 * reference.seconds))
    if process.poll() is None and time.monotonic() > began:
        kill_group(process.pid)
        tally.killed("anywhere in `unveil run`")
    process.communicate(timeout=_TIMEOUT_S)
    tally.invalid += problems_of(out)
    again = start(*given, home=work / "home", extra=TINY_SETTINGS)
    _, errors = again.communicate(timeout=_TIMEOUT_S)
    compare(out, f"{out.name}: {errors.strip()}" if again.returncode else "", reference, tally)


def run_kills(
    work: Path, kills: int, seed: int, command_share: float, on_kill: Callable[[int], None] | None = None
) -> Tally:
    """Kill `kills` times in all, some of them through the command."""
    from flows.services.prefect_server import prefect_api

    os.environ.update(TINY_SETTINGS)
    tally, draw = Tally(), random.Random(seed)  # noqa: S311 - moments, not secrets
    with prefect_api(work / "server") as url:
        os.environ["PREFECT_API_URL"] = url
        try:
            flow = Flow(work)
            reference = undisturbed(flow, tally)
            while tally.kills < kills:
                out = work / f"catalog-{tally.catalogs}"
                if draw.random() < command_share:
                    torment_command(work, out, reference, draw, tally)
                else:
                    left = min(_KILLS_PER_CATALOG, kills - tally.kills)
                    torment(flow, out, reference, draw.randint(1, left), draw, tally)
                if tally.ok:
                    shutil.rmtree(out, ignore_errors=True)
                if on_kill is not None:
                    on_kill(tally.kills)
        finally:
            del os.environ["PREFECT_API_URL"]
    return tally


def page_of(tally: Tally, command: str, seconds: float) -> str:
    """Return the page of results."""
    from flows.bench import machine

    rows = [
        ("kills (SIGKILL)", tally.kills),
        ("catalogs, each run to its end afterwards", tally.catalogs),
        ("units lost", len(tally.lost)),
        ("units published twice", len(tally.duplicated)),
        ("invalid items or catalogs, after any kill", len(tally.invalid)),
        ("files that differ from the undisturbed run", len(tally.different)),
        ("runs after a kill that failed", len(tally.broken)),
    ]
    moments = [f"| {name} | {count} |" for name, count in sorted(tally.moments.items(), key=lambda m: -m[1])]
    table = [f"| {name} | {count} |" for name, count in rows]
    return "\n".join(
        [
            "# Runs killed at random moments",
            "",
            f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}, {seconds / 60:.0f} minutes.",
            "",
            "A corner of the sample, two work units, is run and killed at a random moment, up to four times,",
            "then run to its end. Published items are validated after every kill; at the end work ids, rasters and",
            "pictures are compared with an undisturbed run, byte by byte.",
            "",
            "| | |",
            "|---|---|",
            *table,
            "",
            "| killed while | kills |",
            "|---|---|",
            *moments,
            "",
        ]
    )


def main(
    kills: Annotated[int, typer.Option("--kills", min=1, help="How many in all.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the moments.")] = 0,
    command_share: Annotated[float, typer.Option(min=0, max=1, help="Share of catalogs run by `unveil run`.")] = 0.1,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for kills.md; printed when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Kill runs of the sample at random moments and compare what they published with an undisturbed run."""
    began = time.monotonic()
    bars = Progress(console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory(prefix="unveil-kills-") as folder, bars as bar:
        line = bar.add_task("kills", total=kills)
        tally = run_kills(Path(folder), kills, seed, command_share, lambda n: bar.update(line, completed=n))
    command = f"python -m tests.chaos.kill_runs --kills {kills} --seed {seed} --command-share {command_share:g}"
    page = page_of(tally, command, time.monotonic() - began)
    if out is not None:
        (out / "kills.md").write_text(page, "utf-8")
    if as_json:
        document: dict[str, Any] = asdict(tally) | {"ok": tally.ok}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif out is None:
        sys.stdout.write(page)
    raise SystemExit(0 if tally.ok else 1)


if __name__ == "__main__":
    typer.run(main)
