"""The whole model of the second edition: frozen reference, conditional diffusion and W, fused at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from de_model.errors import InvalidModelInput
from de_model.scene.design import SceneSizes
from de_model.scene.networks import (
    Belief,
    IndependentPredictor,
    Inputs,
    SceneAllocation,
    ScenePredictor,
    SceneReference,
)
from de_model.schedule import Schedule

#: Clear pixels that say how well a reference fits, and the squared error that is called none.
_ENOUGH_SEEN, _ROUNDING = 64, 1e-3


class SceneEstimate(NamedTuple):
    """One fused estimate, all `(batch, band, y, x)` in standardised reflectance."""

    #: `W * reference + (1 - W) * found`.
    fused: Tensor
    #: W within eta..1.
    weight: Tensor
    #: The diffusion's own belief.
    found: Belief


@dataclass(frozen=True, slots=True)
class SceneSample:
    """What a batch of windows is restored to, `(batch, band, y, x)` in standardised reflectance."""

    mean: Tensor
    log_variance: Tensor
    weight: Tensor
    reference: Tensor


class SceneNetworks(nn.Module):
    """Reference, conditional diffusion and the weight network in standardised reflectance."""

    def __init__(self, bands: int, sizes: SceneSizes, timesteps: int = 1000) -> None:
        super().__init__()
        self.bands, self.schedule = bands, Schedule(timesteps)
        self.reference = SceneReference(bands, sizes)
        self.predictor: IndependentPredictor | ScenePredictor = (
            IndependentPredictor(bands, sizes) if sizes.kind == "independent" else ScenePredictor(bands, sizes)
        )
        self.allocation = SceneAllocation(bands, sizes)
        self.kept = sizes.kept

    @property
    def independent(self) -> bool:
        """Whether the diffusion does without the reference."""
        return isinstance(self.predictor, IndependentPredictor)

    def origin(self, inputs: Inputs, reference: Belief | None) -> Tensor:
        """Return what sampling begins at, below the noise: the predictor's own start, or the reference it corrects."""
        if isinstance(self.predictor, IndependentPredictor):
            return self.predictor.start(inputs)[0]
        return _given(reference).mean

    def belief_in(self, image: Tensor, inputs: Inputs, own: Belief) -> Belief:
        """Return the belief in another reference: more or less certain than the network's own, as it fits known ground.

        Args:
            image: standardised `(batch, band, y, x)`; the network's own stays where a band is not finite.
            inputs: as given to the networks.
            own: the belief of the reference network.
        """
        known = image.isfinite().all(dim=1, keepdim=True)
        mean, seen = torch.where(known, image, own.mean), known & (inputs.clear > 0)
        off, usual = (
            torch.where(seen, (each - inputs.image).square(), 0).sum(dim=(2, 3), keepdim=True) + _ROUNDING
            for each in (mean, own.mean)
        )
        change = torch.where(seen.sum(dim=(2, 3), keepdim=True) >= _ENOUGH_SEEN, (off / usual).log(), 0)
        return Belief(mean, torch.where(known, own.log_variance + change, own.log_variance), known)

    def predicted(self, x_t: Tensor, inputs: Inputs, reference: Belief | None, t: Tensor) -> Belief:
        """Return what the diffusion believes at step `t`; an independent one needs no reference."""
        signal, noise = self.schedule.coefficients(t, x_t)
        if isinstance(self.predictor, IndependentPredictor):
            return self.predictor(x_t, inputs, signal, noise)
        return self.predictor(x_t, inputs, _given(reference), signal, noise)

    def estimate(
        self, x_t: Tensor, inputs: Inputs, reference: Belief, t: Tensor, eta: float, weight: float | None = None
    ) -> SceneEstimate:
        """Return the fused estimate at step `t`.

        Args:
            x_t: state `(batch, band, y, x)`.
            inputs: what is known.
            reference: the frozen belief.
            t: `(batch,)` timesteps.
            eta: least share of the reference, 0..1; 1 returns it exactly.
            weight: a constant W in place of the learnt one.
        """
        signal, noise = self.schedule.coefficients(t, x_t)
        found = self.predicted(x_t, inputs, reference, t)
        if weight is None:
            share = self.allocation(x_t, inputs, reference, found, signal, noise)
            share = torch.where(inputs.blind, 1.0, share)
        else:
            share = torch.full_like(x_t, weight)
        share = share.clamp(eta, 1.0)
        return SceneEstimate(share * reference.mean + (1 - share) * found.mean, share, found)

    def sample(
        self,
        inputs: Inputs,
        noise: Tensor,
        t_start: int,
        steps: int,
        eta: float,
        weight: float | None = None,
        reference: Belief | None = None,
    ) -> SceneSample:
        """Restore windows: from the noised origin down to 0 with deterministic DDIM on the fused estimate.

        Args:
            inputs: what is known.
            noise: unit Gaussian `(batch, band, y, x)`.
            t_start: where sampling begins.
            steps: evaluations.
            eta: least share of the reference.
            weight: a constant W in place of the learnt one.
            reference: another belief in place of the reference network's.
        """
        if not 0 <= eta <= 1:
            raise InvalidModelInput(f"eta is {eta}; it is the reference's least share and must lie in 0..1.")
        belief = self.reference(inputs) if reference is None else reference
        timesteps = self.schedule.respaced(steps, t_start).tolist()
        t = torch.full((len(noise),), timesteps[0], dtype=torch.long, device=noise.device)
        x_t = self.schedule.add_noise(self.origin(inputs, belief), noise, t)
        for index, step in enumerate(timesteps):
            t = torch.full_like(t, step)
            found = self.estimate(x_t, inputs, belief, t, eta, weight)
            if index + 1 < len(timesteps):
                rest = self.schedule.noise_given_x0(x_t, found.fused, t)
                x_t = self.schedule.add_noise(found.fused, rest, torch.full_like(t, timesteps[index + 1]))
        w = found.weight
        # The two beliefs err alike for the most part: the variance of the blend is the blend of the variances.
        variance = w * belief.log_variance.exp() + (1 - w) * found.found.log_variance.exp()
        kept = inputs.kept(self.kept)
        if belief.given is not None:
            kept = torch.where(belief.given, 1.0, kept)
        return SceneSample(kept * found.fused, variance.log(), w, kept * belief.mean)


def _given(reference: Belief | None) -> Belief:
    if reference is None:
        raise InvalidModelInput("This model's diffusion corrects its reference; give the reference.")
    return reference
