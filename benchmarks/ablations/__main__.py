"""Ask one question of the model on ground it never saw; write NAME.md, NAME.csv and NAME.png.

The sample's cell MGRS-33TWM is trained on, MGRS-33TWL is judged; the clear date that is compared with is withheld from
every input. What trains takes minutes with the defaults and shows tendencies; raise --steps and --preset for more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablations import (
    coarse_to_fine,
    cross_data,
    eta_sweep,
    fields,
    fixed_weights,
    no_reference,
    reference_quality,
    resolution_transfer,
)
from benchmarks.ablations.setting import SHIPPED_PLACES, Findings, Setting
from benchmarks.chart import draw
from benchmarks.report import Page, command_of
from de_model import checkpoint
from de_model.presets import Preset
from flows.cli.console import progress_bar


@dataclass(frozen=True, slots=True)
class Ablation:
    """One question and what answers it."""

    question: str
    run: Callable[[Setting], Findings]
    #: Whether models of the setting's preset are trained, and whether `Setting.weights` are judged.
    trains: bool = False
    judges: bool = True


ABLATIONS = {
    "no-reference": Ablation(
        "What does the diffusion make of a cloud when no reference steers it?", no_reference.run, trains=True
    ),
    "fixed-weights": Ablation("Is a learnt W per band and pixel better than one W for all?", fixed_weights.run),
    "coarse-to-fine": Ablation(
        "Does it pay to train on thinned imagery first?", coarse_to_fine.run, trains=True, judges=False
    ),
    "eta-sweep": Ablation(
        "How much of the reference must be kept under thin cloud, thick cloud and shadow?", eta_sweep.run
    ),
    "resolution-transfer": Ablation(
        "What does a model of one pixel size do on imagery of another?", resolution_transfer.run
    ),
    "reference-quality": Ablation("Does the weight network notice how good the reference is?", reference_quality.run),
    "cross-data": Ablation(
        "What does a model of one data set do on another?", cross_data.run, trains=True, judges=False
    ),
    "fields": Ablation(
        "What is every field of the second edition's card worth, and diffusion beside a plain U-Net?",
        fields.run,
        judges=False,
    ),
}


def write(name: str, setting: Setting, findings: Findings, folder: Path) -> Path:
    """Write the files of an ablation and return the page."""
    asked = ABLATIONS[name]
    made = [f"seed {setting.seed}"]
    if asked.judges:
        made.append(f"weights {setting.weights.name} (sha256 {checkpoint.sha256_of(setting.weights)[:12]})")
    if asked.trains:
        made.append(f"preset {setting.preset}, {setting.steps} steps a stage, trained by the command itself")
    parts = (
        asked.question,
        f"Made with {'; '.join(made)}. {findings.method}",
        findings.table.markdown(),
        f"![{asked.question}]({name}.png)",
        f"What is seen: {findings.seen}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text(findings.table.csv(), "utf-8")
    (folder / f"{name}.png").write_bytes(draw(findings.panels))
    page = folder / f"{name}.md"
    page.write_text(Page(name, parts, None).markdown(command_of("ablations")), "utf-8")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ablation that the command line names."""
    questions = "\n".join(f"  {name:<20} {each.question}" for name, each in ABLATIONS.items())
    command = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations",
        description=__doc__,
        epilog=questions,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("name", choices=ABLATIONS, metavar="NAME")
    command.add_argument("--out", type=Path, default=Path("ablations"), help="folder for page, table and picture")
    command.add_argument("--weights", type=Path, default=checkpoint.shipped_weights(), help="weights that are judged")
    command.add_argument("--windows", type=int, default=8, help="hold-out windows that are restored")
    command.add_argument("--side", type=int, default=128, help="of a window, pixels")
    command.add_argument("--seed", type=int, default=0, help="of noise, patches and initial weights")
    command.add_argument("--steps", type=int, default=300, help="of each stage that is trained")
    command.add_argument("--preset", type=Preset, default=Preset.TINY, help="of what is trained: tiny, small or paper")
    command.add_argument(
        "--data", type=Path, help="folder of the data set (cross-data) or of the listing's imagery (fields)"
    )
    command.add_argument("--places", type=Path, default=SHIPPED_PLACES, help="listing of places, for fields")
    command.add_argument("--seeds", type=int, default=3, help="trainings of each variant, for fields")
    command.add_argument("--work", type=Path, help="folder that keeps trainings, so that fields goes on after a stop")
    given = command.parse_args(arguments)
    setting = Setting(
        given.weights,
        seed=given.seed,
        windows=given.windows,
        side=given.side,
        steps=given.steps,
        preset=given.preset,
        data=given.data,
        places=given.places,
        seeds=given.seeds,
        work=given.work,
    )
    with progress_bar():
        findings = ABLATIONS[given.name].run(setting)
    page = write(given.name, setting, findings, given.out)
    sys.stdout.write(f"{findings.seen}\n{page} written, with its .csv and .png.\n")


if __name__ == "__main__":
    main()
