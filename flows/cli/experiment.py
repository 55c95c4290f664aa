"""The command that runs experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar

if TYPE_CHECKING:
    from flows.experiments.page import Written
    from flows.experiments.setting import Experiment, Findings

_TRAINING = "What is trained"


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which one; see --list.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for page, table and picture.")] = Path("experiments"),
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights that are judged; the shipped ones.")
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Hold-out windows that are restored.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of noise, patches and initial weights.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of each stage.", rich_help_panel=_TRAINING)] = 300,
    preset: Annotated[str, typer.Option("--preset", help="tiny, small or paper.", rich_help_panel=_TRAINING)] = "tiny",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of RICE, CUHK-CR, SEN12MS-CR or pairs, for cross-data."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Say which experiments there are, and stop.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Ask one question of the model on ground it never saw; write NAME.md, NAME.csv and NAME.png.

    The sample's cell MGRS-33TWM is trained on, MGRS-33TWL is judged; the clear date that is compared with is withheld
    from every input. Experiments that train take minutes with the defaults and show tendencies; raise --steps and
    --preset for more.

    Examples:

        unveil experiment --list

        unveil experiment samplers --out docs/results/experiments
    """
    from flows.experiments.registry import EXPERIMENTS, experiment_named

    if show or name is None:
        _list(list(EXPERIMENTS.values()), as_json)
        return
    from de_model import checkpoint
    from flows.experiments.page import write
    from flows.experiments.setting import Setting
    from flows.models.training_request import preset_for

    chosen = experiment_named(name)
    setting = Setting(
        weights or checkpoint.shipped_weights(),
        seed=seed,
        windows=windows,
        steps=steps,
        preset=preset_for(preset, None),
        data=data,
    )
    with progress_bar():
        findings = chosen.run(setting)
    _tell(findings, write(chosen, setting, findings, _command(), out), as_json)


def _command() -> str:
    """Return the command as it was given."""
    import shlex
    import sys

    return shlex.join(["unveil", *sys.argv[1:]])


def _list(experiments: list[Experiment], as_json: bool) -> None:
    if as_json:
        print_json([{"name": e.name, "question": e.question, "trains": e.trains} for e in experiments])
        return
    for each in experiments:
        output.print(f"{each.name:<20} {each.question}{' (trains)' if each.trains else ''}", markup=False)


def _tell(findings: Findings, written: Written, as_json: bool) -> None:
    if as_json:
        files = {"page": str(written.page), "table": str(written.table), "picture": str(written.picture)}
        print_json({"files": files, "rows": findings.table.records(), "seen": findings.seen})
        return
    output.print(findings.seen, markup=False)
    output.print(f"{written.page} written, with {written.table.name} and {written.picture.name}.", markup=False)
