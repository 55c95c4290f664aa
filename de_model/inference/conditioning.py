"""What the model gets of a batch of tiles, bound to an estimator that samplers can call."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from de_model.enhancer import Condition, Enhancer, Estimate, autocast
from de_model.inference.acceleration import Precision
from de_model.radiometry import to_signed, to_unit
from de_model.sampling.samplers import shrink


def condition_of(
    enhancer: Enhancer, cloudy: Tensor, reference: Tensor | None, precision: Precision = Precision.FP32
) -> Condition:
    """Run the reference network once and put a given reference in its place where there is one.

    Args:
        enhancer: the model.
        cloudy: surface reflectance `(batch, band, y, x)`, finite.
        reference: the same shape; a pixel counts as given where every band is finite.
        precision: number format of the network; what it returns is float32.
    """
    with autocast(cloudy.device, precision):
        condition = enhancer.condition(to_unit(cloudy))
    condition = replace(condition, reference=condition.reference.float())
    if reference is None:
        return condition
    given = reference.isfinite().all(dim=1, keepdim=True)
    return replace(condition, reference=torch.where(given, to_signed(to_unit(reference)), condition.reference))


def repeated(condition: Condition, samples: int) -> Condition:
    """Return the condition of `(tile * sample)` images, the samples of a tile together."""
    cloudy, reference = (part.repeat_interleave(samples, dim=0) for part in (condition.cloudy, condition.reference))
    return replace(condition, cloudy=cloudy, reference=reference)


class BoundEstimator:
    """The model with its conditions and eta fixed for one image, at the size of the state that it is asked about."""

    def __init__(
        self, enhancer: Enhancer, condition: Condition, eta: float, precision: Precision = Precision.FP32
    ) -> None:
        self.enhancer, self.eta, self.precision = enhancer, eta, precision
        self.conditions = {1: condition}

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the fused estimate for `x_t` `(batch, band, y, x)`, a whole factor smaller than the tile or equal."""
        condition = self._at(self.conditions[1].cloudy.shape[-1] // x_t.shape[-1])
        with autocast(x_t.device, self.precision):
            found = self.enhancer.estimate(x_t, condition, t, self.eta)
        # Sampling goes on in float32 whatever the networks ran in.
        return Estimate(*(part.float() for part in found))

    def _at(self, scale: int) -> Condition:
        if scale not in self.conditions:
            full = self.conditions[1]
            smaller = {"cloudy": shrink(full.cloudy, scale), "reference": shrink(full.reference, scale)}
            self.conditions[scale] = replace(full, **smaller)
        return self.conditions[scale]
