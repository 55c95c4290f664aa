"""What an experiment may look at, how much it may spend, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, unique
from pathlib import Path

from de_model.presets import Preset
from flows.experiments.chart import Panel
from flows.experiments.table import Table
from flows.stacks import SceneSet


@unique
class ExperimentName(StrEnum):
    """The experiments by name."""

    NO_REFERENCE = "no-reference"
    FIXED_WEIGHTS = "fixed-weights"
    COARSE_TO_FINE = "coarse-to-fine"
    ETA_SWEEP = "eta-sweep"
    RESOLUTION_TRANSFER = "resolution-transfer"
    REFERENCE_QUALITY = "reference-quality"
    CROSS_DATA = "cross-data"
    SAMPLERS = "samplers"
    GAPS = "gaps"
    STUDENT = "student"


@dataclass(frozen=True, slots=True)
class Setting:
    """What an experiment may look at and how much it may spend; equal settings give equal results."""

    #: Weights that are judged where nothing is trained.
    weights: Path
    seed: int = 0
    #: Hold-out windows, and their side in pixels.
    windows: int = 8
    side: int = 128
    #: Steps of each stage where something is trained, and the size of what is trained.
    steps: int = 300
    preset: Preset = Preset.TINY
    #: Scenes trained on, and scenes of other ground that are judged.
    train: SceneSet = field(default_factory=lambda: SceneSet(("MGRS-33TWM",)))
    hold_out: SceneSet = field(default_factory=lambda: SceneSet(("MGRS-33TWL",)))
    #: Folder of RICE, CUHK-CR, SEN12MS-CR or pairs, for `cross-data`.
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of an experiment."""

    table: Table
    panels: tuple[Panel, ...]
    #: What was looked at and how, for people.
    method: str
    #: What is seen, derived from the table.
    seen: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """One question and what answers it."""

    name: ExperimentName
    #: The question, as one sentence.
    question: str
    #: Whether models of the setting's preset are trained, and whether `Setting.weights` are judged.
    trains: bool
    judges: bool
    run: Callable[[Setting], Findings]
