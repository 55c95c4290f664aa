"""Options of training that hold for all stages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum, unique

from de_model.errors import InvalidModelInput


@unique
class Decay(StrEnum):
    """How the learning rate changes within a stage."""

    #: A short rise, then half a cosine down to zero.
    COSINE = "cosine"
    #: As published: constant (DE section 3).
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train; what to train for how long is said by the stages."""

    #: Of patches, noise and timesteps; initial weights are the caller's.
    seed: int = 0
    #: Rate of the moving average of the weights (DE section 2.3).
    ema_rate: float = 0.9999
    decay: Decay = Decay.COSINE
    #: Gradients longer than this are shortened: early diffusion steps spike.
    clip_norm: float = 1.0
    #: Pieces a batch is worked through in, to save memory; the result is the same up to rounding.
    accumulate: int = 1
    #: Steps in a row whose gradient may be non-finite (they are skipped) before training is given up.
    max_skipped: int = 20

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.max_skipped < 1:
            raise InvalidModelInput(f"accumulate={self.accumulate}, max_skipped={self.max_skipped}: both start at 1.")
        if not 0 <= self.ema_rate < 1:
            raise InvalidModelInput(f"ema_rate is {self.ema_rate}; it must lie in 0..1, 1 excluded.")
        if self.clip_norm <= 0:
            raise InvalidModelInput(f"clip_norm is {self.clip_norm}; it must be above 0.")

    def identity(self) -> dict[str, str]:
        """Return by name what changes the weights beyond rounding; a resumed training must agree in it."""
        rounding = {"accumulate", "max_skipped"}
        return {f.name: str(getattr(self, f.name)) for f in fields(self) if f.name not in rounding}
