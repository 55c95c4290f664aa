"""How good a model in training is on a small fixed batch it never learns from, and what its images look like."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.data.pairs import PairData, Patches
from de_model.enhancer import Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.radiometry import from_unit, to_signed, to_unsigned
from de_model.sampling.samplers import Trajectory, ddim
from de_model.training.objective import Batch, Objective, draw
from de_model.training.stages import Stage, StageOptions

#: The draw that gives the validation batch: no training step has this number.
_DRAW = 9_999_999
#: Brightness of the PNG: companded values above this are white (reflectance 0.64, thin cloud).
_WHITE = 0.8
_GAP = 2


@dataclass(frozen=True, slots=True)
class Validation:
    """What is looked at, and how often."""

    #: Pairs of places that are not trained on.
    data: PairData
    #: Steps between validations; there is always one at the end of a stage.
    every: int = 250
    #: Patches, the same ones every time.
    patches: int = 4
    #: DDIM evaluations.
    sampling_steps: int = 10

    def __post_init__(self) -> None:
        if self.every < 1 or self.patches < 1:
            raise InvalidModelInput(f"every={self.every} and patches={self.patches} must both be at least 1.")


@dataclass(frozen=True, slots=True)
class Restored:
    """A batch as a stage restores it."""

    patches: Patches
    #: `(batch, band, y, x)` companded to [0, 1]. Stage reference: the reference. Coarse and fine: diffusion alone.
    #: Later: the reference, and all of DE.
    parts: tuple[Tensor, ...]

    @property
    def image(self) -> Tensor:
        """What the stage is about."""
        return self.parts[-1]


def fixed_batch(data: PairData, stage: StageOptions, patches: int, timesteps: int) -> Batch:
    """Return patches of a stage's size with noise and timesteps, the same ones every time."""
    fixed = replace(stage, batch=patches)
    return draw(data.source(fixed, 0), fixed, _DRAW, 0, timesteps)


@torch.no_grad()
def validate(objective: Objective, batch: Batch, sampling_steps: int) -> dict[str, float]:
    """Return the scores of a stage on a batch; its model and its loss are the objective's.

    The scores are the loss terms, `psnr` (dB, reflectance, peak 1, all pixels with truth), and `psnr_hidden` (the
    same under cloud and shadow; left out where the batch has none).
    """
    enhancer = objective.enhancer
    batch = batch.to(next(enhancer.parameters()).device)
    terms = objective(batch)
    found = restored(enhancer, objective.stage, batch, sampling_steps)
    valid = batch.patches.valid > 0
    scores = {name: float(value) for name, value in terms.items()}
    scores["psnr"] = psnr(found.image, batch.patches.clear, valid)
    hidden = valid & (batch.patches.obscured > 0)
    if bool(hidden.any()):
        scores["psnr_hidden"] = psnr(found.image, batch.patches.clear, hidden)
    return scores


@torch.no_grad()
def restored(enhancer: Enhancer, stage: Stage, batch: Batch, steps: int = 10) -> Restored:
    """Return what a stage makes of a batch on the model's device, in `steps` DDIM evaluations."""
    batch = batch.to(next(enhancer.parameters()).device)
    patches, trajectory = batch.patches, Trajectory(enhancer.schedule, steps, lambda _stream, _scale: batch.eps)
    if stage is Stage.REFERENCE:
        return Restored(patches, (enhancer.reference.estimate(patches.cloudy),))
    if stage in (Stage.COARSE, Stage.FINE):
        cloudy = to_signed(patches.cloudy)

        def alone(x_t: Tensor, t: Tensor) -> Estimate:
            """Return the estimate with W = 0: the model before the weight network exists."""
            x0_hat = enhancer.schedule.estimate_x0(x_t, enhancer.predictor(x_t, cloudy, t), t)
            return Estimate(x0_hat, torch.zeros_like(x0_hat), x0_hat)

        return Restored(patches, (to_unsigned(ddim(alone, trajectory).image),))
    condition = enhancer.condition(patches.cloudy)
    eta = enhancer.card.eta
    found = ddim(lambda x_t, t: enhancer.estimate(x_t, condition, t, eta), trajectory)
    return Restored(patches, (to_unsigned(condition.reference), to_unsigned(found.image)))


def psnr(image: Tensor, truth: Tensor, where: Tensor) -> float:
    """Return the PSNR in dB of companded images `(batch, band, y, x)`, taken in reflectance for a peak of 1.

    Args:
        image: companded to [0, 1].
        truth: companded to [0, 1].
        where: `(batch, 1, y, x)`, True on the pixels that count, at least one.
    """
    error = (from_unit(image.float()) - from_unit(truth.float())).double()
    mse = float(error.square().movedim(1, -1)[where[:, 0]].mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def sample_grid(found: Restored, bands: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a picture `(y, x, 3)`: a row a patch; its columns are cloudy, the parts (reference, DE), and truth."""
    shown = [_picture(column, bands) for column in (found.patches.cloudy, *found.parts, found.patches.clear)]
    rows = [np.concatenate([_framed(column[i]) for column in shown], axis=1) for i in range(len(shown[0]))]
    return np.concatenate(rows, axis=0)


def _picture(images: Tensor, bands: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return `(batch, y, x, 3)` in true colour where the bands allow it, else the first band in grey."""
    wanted = ("red", "green", "blue")
    order = [bands.index(b) for b in wanted] if set(wanted) <= set(bands) else [0, 0, 0]
    shown = (images[:, order].float().cpu() / _WHITE).clamp(0, 1) * 255
    return shown.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _framed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(picture, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
