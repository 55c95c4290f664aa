"""What a model of the second edition is built from and how it is sampled: named fields of its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from de_model.errors import InvalidModelInput


@dataclass(frozen=True, slots=True)
class SceneSizes:
    """Sizes of the three networks, and where they start."""

    #: Sides of every window must be divisible by this.
    stride: ClassVar[int] = 16

    #: Channels of the reference's levels, and the side of the blocks of pixels that the first one works on.
    reference: tuple[int, ...] = (48, 80, 112)
    reference_factor: int = 4
    #: The same of the conditional diffusion.
    predictor: tuple[int, ...] = (48, 80, 112)
    predictor_factor: int = 4
    #: What the diffusion makes of the reference: it does not see it (`independent`), or corrects it (`residual`).
    kind: str = "independent"
    #: Of the weight network's one level.
    allocation: int = 24
    #: Standard deviations of the interpolated surroundings, pixels.
    scales: tuple[int, ...] = (3, 8, 20, 48)
    #: How the surroundings are joined to the reference's starting point: the finest scale that sees enough ground, or
    #: the mean of all.
    start: str = "coarse to fine"
    #: Factor on the logit of W as it was learnt, and what is added to it: fitted after the training, on fresh cases of
    #: its places. With factor 0 W is a constant, so that it is no worse than the best of them there.
    share_logit: tuple[float, float] = (1.0, 0.0)
    #: Share of an estimate that is kept where no date saw the ground, the rest being the scene's own level, by the
    #: share of clear ground: knots, linear between, constant beyond. What little ground says of the rest is uncertain.
    kept: tuple[tuple[float, float], ...] = ()
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.start not in ("coarse to fine", "mean"):
            raise InvalidModelInput(f"Start {self.start!r} is unknown; this version knows 'coarse to fine' and 'mean'.")
        if self.kind not in ("independent", "residual"):
            raise InvalidModelInput(
                f"Predictor {self.kind!r} is unknown; this version knows 'independent' and 'residual'."
            )


@dataclass(frozen=True, slots=True)
class AnotherDay:
    """How another, clear day differs from what the ground between the clouds of an image says, which stands alone.

    The defaults change nothing.
    """

    #: Share of what is restored; the rest is the level of the scene.
    share: float = 1.0
    #: What clear air leaves on the darkest ground: blue less half of red, reflectance. More than that is haze.
    clear_air: float = 0.06
    #: What a clear day has less of blue, green and red, for each unit of haze.
    haze: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: Usual level of vegetation in the near infrared, reflectance, and how far a scene is drawn towards it, 0..1.
    vegetation: tuple[float, float] = (0.27, 0.0)

    @classmethod
    def from_values(cls, values: Mapping[str, Any] | Sequence[float]) -> AnotherDay:
        """Read it back from JSON values; cards before these fields hold a list that begins with the share."""
        if not isinstance(values, Mapping):
            return cls(share=float(values[0]))
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)


@dataclass(frozen=True, slots=True)
class SceneDesign:
    """Structure, sampling and calibration of a model of the second edition."""

    sizes: SceneSizes = field(default_factory=SceneSizes)
    #: What the diffusion predicts.
    prediction: str = "x0"
    #: How reflectance becomes network input.
    standardisation: str = "clear median, (p84 - p16) / 2 per band"
    #: Sampling begins here, at the noised start or reference; nothing later was trained.
    t_start: int = 900
    #: Evaluations of a sample that suit the weights, and samples whose mean is the image.
    steps: int = 1
    samples: int = 1
    #: Tile and overlap that suit the receptive field, pixels.
    tile: int = 256
    overlap: int = 64
    #: Recalibration of the predicted deviation: knots of its logarithm in standardised reflectance, and the factor's
    #: logarithm there; linear between, constant beyond.
    widths: tuple[tuple[float, float], ...] = ()
    #: What is shown below the clouds of an image that stands alone (`de_model.inference.another_day`).
    another_day: AnotherDay = field(default_factory=AnotherDay)

    def __post_init__(self) -> None:
        if self.prediction != "x0":
            raise InvalidModelInput(f"Prediction {self.prediction} is unknown; this version knows x0.")
        if self.t_start < 0 or self.steps < 1 or self.samples < 1:
            raise InvalidModelInput(
                f"t_start={self.t_start}, steps={self.steps}, samples={self.samples}: out of range."
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> SceneDesign:
        """Read a design back from JSON values."""
        # Models that do not say so started at the mean, and corrected their reference.
        stated = {"start": "mean", "kind": "residual", **values["sizes"]}
        sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
        sizes["kept"] = _knots(sizes.get("kept", ()))
        widths = _knots(values.get("widths", ()))
        another_day = AnotherDay.from_values(values.get("another_day", {}))
        parts = {"sizes": SceneSizes(**sizes), "widths": widths, "another_day": another_day}
        return cls(**{**values, **parts})


def _knots(values: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(at), float(by)) for at, by in values)
