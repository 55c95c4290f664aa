"""Settings of how a date is restored: model, sampler, tiles, other dates, masks, speed."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field
from pydantic_settings import NoDecode

from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.sampling import Sampling
from de_model.sampling.kinds import SamplerKind
from de_model.scene.design import SceneDesign
from flows.restoration_options import RestorationOptions
from flows.settings.kinds import GapFilling, ModelFallback
from flows.settings.words import Commas
from stac.composite.priors import Prior
from stac.load.resampling import Interpolation
from stac.load.scale_check import RadiometryCheck
from stac.masks.combination import MaskKind, MaskRule

DEFAULT_MODEL = "models:/unveil-de@champion"
#: Where other dates fill most of a scene the gaps are a few pixels wide, and small tiles save half the work; without
#: other dates whole clouds are restored, which needs more surroundings.
_TILE_FOR_GAPS, _TILE_FOR_SCENES = 64, 128
#: Neighbours share one in so many pixels of a side; more costs time (`python -m benchmarks.engine`). Whole pixels of
#: the smallest image that a sampler works on.
_SHARED, _COARSEST = 16, 4
#: Sampler, steps, and the timestep of the start; None is pure noise. Gaps of a few pixels have the ground around them:
#: one step from the noised reference errs less than four from pure noise, and its samples tell more
#: (docs/results/experiments/gaps.md). Below whole clouds four steps of DPM-Solver++ beat the paper's ten of DDIM in
#: time and error (docs/results/experiments/samplers.md).
_WALK_FOR_GAPS: tuple[SamplerKind, int, int | None] = (SamplerKind.DPMPP2M, 1, 200)
_WALK_FOR_SCENES: tuple[SamplerKind, int, int | None] = (SamplerKind.DPMPP2M, 4, None)


class RestoringSettings(BaseModel):
    """What pixels depend on, and how fast they are made."""

    bands: Annotated[tuple[str, ...], NoDecode, Commas] = Field(
        ("blue", "green", "red", "nir"), description="bands by common name"
    )
    model: str = Field(DEFAULT_MODEL, description="model URI: models:/NAME@ALIAS or models:/NAME/VERSION")
    model_fallback: ModelFallback = Field(
        ModelFallback.ERROR, description="when the model cannot be had: error, or shipped to use the package's weights"
    )
    seed: int = Field(0, ge=0, description="seed of the noise")
    # Intervals of two cover as much of the truth as those of four: docs/engine.md
    samples: int = Field(2, ge=1, le=64, description="samples of the model per tile")
    # Left out together, these three are chosen for what is restored (`walk`); one that is named leaves it to the user.
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="evaluations of the model per sample; left out, with sampler and start: 1 for "
        "the small gaps that other dates leave, else 4",
    )
    sampler: SamplerKind | None = Field(
        None, description="dpmpp2m (when left out), pyramid, or the paper's ddim with 10 steps"
    )
    start: int | None = Field(
        None,
        ge=0,
        le=999,
        description="timestep at which to begin with the noised reference, 200 for small gaps; pure "
        "noise when left out beside steps or sampler",
    )
    eta: float = Field(0.3, ge=0, le=1, description="least share of the reference")
    tile: int | None = Field(
        None, ge=32, description="side of a tile, pixels; 64 for the small gaps that other dates leave, else 128"
    )
    overlap: int | None = Field(
        None, ge=0, description="pixels shared by neighbours; a sixteenth of a tile when left out"
    )
    block: int = Field(
        512, ge=64, description="side of a block, pixels: what a stopped run repeats at most; no pixel depends on it"
    )
    batch: int | None = Field(
        None,
        ge=1,
        description="tiles at once on a GPU; left out, as many as suit its memory, halved where they do not fit",
    )
    # Speed; each may change the last bits of a result, or more: docs/engine.md.
    precision: Precision = Field(Precision.FP32, description="number format of the networks' activations: fp32 or bf16")
    compiled: bool = Field(False, description="compile the networks first; they stay as they are where that fails")
    use_model: bool = Field(
        True, description="restore with the model what no date saw; otherwise these pixels are marked not recoverable"
    )
    gaps: GapFilling = Field(
        GapFilling.VALIDATED,
        description="what fills pixels that no date saw: validated, for every kind of pixel what was best on places "
        "the model never saw; or model",
    )
    prior: Prior = Field(
        Prior.FUSED,
        description="fill from other dates: fused, nearest, median or geomedian; none: the model alone",
    )
    prior_days: int = Field(15, ge=0, description="other dates must lie within this many days")
    cloud_dilation_m: float = Field(120, ge=0, description="growth of clouds, metres")
    shadow_dilation_m: float = Field(120, ge=0, description="growth of shadows, metres")
    masks: Annotated[tuple[MaskKind, ...], NoDecode, Commas] = Field(
        (), description="masks to combine: scl, qa_pixel, s2cloudless, omnicloudmask; left out, the one of the scenes"
    )
    mask_rule: MaskRule = Field(MaskRule.ANY, description="how many masks must agree: any, all, majority or first")
    persistent_bright: bool = Field(
        False, description="ground that is called cloud on nearly all dates, but never changes, counts as clear"
    )
    radiometry_check: RadiometryCheck = Field(
        RadiometryCheck.REFUSE, description="scenes whose pixels contradict their scale or offset: refuse, warn or off"
    )
    max_spread: float = Field(0.25, gt=0, description="samples deviating more than this are not recoverable")
    interpolation: Interpolation = Field(
        Interpolation.BILINEAR, description="bilinear or cubic, for scenes on another grid; coarser grids get means"
    )

    @property
    def restoration(self) -> RestorationOptions:
        """How a date is restored."""
        (sampler, steps, start), (tile, overlap) = self.walk, self.tiling
        sampling = Sampling(
            seed=self.seed,
            samples=self.samples,
            steps=steps,
            eta=self.eta,
            tile=tile,
            overlap=overlap,
            batch=self.batch,
            sampler=sampler,
            start=start,
            acceleration=self.acceleration,
        )
        return RestorationOptions(sampling, self.prior, self.prior_days, self.max_spread, self.use_model)

    @property
    def acceleration(self) -> Acceleration:
        """How the networks are run."""
        return Acceleration(precision=self.precision, compiled=self.compiled)

    def fitted_to(self, scene: SceneDesign | None) -> Self:
        """Return the settings as a model needs them: what is not named is chosen by the design of its card.

        Everything that restores asks here once the model is known. None stands for models of the first edition.
        """
        return self if scene is None else self._suited(scene)

    def _suited(self, own: SceneDesign) -> Self:
        """Return the settings with the walk and the tiles of a design, except for what differs from the defaults.

        Workers get all settings by name: what was named cannot be told from what was left out.
        """
        suited = {
            "samples": own.samples,
            "steps": own.steps,
            "sampler": SamplerKind.DDIM,
            "start": own.t_start,
            "tile": own.tile,
            "overlap": own.overlap,
        }
        left = {name for name in suited if getattr(self, name) == type(self).model_fields[name].default}
        if "tile" not in left:
            left.discard("overlap")
        return self.model_copy(update={name: suited[name] for name in left})

    @property
    def walk(self) -> tuple[SamplerKind, int, int | None]:
        """Sampler, steps, and the timestep of the start; None is pure noise."""
        if (self.sampler, self.steps, self.start) == (None, None, None):
            return _WALK_FOR_SCENES if self.prior is Prior.NONE else _WALK_FOR_GAPS
        sampler, steps, _ = _WALK_FOR_SCENES
        return self.sampler or sampler, self.steps or steps, self.start

    @property
    def tiling(self) -> tuple[int, int]:
        """Side of a tile and overlap, pixels."""
        side = self.tile or (_TILE_FOR_SCENES if self.prior is Prior.NONE else _TILE_FOR_GAPS)
        shared = max(_COARSEST, side // _SHARED // _COARSEST * _COARSEST)
        return side, shared if self.overlap is None else self.overlap
