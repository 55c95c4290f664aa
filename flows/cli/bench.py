"""Commands that measure what Unveil costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar

app = typer.Typer(
    help="""Measure what Unveil costs. Each measurement makes the page of its name in docs/results.

    Example:

        unveil bench engine --out docs/results
    """,
    no_args_is_help=True,
)
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the results page; printed when left out.")]


@app.command()
def demo(out: Out = None, as_json: o.AsJson = False) -> None:
    """Time and memory of a first and a second `unveil demo` (some minutes)."""
    from flows.bench.demo import as_markdown, bench_demo

    with progress_bar():
        measurements = bench_demo()
    _finish("demo", as_markdown(measurements), [asdict(m) for m in measurements], out, as_json)


@app.command()
def model(out: Out = None, as_json: o.AsJson = False) -> None:
    """The presets small and paper on the CPU, and on the GPU where there is one, against matrix products."""
    from flows.bench.model import as_markdown, as_record, bench_model

    with progress_bar():
        measured = bench_model()
    _finish("model", as_markdown(measured), as_record(measured), out, as_json, keep=True)


@app.command()
def steps(out: Out = None, as_json: o.AsJson = False) -> None:
    """One step of the paper's networks in every way that the engine can make it."""
    from flows.bench.steps import as_markdown, as_record, bench_steps

    with progress_bar():
        found = bench_steps()
    page = as_markdown(found, "unveil bench steps --out docs/results")
    _finish("steps", page, as_record(found), out, as_json, keep=True)


@app.command()
def engine(out: Out = None, as_json: o.AsJson = False) -> None:
    """The shipped model on the sample's clouds: speed against quality for every option, tiles, time against clouds.

    On the GPU where there is one, else some minutes on a CPU. Settings in the environment are the default that is
    measured, e.g. UNVEIL_PRECISION=bf16.
    """
    from flows.bench.engine import bench_engine
    from flows.bench.engine_page import as_markdown, as_record, plot
    from flows.loading import load_settings

    alone = load_settings(None, {"prior": "none"}).restoration.sampling
    with progress_bar():
        found = bench_engine(load_settings().restoration, alone)
    page = as_markdown(found, "unveil bench engine --out docs/results")
    _finish("engine", page, as_record(found), out, as_json, keep=True, picture=plot(found))


@app.command()
def canvas(
    sides: Annotated[
        list[int] | None,
        typer.Option(
            "--side", min=64, help="Rows and columns, pixels; several times. 512 on a CPU, 4096 and 10980 on a GPU."
        ),
    ] = None,
    out: Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Scenes that are cloudy everywhere, restored by the model alone: seconds, megapixels/s, memory of the GPU.

    Settings in the environment are what is measured, e.g. UNVEIL_PRECISION=bf16 UNVEIL_COMPILED=true on a GPU.
    """
    from flows.bench.canvas import as_markdown, as_record, bench_canvas
    from flows.loading import load_settings

    alone = load_settings(None, {"prior": "none"}).restoration.sampling
    with progress_bar():
        found = bench_canvas(alone, sides or ())
    page = as_markdown(found, "unveil bench canvas --out docs/results")
    _finish("canvas", page, as_record(found), out, as_json)


@app.command()
def unit(
    size: Annotated[int, typer.Option("--size", min=1024, help="Rows and columns of the unit, pixels.")] = 10980,
    model_size: Annotated[
        int, typer.Option("--model-size", min=256, help="The same of the unit that the model restores alone.")
    ] = 1024,
    out: Out = None,
    as_json: o.AsJson = False,
) -> None:
    """A whole Sentinel-2 tile of five dates, made of the sample, from search to catalog, against a plain read of it.

    It needs about 15 GB of disk in the temporary folder and some ten minutes on two cores.
    """
    from flows.bench.unit import as_markdown, bench_unit

    with progress_bar():
        measured = bench_unit(size, model_size)
    record = asdict(measured) | {"read_ratio": measured.read_ratio, "efficiency": measured.pipeline.efficiency}
    _finish("unit", as_markdown(measured), record, out, as_json)


@app.command()
def drift(out: Out = None, as_json: o.AsJson = False) -> None:
    """Which changes of the input raise an alarm, on the sample."""
    from flows.bench.drift import as_markdown, as_records, bench_drift
    from flows.loading import load_settings

    with progress_bar():
        rows = bench_drift(load_settings().drift_limits)
    page = as_markdown(rows, "unveil bench drift --out docs/results")
    _finish("drift", page, as_records(rows), out, as_json)


@app.command()
def ledger(
    units: Annotated[int, typer.Option("--units", min=10, help="Units that are planned and carried through.")] = 20_000,
    server: Annotated[
        str | None,
        typer.Option("--ledger", help="PostgreSQL to measure, a database nobody uses; a private one when left out."),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", min=100, help="Most lines of a ledger that is measured.")
    ] = 1_000_000,
    lives: Annotated[int, typer.Option("--lives", min=10, help="Units that live in each ledger.")] = 10_000,
    out: Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Units from plan to end, and the whole life of units in ledgers of up to a million lines.

    A unit takes some milliseconds: `--units 1000000` an hour.
    """
    from flows.bench.ledger import SIZES, as_markdown, bench_ledger

    with progress_bar():
        measured = bench_ledger(units, sorted({min(size, lines) for size in SIZES}), lives, server)
    command = f"unveil bench ledger --units {units} --lines {lines} --lives {lives} --out docs/results"
    _finish("ledger", as_markdown(measured, command), asdict(measured), out, as_json)


@app.command()
def scale(out: Out = None, as_json: o.AsJson = False) -> None:
    """One Dask worker against two, on parts of the sample, from reading to catalog."""
    from flows.bench.scale import as_markdown, as_record, bench_scale

    with progress_bar():
        measured = bench_scale()
    _finish("scale", as_markdown(measured), as_record(measured), out, as_json)


@app.command("global")
def global_run(out: Out = None, as_json: o.AsJson = False) -> None:
    """No measurement, but what a run over all land would take, from figures of the others and assumptions."""
    from flows.bench.global_run import Assumed, as_markdown, demand_of, measured_in

    measured, assumed = measured_in(out or Path("docs/results")), Assumed()
    _finish("global", as_markdown(measured, assumed), asdict(demand_of(measured, assumed)), out, as_json)


@app.command()
def revisions(
    kind: Annotated[str, typer.Argument(help="What is measured of both: engine, steps, model, demo, ledger ...")],
    before: Annotated[str, typer.Argument(help="A commit, tag or branch; . for the files as they lie here.")],
    after: Annotated[str, typer.Argument(help="Likewise.")] = ".",
    turns: Annotated[int, typer.Option("--turns", min=1, max=100, help="Measurements of each.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Of one measurement, seconds.")] = 3600,
    out: Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Two revisions of this software, measured in turns with the installed packages; in a clone of the repository.

    Example:

        unveil bench revisions engine main~20 main --turns 3
    """
    from flows.bench.revisions import as_markdown, as_record, bench_revisions

    with progress_bar():
        found = bench_revisions(kind, before, after, turns, timeout_s)
    page = as_markdown(found, f"unveil bench revisions {kind} {before} {after} --turns {turns}")
    _finish(f"revisions-{kind}", page, as_record(found), out, as_json)


def _finish(
    name: str,
    page: str,
    record: Any,
    out: Path | None,
    as_json: bool,
    *,
    keep: bool = False,
    picture: bytes | None = None,
) -> None:
    """Write the page, and beside it the record (`keep`) and the picture; print what was asked for."""
    if out is not None:
        _write(out / f"{name}.md", page.encode())
        if keep:
            _write(out / f"{name}.json", f"{json.dumps(record, indent=2)}\n".encode())
        if picture is not None:
            _write(out / f"{name}.png", picture)
    if as_json:
        print_json(record)
    elif out is None:
        output.print(page, markup=False)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    output.print(f"{path} written.", markup=False)
