"""Settings of restoration: what pixels depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum, unique
from typing import Annotated, Self

from pydantic import Field
from pydantic_settings import NoDecode

from de_model.inference.sampling import SamplerKind, Sampling
from de_model.validation import Filler, PixelKind
from flows.settings.fields import CommaSeparated, Mark, SettingsGroup
from stac.composite.methods import CompositeMethod
from stac.load.resampling import Interpolation
from stac.load.scale_check import RadiometryCheck
from stac.masks.combination import MaskKind, MaskRule
from stac.product.layers import Intervals

DEFAULT_MODEL = "models:/unveil-de@champion"
_FROM_WEIGHTS = "as suits the weights when left out"
#: Neighbours share one in so many pixels of a tile that is named without them.
_SHARED = 4


@unique
class GapFilling(StrEnum):
    """What fills pixels that no date saw."""

    #: For every kind of pixel what was best on places that the model never saw.
    VALIDATED = "validated"
    #: The model, whatever its validation record says.
    MODEL = "model"


@unique
class ModelFallback(StrEnum):
    """What a run does when its model cannot be had: no registry, no such alias, a changed artefact."""

    #: Stop with the reason.
    ERROR = "error"
    #: Use the weights that come with the package.
    SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class RestorationOptions:
    """How a date is restored."""

    sampling: Sampling
    composite: CompositeMethod = CompositeMethod.FUSED
    #: Dates further away than this are not used.
    composite_days: int = 15
    #: Pixels whose samples deviate more than this (reflectance, mean over bands) are not recoverable.
    max_spread: float = 0.25
    #: False leaves what no date saw unrestored: not recoverable.
    use_model: bool = True
    #: Calibrated factors of the 90 % intervals; those of a Gaussian without.
    intervals: Intervals | None = None
    #: What fills the gaps of a kind; the model fills those of a kind that is left out.
    fillers: Mapping[PixelKind, Filler] = field(default_factory=dict)


class RestoringSettings(SettingsGroup):
    """What pixels depend on, and how fast they are made."""

    title = "Restoration"

    bands: Annotated[tuple[str, ...], NoDecode, CommaSeparated] = Field(
        ("blue", "green", "red", "nir"), description="bands by common name"
    )
    # The id holds the checksum of the weights.
    model: Annotated[str, Mark.NOT_IN_ID] = Field(
        DEFAULT_MODEL,
        description="model URI: models:/NAME@ALIAS or models:/NAME/VERSION",
    )
    model_fallback: Annotated[ModelFallback, Mark.NOT_IN_ID] = Field(
        ModelFallback.ERROR, description="when the model cannot be had: error, or shipped to use the package's weights"
    )
    seed: int = Field(0, ge=0, description="seed of the noise")
    # What is left out is the model's own (`fitted_to`); the id holds what was chosen.
    samples: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=1, le=64, description=f"samples of the model per tile; {_FROM_WEIGHTS}"
    )
    steps: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=1, le=1000, description=f"evaluations of the model per sample; {_FROM_WEIGHTS}"
    )
    sampler: Annotated[SamplerKind | None, Mark.NOT_IN_ID] = Field(
        None, description=f"ddim as published, dpmpp2m or pyramid; {_FROM_WEIGHTS}"
    )
    start: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=0, le=999, description=f"timestep at which to begin with the noised reference; {_FROM_WEIGHTS}"
    )
    eta: Annotated[float | None, Mark.NOT_IN_ID] = Field(
        None, ge=0, le=1, description=f"least share of the reference; {_FROM_WEIGHTS}"
    )
    tile: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=32, description=f"side of a tile, pixels; {_FROM_WEIGHTS}"
    )
    overlap: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=0, description=f"pixels shared by neighbours; {_FROM_WEIGHTS}, a quarter of a tile that is named"
    )
    block: Annotated[int, Mark.NOT_IN_ID] = Field(
        512, ge=64, description="side of a block, pixels: what a stopped run repeats at most; no pixel depends on it"
    )
    use_model: bool = Field(
        True, description="restore with the model what no date saw; otherwise these pixels are marked not recoverable"
    )
    gaps: GapFilling = Field(
        GapFilling.VALIDATED,
        description="what fills pixels that no date saw: validated, for every kind of pixel what was best on places "
        "the model never saw; or model",
    )
    composite: CompositeMethod = Field(
        CompositeMethod.FUSED,
        description="fill from other dates: fused, nearest, median or geomedian; none: the model alone",
    )
    composite_days: int = Field(15, ge=0, description="other dates must lie within this many days")
    cloud_dilation_m: float = Field(120, ge=0, description="growth of clouds, metres")
    shadow_dilation_m: float = Field(120, ge=0, description="growth of shadows, metres")
    masks: Annotated[tuple[MaskKind, ...], NoDecode, CommaSeparated] = Field(
        (),
        description="masks to combine: scl, qa_pixel, s2cloudless, omnicloudmask, temporal; left out, the one of the "
        "scenes and temporal",
    )
    mask_rule: MaskRule = Field(MaskRule.ANY, description="how many masks must agree: any, all, majority or first")
    radiometry_check: RadiometryCheck = Field(
        RadiometryCheck.REFUSE, description="scenes whose pixels contradict their scale or offset: refuse, warn or off"
    )
    max_spread: float = Field(0.25, gt=0, description="samples deviating more than this are not recoverable")
    interpolation: Interpolation = Field(
        Interpolation.BILINEAR, description="bilinear or cubic, for scenes on another grid; coarser grids get means"
    )

    def sampling(self, own: Sampling) -> Sampling:
        """Return how a model samples: as is named here, and for the rest as suits it (`sampling_for`)."""
        named = {each.name: getattr(self, each.name) for each in fields(Sampling)}
        if self.tile is not None and self.overlap is None:
            named["overlap"] = self.tile // _SHARED
        return replace(own, **{name: value for name, value in named.items() if value is not None})

    def fitted_to(self, own: Sampling) -> Self:
        """Return the settings as a model needs them; everything that restores asks here once the model is known."""
        return self.model_copy(update=asdict(self.sampling(own)))

    @property
    def restoration(self) -> RestorationOptions:
        """How a date is restored; what is neither named nor fitted to a model is as published."""
        sampling = self.sampling(Sampling())
        return RestorationOptions(sampling, self.composite, self.composite_days, self.max_spread, self.use_model)
