"""What one retraining on the user's own area brings: `python -m benchmarks.retraining --out docs/results`.

The weights are trained on, as the flow `retrain` does it, with the earlier dates of a square that they never saw, and
judged before and after on its last date, which neither saw.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.held_out import KindScore, measure
from benchmarks.report import Page, parser, publish, table
from de_model import checkpoint
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.errors import InvalidModelInput
from de_model.metrics.bootstrap import difference_interval
from de_model.validation import Filler, PixelKind
from flows.models.training import train_model
from flows.models.training_places import scenes_of_stacks
from flows.models.training_request import TrainingRequest
from flows.planning.search import SceneSet
from flows.progress import report_progress
from flows.settings import Device

_SQUARE = "MGRS-33TWL"
#: Dates that are trained on; the last of all is judged.
_EARLIER, _ALL = "2023-08-10/2023-08-18", "2023-08-10/2023-08-20"
_ABOUT = f"""\
The shipped weights, which never saw {_SQUARE}, were trained on with its four dates of {_EARLIER}. Before and after,
clouds and gaps of these dates were laid on the date of 2023-08-20, which neither saw: its own ground is the truth.
Gain: PSNR after minus before, paired by case; 95 % interval, bootstrap over cases."""


def main(options: argparse.Namespace) -> None:
    """Judge, retrain, judge again, and publish."""
    torch.set_num_threads(1)
    scenes = list(scenes_of_stacks(SceneSet(cells=(_SQUARE,), datetime=_ALL)))
    judged = frozenset(scene.info.name for scene in scenes if scene.info.day == max(s.info.day for s in scenes))
    with tempfile.TemporaryDirectory() as folder:
        work, after = Path(folder), Path(folder) / "after.safetensors"
        write_archive(work / "judged", scenes)
        scenes = read_archive(work / "judged")
        train_model(
            TrainingRequest(
                cells=(_SQUARE,),
                datetime=_EARLIER,
                out=after,
                work=work / "training",
                start=options.weights,
                effort=options.effort,
                device=Device.CPU,
            ),
            report_progress,
        )
        scores = {
            when: _scores(weights, scenes, judged, options.cases)
            for when, weights in (("before", options.weights), ("after", after))
        }
    record = {when: [{"kind": s.kind, "de": s.fillers[Filler.DE].psnr_db} for s in own] for when, own in scores.items()}
    publish("retraining", Page("One retraining on one's own area", (_ABOUT, _table(scores)), record), options)


def _scores(weights: Path, scenes: Sequence[Scene], judged: frozenset[str], cases: int) -> list[KindScore]:
    enhancer = checkpoint.load(weights)
    if enhancer.scene is None or enhancer.card.scene is None:
        raise InvalidModelInput(f"{weights} is of the first edition; give weights of the second.")
    return measure(enhancer.scene, enhancer.card.scene, enhancer.card.eta, scenes, cases, shown=judged)


def _table(scores: Mapping[str, Sequence[KindScore]]) -> str:
    rows = []
    for kind in PixelKind:
        before, after = ([score.fillers[Filler.DE] for score in own if score.kind is kind] for own in scores.values())
        if len(before) < 2:
            continue
        gain = difference_interval([f.psnr_db for f in after], [f.psnr_db for f in before])
        cells = [
            f"{np.mean([f.mae for f in own]):.4f} / {np.mean([f.psnr_db for f in own]):.2f}" for own in (before, after)
        ]
        rows.append((kind, len(before), *cells, f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"))
    return table(("pixels", "cases", "before (MAE / PSNR)", "after", "gain, dB"), rows)


def _options() -> argparse.Namespace:
    found = parser("retraining", "Before and after one retraining on the user's own area.")
    found.add_argument(
        "--weights", type=Path, default=checkpoint.shipped_weights(), help="weights of the second edition"
    )
    found.add_argument("--effort", type=float, default=0.1, help="of the retraining")
    found.add_argument("--cases", type=int, default=12, help="of each kind of cover")
    return found.parse_args()


if __name__ == "__main__":
    main(_options())
