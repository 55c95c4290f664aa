"""Progress of a training: a bar per stage with losses, images per second and the time left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from de_model.training.stages import Stage
from de_model.training.trainer import Observer, Progress
from flows.cli.console import errors


def terms(values: Mapping[str, float]) -> str:
    """Return named numbers as a person reads them."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


class StageBars(Observer):
    """Draws the progress of a training."""

    def __init__(self, bars: Bars) -> None:
        self.bars, self.score = bars, ""
        self.lines: dict[Stage, TaskID] = {}

    def on_step(self, progress: Progress) -> None:
        """Move the bar of the stage."""
        stage, done = progress.stage, progress.step - 1
        if stage not in self.lines:
            self.score = ""
            self.lines[stage] = self.bars.add_task(stage, total=progress.steps, completed=done, detail="")
        skipped = f", {progress.skipped} skipped" if progress.skipped else ""
        detail = f"{terms(progress.losses)}, {progress.images_per_s:.1f} images/s{skipped}{self.score}"
        self.bars.update(self.lines[stage], completed=progress.step, detail=detail)

    def on_validation(self, stage: Stage, step: int, scores: dict[str, float]) -> None:
        """Show the latest score behind the losses."""
        self.score = f", {scores['psnr']:.2f} dB after {stage} {step}"


@contextmanager
def stage_bars() -> Iterator[StageBars]:
    """Show the bars on stderr while the context is open; yields its observer."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Bars(*columns, console=errors) as bars:
        yield StageBars(bars)
