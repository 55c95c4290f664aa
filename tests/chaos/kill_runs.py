"""Kill runs of the sample at random moments, continue them, and look for what was lost, doubled or damaged.

    python -m tests.chaos.kill_runs --kills 200 --out docs/results

Every catalog is killed again and again (SIGKILL of the process group) until a run gets to its end. Published items are
checked after every kill, too: a reader may come at any instant.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from tests.chaos.evidence import (
    blocks_of,
    files_of,
    is_staged,
    leftovers_of,
    moment_of,
    problems_of,
    unlinked_of,
    unsettled_of,
    work_ids_of,
)
from tests.chaos.tally import Tally, add_series, page_of, series_of
from tests.command import TINY_BBOX, TINY_SETTINGS, start

#: A catalog is killed so often at most before it is run to its end.
_KILLS_PER_CATALOG = 12
#: Share of kills that wait until a product is staged, and for how long they wait then at most, seconds.
_AIMED, _AIMED_S = 1 / 3, 0.3
_TIMEOUT_S = 300
#: Modules that a run imports late; forked runs find them there.
_PRELOAD = ("flows.mosaic", "flows.period_mosaic", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store")
_SETTINGS = TINY_SETTINGS | {"UNVEIL_BLOCK": "64"}


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed run."""

    work_ids: frozenset[str]
    files: dict[str, str]
    seconds: float


def run_flow(out: str, state: str, log: str, mosaic: bool) -> None:
    """Run the main flow, or that of mosaics, in a process group of its own; the entry of a child process."""
    os.setsid()
    record = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(record, 1)
    os.dup2(record, 2)
    from flows.mosaic import clear_scenes
    from flows.period_mosaic import mosaics
    from flows.settings import RunSettings
    from flows.settings.mosaic_options import MosaicOptions

    settings = RunSettings(bbox=TINY_BBOX, out=Path(out), state_dir=Path(state))
    if mosaic:
        mosaics(settings.shareable, MosaicOptions(period="dates"))
    else:
        clear_scenes(settings.shareable)


class Flow:
    """Runs of the flow function: a process that has imported everything is forked, so most kills hit real work."""

    def __init__(self, work: Path, mosaic: bool) -> None:
        self.work, self.state, self.log, self.mosaic = work, work / "state", work / "log", mosaic
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(_PRELOAD))

    def begin(self, out: Path) -> BaseProcess:
        """Start a run."""
        self.log.write_text("", "utf-8")
        process = self.context.Process(target=run_flow, args=(str(out), str(self.state), str(self.log), self.mosaic))
        process.start()
        return process

    def finish(self, process: BaseProcess, out: Path) -> str:
        """Wait for the end of a run; return what went wrong, nothing when all is well."""
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            kill_group(process.pid)
            return f"{out.name}: a run did not end within {_TIMEOUT_S} s"
        return f"{out.name}: a run ended with status {process.exitcode}: {self.reason}" if process.exitcode else ""

    def kill(self, process: BaseProcess) -> None:
        """SIGKILL to a run."""
        kill_group(process.pid)

    @property
    def reason(self) -> str:
        """The end of what the last run wrote."""
        return self.log.read_text("utf-8")[-2000:]


def kill_group(pid: int | None) -> None:
    """SIGKILL to a process and all it started."""
    assert pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def flow_of(mosaic: bool, work: Path) -> Iterator[Flow]:
    """Have runs of a flow, and the Prefect server they need, while the context is open."""
    from flows.services.prefect_server import prefect_api
    from flows.services.state import read_login

    os.environ.update(_SETTINGS)
    with prefect_api(work / "server") as url:
        os.environ["PREFECT_API_URL"] = url
        os.environ["PREFECT_API_AUTH_STRING"] = read_login(work / "server" / "prefect").auth_string
        try:
            yield Flow(work, mosaic)
        finally:
            del os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]


def undisturbed(flow: Flow, tally: Tally) -> Reference:
    """Run without a kill, twice: the first one also registers the model, the second one is timed."""
    for name in ("warm", "reference"):
        out = flow.work / name
        process, began = flow.begin(out), time.monotonic()  # as moments are counted: from when a run has begun
        if problem := flow.finish(process, out):
            raise SystemExit(problem)
    seconds = time.monotonic() - began
    tally.invalid += problems_of(out)
    return Reference(frozenset(work_ids_of(out)), files_of(out), seconds)


def await_moment(process: BaseProcess, out: Path, longest: float, draw: random.Random) -> bool:
    """Wait for a random moment; False when the run ended before."""
    if draw.random() < _AIMED:
        while process.exitcode is None and not is_staged(out):
            process.join(0.01)
        process.join(draw.uniform(0, _AIMED_S))
    else:
        process.join(draw.uniform(0, longest))
    return process.exitcode is None


def torment(flow: Flow, out: Path, reference: Reference, kills: int, draw: random.Random, tally: Tally) -> None:
    """Kill runs of one catalog up to `kills` times or until one ends, let the last one end, and compare."""
    for _ in range(kills):
        process = flow.begin(out)
        if not await_moment(process, out, reference.seconds, draw):
            break
        flow.kill(process)
        process.join(_TIMEOUT_S)
        tally.killed(moment_of(flow.log, out))
        tally.invalid += problems_of(out)
        tally.kept(blocks_of(flow.state))
    else:
        process = flow.begin(out)
    compare(out, flow.state, flow.finish(process, out), reference, tally)


def compare(out: Path, state: Path, problem: str, reference: Reference, tally: Tally) -> None:
    """Compare a catalog that was run to its end with the undisturbed one."""
    tally.catalogs += 1
    tally.broken += [problem] if problem else []
    tally.invalid += [*problems_of(out), *(f"{name} is not linked" for name in unlinked_of(out))]
    found = Counter(work_ids_of(out))
    tally.lost += [f"{out.name}: {name}" for name in sorted(reference.work_ids - found.keys())]
    tally.duplicated += [f"{out.name}: {name}" for name, count in found.items() if count > 1]
    files = files_of(out)
    names = reference.files.keys() | files.keys()
    tally.different += [f"{out.name}: {n}" for n in sorted(names) if reference.files.get(n) != files.get(n)]
    tally.unsettled += [f"{out.name}: {name}" for name in unsettled_of(out, state)]
    tally.leftovers += leftovers_of(out, state)
    tally.kept({})
    # Blocks belong to work, not to a catalog: the next one must not find any.
    shutil.rmtree(state / "blocks", ignore_errors=True)


def torment_command(flow: Flow, out: Path, reference: Reference, draw: random.Random, tally: Tally) -> None:
    """Kill `unveil run` once, its own Prefect server included, and continue with the same command."""
    home, given = flow.work / "home", ("run", "--bbox", TINY_BBOX, "--out", out, "--state-dir", flow.state, "--json")
    process = start(*given, home=home, extra=_SETTINGS)
    with contextlib.suppress(Exception):
        process.wait(draw.uniform(0, 3 * reference.seconds))
    if process.poll() is None:
        kill_group(process.pid)
        tally.killed("anywhere in `unveil run`")
    process.communicate(timeout=_TIMEOUT_S)
    tally.invalid += problems_of(out)
    tally.kept(blocks_of(flow.state))
    again = start(*given, home=home, extra=_SETTINGS)
    _, errors = again.communicate(timeout=_TIMEOUT_S)
    compare(out, flow.state, f"{out.name}: {errors.strip()}" if again.returncode else "", reference, tally)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is killed, and how."""

    kills: int
    seed: int
    #: Share of catalogs that are run by `unveil run`.
    command_share: float
    #: No catalog is begun later, `time.monotonic()`.
    until: float
    #: Runs of the flow of mosaics, not of the main flow.
    mosaic: bool


def run_kills(work: Path, bounds: Bounds, on_catalog: Callable[[Tally], None]) -> Tally:
    """Kill `bounds.kills` times in all, some of them through the command, as long as there is time."""
    tally, draw = Tally(), random.Random(bounds.seed)  # noqa: S311 - moments, not secrets
    with flow_of(bounds.mosaic, work) as flow:
        reference = undisturbed(flow, tally)
        while tally.kills < bounds.kills and time.monotonic() < bounds.until:
            out = work / f"catalog-{tally.catalogs}"
            if draw.random() < bounds.command_share:
                torment_command(flow, out, reference, draw, tally)
            else:
                left = min(_KILLS_PER_CATALOG, bounds.kills - tally.kills)
                torment(flow, out, reference, left, draw, tally)
            shutil.rmtree(out, ignore_errors=True)
            on_catalog(tally)
    return tally


def main(
    kills: Annotated[int, typer.Option("--kills", min=1, help="How many in all.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the moments.")] = 0,
    command_share: Annotated[float, typer.Option(min=0, max=1, help="Share of catalogs run by `unveil run`.")] = 0.05,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no catalog later than that.")] = 60,
    mosaic: Annotated[bool, typer.Option("--mosaic", help="Kill runs of the flow of mosaics.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of kills.json and kills.md; series add up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Kill runs of the sample at random moments and compare what they published with an undisturbed run."""
    began = time.monotonic()
    share = 0.0 if mosaic else command_share
    bounds = Bounds(kills, seed, share, began + 60 * minutes, mosaic)
    bars = Progress(console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory(prefix="unveil-kills-") as folder, bars as bar:
        line = bar.add_task("kills", total=kills)

        def on_catalog(tally: Tally) -> None:
            state = "all well so far" if tally.ok else "something is wrong"
            bar.update(line, completed=tally.kills, description=f"{tally.catalogs} catalogs, {state}")
            if not bar.console.is_terminal:
                bar.console.print(f"{tally.kills} kills, {tally.catalogs} catalogs, {state}")

        tally = run_kills(Path(folder), bounds, on_catalog)
    what = " --mosaic" if mosaic else f" --command-share {share:g}"
    options = f"--kills {kills} --seed {seed}{what} --minutes {minutes:g}"
    command = f"python -m tests.chaos.kill_runs {options}"
    series = series_of(tally, command, kills, time.monotonic() - began)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        add_series(out, series)
    if as_json:
        sys.stdout.write(json.dumps(tally.document, indent=2) + "\n")
    elif out is None:
        sys.stdout.write(page_of([series]))
    raise SystemExit(0 if tally.ok else 1)


if __name__ == "__main__":
    typer.run(main)
