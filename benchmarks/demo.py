"""Time and memory of a first and a second `unveil demo` (some minutes)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measuring import Measurement, run_unveil
from benchmarks.report import Page, parser, publish, table

_ABOUT = (
    "Memory is the largest sum of resident memory over the command and all it started, its Prefect server included "
    "(shared pages are counted in every process)."
)


def measure() -> list[Measurement]:
    """Run the demo twice in a fresh folder: once for real, once to find its work done."""
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        arguments = ["demo", "--out", str(Path(folder) / "out"), "--json"]
        return [run_unveil("first run", arguments), run_unveil("second run", arguments)]


def page_of(runs: Sequence[Measurement]) -> Page:
    """Return the results page, a row per run."""
    rows = [(run.name, f"{run.seconds:.1f}", f"{run.peak_bytes / 2**30:.2f}") for run in runs]
    found = table(("`unveil demo`", "seconds", "peak memory, GiB"), rows)
    return Page("The demo, measured", (_ABOUT, found), [asdict(run) for run in runs])


if __name__ == "__main__":
    publish("demo", page_of(measure()), parser("demo", __doc__).parse_args())
