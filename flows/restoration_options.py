"""How a date is restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from de_model.inference.sampling import Sampling
from de_model.validation import Filler, PixelKind
from stac.composite.priors import Prior
from stac.product.assembly import Intervals


@dataclass(frozen=True, slots=True)
class RestorationOptions:
    """How a date is restored."""

    sampling: Sampling
    prior: Prior = Prior.FUSED
    #: Dates further away than this are not used.
    prior_days: int = 15
    #: Pixels whose samples deviate more than this (reflectance, mean over bands) are not recoverable.
    max_spread: float = 0.25
    #: False leaves what no date saw unrestored: not recoverable.
    use_model: bool = True
    #: Calibrated factors of the 90 % intervals; those of a Gaussian without.
    intervals: Intervals | None = None
    #: What fills the gaps of a kind; the model fills those of a kind that is left out.
    fillers: Mapping[PixelKind, Filler] = field(default_factory=dict)
