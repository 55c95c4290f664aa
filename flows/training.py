"""Training on a catalog: mine cloudy/clear pairs from its scenes, run the stages, keep what is finished."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.data.pairs import ScenePair, fingerprint
from de_model.enhancer import Enhancer
from de_model.errors import TrainingFailed
from de_model.presets import Preset
from de_model.training.stages import Stage, schedule_for
from de_model.training.trainer import OnStep, train
from flows.errors import InvalidSettings
from flows.stacks import SceneSet, stacks_of
from stac.harmonisation import harmonisation_fits
from stac.masks.classes import PixelClass, is_obscured, is_observed
from stac.stack import Stack

#: A date is cloudy when this share of its valid pixels is hidden, and clear when this share is seen.
_CLOUDY_SHARE, _CLEAR_SHARE = (0.15, 0.95), 0.85


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train on what."""

    #: The scenes to train on; keep cells back for validation.
    scenes: SceneSet
    preset: Preset
    #: Factor on the preset's number of steps.
    effort: float
    seed: int
    out: Path
    #: Folder with the weights after each finished stage; training continues from it.
    work: Path


def pairs_of(stack: Stack) -> list[ScenePair]:
    """Return every pair of a cloudy and a clear date of a stack, the clear one matched to the cloudy one."""
    valid = [classes != PixelClass.NODATA for classes in stack.classes]
    hidden = [is_obscured(c)[v].mean() if v.any() else 0.0 for c, v in zip(stack.classes, valid, strict=True)]
    cloudy = [i for i, share in enumerate(hidden) if _CLOUDY_SHARE[0] <= share <= _CLOUDY_SHARE[1]]
    clear = [i for i, share in enumerate(hidden) if valid[i].any() and share <= 1 - _CLEAR_SHARE]
    return [_pair(stack, c, k) for c in cloudy for k in clear]


def _pair(stack: Stack, cloudy: int, clear: int) -> ScenePair:
    fits = harmonisation_fits(stack, cloudy, clear)
    slope, intercept = (
        np.array([getattr(f, name) for f in fits], np.float32)[:, None, None] for name in ("slope", "intercept")
    )
    has_data = stack.classes[cloudy] != PixelClass.NODATA
    return ScenePair(
        name=f"{stack.item_ids[cloudy]} <- {stack.item_ids[clear]}",
        cloudy=stack.reflectance(cloudy),
        clear=slope * stack.reflectance(clear) + intercept,
        valid=has_data & is_observed(stack.classes[clear]),
        obscured=is_obscured(stack.classes[cloudy]),
    )


def train_model(request: TrainingRequest, on_step: OnStep, log: Callable[[str], None]) -> ModelCard:
    """Train a model and write it to `request.out`; continue after the last finished stage in `request.work`.

    Raises:
        TrainingFailed: no pairs were found, or the loss is not finite.
    """
    stacks = list(stacks_of(request.scenes))
    pairs = [pair for stack in stacks for pair in pairs_of(stack)]
    if not pairs:
        raise TrainingFailed(
            f"Cells {request.scenes.cells} hold no pair of a cloudy and a clear date; widen --datetime."
        )
    log(f"{len(pairs)} pairs: " + "; ".join(pair.name for pair in pairs))
    stages = schedule_for(request.preset, request.effort)
    card = _card(request, pairs, abs(float(stacks[0].cell.geobox.resolution.x)), [asdict(stage) for stage in stages])
    request.work.mkdir(parents=True, exist_ok=True)
    enhancer, finished = _start(request, card, log)

    def keep(stage: Stage) -> None:
        checkpoint.save(enhancer, request.work / f"{stage}.safetensors")

    remaining = [stage for stage in stages if stage.stage not in finished]
    train(enhancer, pairs, remaining, seed=request.seed, on_step=on_step, on_stage_end=keep)
    checkpoint.save(enhancer, request.out)
    return card


def _card(
    request: TrainingRequest, pairs: Sequence[ScenePair], gsd_m: float, stages: list[dict[str, object]]
) -> ModelCard:
    scenes = request.scenes
    return ModelCard(
        preset=request.preset,
        bands=scenes.bands,
        gsd_m=gsd_m,
        trained_on=f"{scenes.collection} {scenes.interval}, cells {', '.join(scenes.cells)}",
        data_fingerprint=fingerprint(pairs),
        revision=_revision(),
        training=json.dumps({"seed": request.seed, "effort": request.effort, "stages": stages}),
    )


def _start(request: TrainingRequest, card: ModelCard, log: Callable[[str], None]) -> tuple[Enhancer, set[Stage]]:
    """Return the model of the last finished stage of the same training, or a fresh one."""
    finished: set[Stage] = set()
    torch.manual_seed(request.seed)
    enhancer = Enhancer(card).channels_last()
    for stage in Stage:
        path = request.work / f"{stage}.safetensors"
        if not path.is_file():
            break
        kept = checkpoint.read_card(path)
        if (kept.data_fingerprint, kept.training) != (card.data_fingerprint, card.training):
            raise InvalidSettings(f"{path} belongs to another training; choose another --work folder or empty it.")
        enhancer.load_state_dict(checkpoint.load(path).state_dict())
        finished.add(stage)
        log(f"stage {stage} was finished before")
    return enhancer, finished


def _revision() -> str:
    """Return the version-control revision of this code, or `unknown` outside a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
