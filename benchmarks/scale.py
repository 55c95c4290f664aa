"""What a second worker brings: the same units of the sample, from search to catalog, by one and two Dask workers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.measuring import run_unveil
from benchmarks.report import Page, goal, parser, publish, table
from flows.cli.console import progress_bar
from flows.ledger.schema import Entry
from flows.ledger.store import open_ledger
from flows.progress import report_progress
from flows.settings.loading import load_settings
from stac.search.static import sample_catalog

#: Parts of the sample that take some seconds each, in more steps than by default: real units take minutes, beside
#: which publishing and its server count for little. Every worker computes with one thread.
_SETTINGS = """\
datetime: 2023-08-18
grid: fixed
resolution: 120
cell_size: 256
min_coverage: 25
worker_threads: 1
steps: 4
"""
#: Stages of a unit in which it is read or computed, as its metadata names them; what is read meanwhile, and the model,
#: a part of `restore`, are no stages.
_BUSY, _ELSEWHERE = ("prepare", "waited", "restore"), ("read", "model")
#: Times faster that two workers are asked to be on two cores.
_GOAL = 1.7


@dataclass(frozen=True, slots=True)
class ScaleRun:
    """One run of all units."""

    workers: int
    units: int
    #: From the first claim to the last product in the catalog, seconds.
    seconds: float
    #: The whole command: server, search, cluster, reports.
    command_seconds: float
    #: Reading and computing, and all other stages of the units, summed over units, seconds.
    busy_seconds: float
    other_seconds: float
    peak_bytes: int

    @property
    def efficiency(self) -> float:
        """Share of the workers' time in which they read or compute."""
        return self.busy_seconds / (self.workers * self.seconds)


@dataclass(frozen=True, slots=True)
class ScaleMeasurement:
    """All runs, and how busy the machine was before them."""

    runs: tuple[ScaleRun, ...]
    #: Processes that wanted a processor over the minute before.
    load: float
    #: All rasters of all runs are the same, byte by byte.
    same_bytes: bool

    @property
    def gain(self) -> float:
        """How many times faster the last run is than the first."""
        return self.runs[0].seconds / self.runs[-1].seconds

    @property
    def command_gain(self) -> float:
        """The same, of the whole command."""
        return self.runs[0].command_seconds / self.runs[-1].command_seconds


def measure(workers: Sequence[int] = (1, 2)) -> ScaleMeasurement:
    """Run the same units with so many Dask workers, one run after the other.

    Raises:
        WorkFailed: a run failed.
    """
    load = psutil.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as name:
        folder = Path(name)
        config = folder / "config.yaml"
        config.write_text(_SETTINGS, "utf-8")
        runs = tuple(_run(folder / f"{number}-workers", config, number) for number in workers)
        made = [{p.relative_to(out): p.read_bytes() for p in out.glob("[!.]*/*/*.tif")} for out in folder.glob("*-w*")]
    return ScaleMeasurement(runs, load, all(each == made[0] for each in made))


def _run(out: Path, config: Path, workers: int) -> ScaleRun:
    report_progress(f"{workers} Dask workers")
    # From its folder: a server of the sample would take part of the cores.
    given = ["--config", str(config), "--source", str(sample_catalog()), "--out", str(out), "--json"]
    measured = run_unveil(out.name, ["run", *given, "--runner", "dask", "--workers", str(workers)])
    with closing(open_ledger(load_settings(config, {"out": out}))) as ledger:
        entries = ledger.page(1000).entries
    stages = [json.loads(path.read_text("utf-8"))["seconds"] for path in out.glob("[!.]*/*/metadata.json")]
    busy = sum(stage[name] for stage in stages for name in _BUSY)
    return ScaleRun(
        workers=workers,
        units=len(entries),
        seconds=_span(entries),
        command_seconds=measured.seconds,
        busy_seconds=busy,
        other_seconds=sum(sum(stage.values()) - sum(stage[n] for n in _ELSEWHERE) for stage in stages) - busy,
        peak_bytes=measured.peak_bytes,
    )


def _span(entries: Sequence[Entry]) -> float:
    """Return the seconds from the first unit's begin to the last one's end."""
    ends = [datetime.fromisoformat(entry.updated).timestamp() for entry in entries]
    return max(ends) - min(end - entry.seconds for end, entry in zip(ends, entries, strict=True))


def page_of(measured: ScaleMeasurement) -> Page:
    """Return the results page, a row per run."""
    first, last = measured.runs[0], measured.runs[-1]
    about = (
        f"In the minute before, {measured.load:.1f} processes of other work wanted a processor. {first.units} parts of "
        "the sample (18 August 2023, fixed cells of 256 px at 120 m) in four steps from noise, from reading to "
        "catalog. Workers are processes of a local Dask cluster with one thread for computing each; the run itself, "
        "which publishes, and its Prefect server share the cores with them. Time goes from the first claim in the "
        "ledger to the last product in the catalog; the whole command also starts server and cluster, and searches."
    )
    rows = [
        (
            run.workers,
            f"{run.seconds:.1f}",
            f"{run.command_seconds:.1f}",
            f"{60 * run.units / run.seconds:.1f}",
            f"{run.efficiency:.2f}",
            f"{run.peak_bytes / 2**30:.2f}",
        )
        for run in measured.runs
    ]
    head = (
        "Dask workers", "seconds", "whole command, s", "units/min", "reading and computing / workers' time", "peak, GiB"
    )  # fmt: skip
    same = "the same, byte by byte" if measured.same_bytes else "NOT the same"
    verdict = (
        f"{last.workers} workers are {measured.gain:.2f} times as fast as {first.workers} (goal for two on two cores: "
        f"{goal(f'{_GOAL}', measured.gain >= _GOAL)}), the whole command {measured.command_gain:.2f} times. The "
        f"rasters of all runs are {same}."
    )
    more = {"gain": measured.gain, "command_gain": measured.command_gain}
    record = asdict(measured) | more | {"efficiency": [run.efficiency for run in measured.runs]}
    return Page("More workers, measured", (about, table(head, rows), verdict), record)


if __name__ == "__main__":
    chosen = parser("scale", __doc__).parse_args()
    with progress_bar():
        found = measure()
    publish("scale", page_of(found), chosen)
