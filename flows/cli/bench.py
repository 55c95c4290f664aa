"""The command that measures what Unveil costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar


@unique
class BenchKind(StrEnum):
    """What can be measured."""

    DEMO = "demo"
    MODEL = "model"
    STEPS = "steps"
    ENGINE = "engine"
    UNIT = "unit"
    DRIFT = "drift"
    LEDGER = "ledger"
    SCALE = "scale"
    GLOBAL = "global"


def bench(
    what: Annotated[
        BenchKind, typer.Argument(help="demo, model, steps, engine, unit, drift, ledger, scale or global.")
    ] = BenchKind.DEMO,
    size: Annotated[int, typer.Option("--size", min=1024, help="Rows and columns of the unit, pixels.")] = 10980,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the results page; printed when left out.")
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option("--ledger", help="PostgreSQL to measure, a database nobody uses; a private one when left out."),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", min=100, help="Most lines of a ledger that is measured.")
    ] = 1_000_000,
    lives: Annotated[int, typer.Option("--lives", min=10, help="Units that live in each ledger.")] = 10_000,
    as_json: o.AsJson = False,
) -> None:
    """Measure what Unveil costs: the demo, the model, the engine, one large work unit, the ledger, or more workers.

    `demo`: time and memory of a first and a second `unveil demo`. `model`: the presets small and paper on the CPU, and
    on the GPU where there is one, against the fastest matrix product of the same run. `steps`: one step of the paper's
    networks in every way that the engine can make it. `engine`: the shipped model on the sample's clouds, speed against
    quality for every option, tiles against none, time against clouds; like `steps` on the GPU where there is one, else
    some minutes on a CPU. `unit`: a whole Sentinel-2 tile of five dates, made of the sample, from search to catalog,
    against a plain read of the same pixels; it needs about 15 GB of disk in the temporary folder and some ten minutes
    on two cores. `drift`: which changes of the input raise an alarm, on the sample. `ledger`: planning thousands
    of units, and the whole life of units in ledgers of up to a million lines. `scale`: one Dask worker against two, on
    parts of the sample from reading to catalog. `global`: no measurement, but what a run over all land would take, from
    figures of the others and assumptions.

    Examples (made the pages of these names in docs/results):

        unveil bench demo --out docs/results

        unveil bench model --out docs/results

        unveil bench steps --out docs/results

        unveil bench engine --out docs/results

        unveil bench unit --out docs/results

        unveil bench drift --out docs/results

        unveil bench ledger --out docs/results

        unveil bench scale --out docs/results

        unveil bench global --out docs/results
    """
    measure: Mapping[BenchKind, Callable[[], tuple[Any, ...]]] = {
        BenchKind.DEMO: _demo,
        BenchKind.MODEL: _model,
        BenchKind.STEPS: _steps,
        BenchKind.ENGINE: _engine,
        BenchKind.UNIT: lambda: _unit(size),
        BenchKind.DRIFT: _drift,
        BenchKind.LEDGER: lambda: _ledger(lines, lives, ledger),
        BenchKind.SCALE: _scale,
        BenchKind.GLOBAL: lambda: _global(out or Path("docs/results")),
    }
    with progress_bar():
        page, record, *picture = measure[what]()
    if out is not None:
        _write(out / f"{what}.md", page.encode())
        if what in (BenchKind.MODEL, BenchKind.STEPS, BenchKind.ENGINE):
            _write(out / f"{what}.json", f"{json.dumps(record, indent=2)}\n".encode())
        for content in picture:
            _write(out / f"{what}.png", content)
    if as_json:
        print_json(record)
    elif out is None:
        output.print(page, markup=False)


def _demo() -> tuple[str, Any]:
    from flows.bench.demo import as_markdown, bench_demo

    measurements = bench_demo()
    return as_markdown(measurements), [asdict(m) for m in measurements]


def _drift() -> tuple[str, Any]:
    from flows.bench.drift import as_markdown, as_records, bench_drift
    from flows.loading import load_settings

    rows = bench_drift(load_settings().drift_limits)
    return as_markdown(rows, "unveil bench drift --out docs/results"), as_records(rows)


def _model() -> tuple[str, Any]:
    from flows.bench.model import as_markdown, as_record, bench_model

    measured = bench_model()
    return as_markdown(measured), as_record(measured)


def _steps() -> tuple[str, Any]:
    from flows.bench.steps import as_markdown, as_record, bench_steps

    found = bench_steps()
    return as_markdown(found, "unveil bench steps --out docs/results"), as_record(found)


def _engine() -> tuple[str, Any, bytes]:
    from flows.bench.engine import bench_engine
    from flows.bench.engine_page import as_markdown, as_record, plot
    from flows.loading import load_settings

    alone = load_settings(None, {"prior": "none"}).restoration.sampling
    found = bench_engine(load_settings().restoration, alone)
    return as_markdown(found, "unveil bench engine --out docs/results"), as_record(found), plot(found)


def _unit(size: int) -> tuple[str, Any]:
    from flows.bench.unit import as_markdown, bench_unit

    measured = bench_unit(size)
    return as_markdown(measured), asdict(measured) | {"read_ratio": measured.read_ratio}


def _ledger(lines: int, lives: int, server: str | None) -> tuple[str, Any]:
    from flows.bench.ledger import SIZES, as_markdown, bench_ledger

    measured = bench_ledger(sizes=tuple(sorted({min(size, lines) for size in SIZES})), lives=lives, server=server)
    given = f"--lines {lines} --lives {lives} --out docs/results"
    return as_markdown(measured, f"unveil bench ledger {given}"), asdict(measured)


def _scale() -> tuple[str, Any]:
    from flows.bench.scale import as_markdown, as_record, bench_scale

    measured = bench_scale()
    return as_markdown(measured), as_record(measured)


def _global(results: Path) -> tuple[str, Any]:
    from flows.bench.global_run import Assumed, as_markdown, demand_of, measured_in

    measured, assumed = measured_in(results), Assumed()
    return as_markdown(measured, assumed), asdict(demand_of(measured, assumed))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    output.print(f"{path} written.", markup=False)
