"""Settings by subject: area, restoration, judging, execution; their enumerations and checked types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum, unique
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_settings import NoDecode

from de_model.inference.sampling import Sampling
from de_model.sampling.kinds import SamplerKind
from de_model.scene.design import SceneDesign
from de_model.validation import Filler, PixelKind
from stac.composite.methods import CompositeMethod
from stac.grid.fixed import GridSpec
from stac.io.http import RetryPolicy
from stac.io.secrets import redact, without_secret
from stac.load.resampling import Interpolation
from stac.load.scale_check import RadiometryCheck
from stac.masks.combination import MaskKind, MaskRule
from stac.product.assembly import Intervals
from stac.quality.gate import Gate, gate_document
from stac.search.query import ALL_DATES, Query
from stac.search.static import SAMPLE, SAMPLE_COLLECTION, SAMPLE_INTERVAL


def _split(value: Any) -> Any:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


#: Part of the type of a setting, together with NoDecode: a string is words with commas between, not JSON.
CommaSeparated = BeforeValidator(_split)


@unique
class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


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


@unique
class GateMode(StrEnum):
    """Whether products are judged before they are published."""

    ON = "on"
    OFF = "off"


@unique
class GridKind(StrEnum):
    """Which cells the work is divided into."""

    #: The grid of each scene, such as an MGRS tile.
    NATIVE = "native"
    #: The same cells for all scenes, across tiles and zones.
    FIXED = "fixed"


@unique
class RunnerKind(StrEnum):
    """Where work units are processed: the Prefect task runner that they are mapped on."""

    #: The task runner of the flow: one thread, unless the flow was given another one.
    FLOW = "flow"
    #: In threads of that process.
    THREADS = "threads"
    #: In processes of this machine.
    PROCESSES = "processes"
    #: In the workers of a Dask cluster: of this machine, or one whose scheduler is named.
    DASK = "dask"


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


@unique
class Mark(StrEnum):
    """What a setting is exempt from; every setting is part of a work unit's id and of a frozen plan unless marked."""

    #: No pixel depends on its value as it is. Scenes, cells and weights are in the id themselves.
    NOT_IN_ID = "no pixel depends on it"
    #: For the machine that executes a frozen plan: where products go, services, devices, waiting.
    LOCAL = "local"


class SettingsGroup(BaseModel):
    """Settings of one subject; its title heads their options on the command line."""

    title: ClassVar[str]
    marks: ClassVar[frozenset[Mark]] = frozenset()

    @classmethod
    def marks_of(cls, name: str) -> frozenset[Mark]:
        """Return the marks of a field and of its group."""
        return cls.marks | {mark for mark in cls.model_fields[name].metadata if isinstance(mark, Mark)}


class AreaSettings(SettingsGroup):
    """Which scenes, of which place and time, on which grid."""

    title = "Scenes"
    marks = frozenset({Mark.NOT_IN_ID})  # an id names scenes, their versions and the cell

    source: str = Field(
        SAMPLE,
        description="`sample`, earth-search, planetary-computer, copernicus, sentinel-hub, copernicus-sentinel-hub, "
        "the URL of a STAC API, or the path or URL of a static catalog (docs/sources.md)",
    )
    collection: str = Field(SAMPLE_COLLECTION, description="collection to search")
    bbox: str | None = Field(None, description="west,south,east,north in degrees; everywhere when left out")
    datetime: str | None = Field(
        None,
        description="dates to restore: 2023-08-10/2023-08-20, or one; left out, all of a static catalog, and those "
        "that the sample is about",
    )
    min_cloud: float = Field(5, ge=0, le=100, description="scenes clearer than this (percent) need no restoration")
    max_cloud: float = Field(80, ge=0, le=100, description="skip scenes with more cloud than this, percent")
    grid: GridKind = Field(GridKind.NATIVE, description="native: the tiles of the scenes; fixed: cells over any area")
    grid_crs: int | None = Field(None, description="EPSG code of the fixed grid, in metres; UTM zones when left out")
    resolution: float = Field(10, gt=0, description="pixel size of the fixed grid, metres, 0.01 to 100 000")
    cell_size: int = Field(2048, ge=64, description="side of a cell of the fixed grid, pixels")
    grid_origin: Annotated[tuple[float, float], NoDecode, CommaSeparated] = Field(
        (0.0, 0.0), description="x,y of a corner of a cell, metres; to share the pixels of an archive"
    )
    min_coverage: float = Field(
        1, ge=0, le=100, description="dates whose footprints cover less of a cell (percent) are left out"
    )
    max_pixels: int = Field(250_000_000, ge=1, description="largest area of one work unit, pixels")
    timeout_s: Annotated[float, Mark.LOCAL] = Field(60, gt=0, description="time-out of one request, seconds")
    search_s: float = Field(600, gt=0, description="longest time of a search with all its pages and retries, seconds")
    search_retries: int = Field(
        4, ge=0, le=20, description="attempts after a first one that failed for a passing reason"
    )

    @property
    def fixed_grid(self) -> GridSpec:
        """The fixed grid; raises `InvalidQuery` for an impossible grid."""
        return GridSpec(self.resolution, self.cell_size, self.grid_crs, self.grid_origin)

    @property
    def query(self) -> Query:
        """What to search for; raises `InvalidQuery` when the area or the interval makes no sense."""
        return Query.parse(self.collection, self.bbox, self.dates or ALL_DATES)

    @property
    def shown_dates(self) -> str:
        """The dates for people and reports."""
        return self.dates or "all dates"

    @property
    def dates(self) -> str | None:
        """The dates that were named, or those of the sample; None where all are wanted."""
        return SAMPLE_INTERVAL if self.datetime is None and self.source == SAMPLE else self.datetime

    @property
    def shown_source(self) -> str:
        """The source for people and reports."""
        return redact(without_secret(self.source))

    @property
    def retry_policy(self) -> RetryPolicy:
        """How sources are waited for."""
        return RetryPolicy(self.timeout_s, self.search_s, self.search_retries)


DEFAULT_MODEL = "models:/unveil-de@champion"
#: Where other dates fill most of a scene the gaps are a few pixels wide, and small tiles save half the work; without
#: other dates whole clouds are restored, which needs more surroundings.
_TILE_FOR_GAPS, _TILE_FOR_SCENES = 64, 128
#: Neighbours share one in so many pixels of a side; more costs time. Whole pixels of the smallest image that a sampler
#: works on.
_SHARED, _COARSEST = 16, 4
#: Sampler, steps, and the timestep of the start; None is pure noise. Gaps of a few pixels have the ground around them:
#: one step from the noised reference errs less than four from pure noise, and its samples say more. Below whole clouds
#: four steps of DPM-Solver++ beat the paper's ten of DDIM in time and error.
_WALK_FOR_GAPS: tuple[SamplerKind, int, int | None] = (SamplerKind.DPMPP2M, 1, 200)
_WALK_FOR_SCENES: tuple[SamplerKind, int, int | None] = (SamplerKind.DPMPP2M, 4, None)


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
    # Intervals of two cover as much of the truth as those of four: docs/engine.md
    samples: int = Field(2, ge=1, le=64, description="samples of the model per tile")
    # Left out together, these three are chosen for what is restored (`sampling_schedule`); one that is named leaves it
    # to the user. The id holds what was chosen; the same for the tiles.
    steps: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None,
        ge=1,
        le=1000,
        description="evaluations of the model per sample; left out, with sampler and start: 1 for "
        "the small gaps that other dates leave, else 4",
    )
    sampler: Annotated[SamplerKind | None, Mark.NOT_IN_ID] = Field(
        None, description="dpmpp2m (when left out), pyramid, or the paper's ddim with 10 steps"
    )
    start: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None,
        ge=0,
        le=999,
        description="timestep at which to begin with the noised reference, 200 for small gaps; pure "
        "noise when left out beside steps or sampler",
    )
    eta: float = Field(0.3, ge=0, le=1, description="least share of the reference")
    tile: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=32, description="side of a tile, pixels; 64 for the small gaps that other dates leave, else 128"
    )
    overlap: Annotated[int | None, Mark.NOT_IN_ID] = Field(
        None, ge=0, description="pixels shared by neighbours; a sixteenth of a tile when left out"
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
        (sampler, steps, start), (tile, overlap) = self.sampling_schedule, self.tiling
        sampling = Sampling(
            seed=self.seed,
            samples=self.samples,
            steps=steps,
            eta=self.eta,
            tile=tile,
            overlap=overlap,
            sampler=sampler,
            start=start,
        )
        return RestorationOptions(sampling, self.composite, self.composite_days, self.max_spread, self.use_model)

    def fitted_to(self, scene: SceneDesign | None) -> Self:
        """Return the settings as a model needs them: what is not named is chosen by the design of its card.

        Everything that restores asks here once the model is known. None stands for models of the first edition.
        """
        return self if scene is None else self._suited(scene)

    def _suited(self, own: SceneDesign) -> Self:
        """Return the settings with the schedule and the tiles of a design, except for what differs from the defaults.

        Workers get all settings by name: what was named cannot be distinguished from what was left out.
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
    def sampling_schedule(self) -> tuple[SamplerKind, int, int | None]:
        """Sampler, steps, and the timestep of the start; None is pure noise."""
        if (self.sampler, self.steps, self.start) == (None, None, None):
            return _WALK_FOR_SCENES if self.composite is CompositeMethod.NONE else _WALK_FOR_GAPS
        sampler, steps, _ = _WALK_FOR_SCENES
        return self.sampler or sampler, self.steps or steps, self.start

    @property
    def tiling(self) -> tuple[int, int]:
        """Side of a tile and overlap, pixels."""
        side = self.tile or (_TILE_FOR_SCENES if self.composite is CompositeMethod.NONE else _TILE_FOR_GAPS)
        shared = max(_COARSEST, side // _SHARED // _COARSEST * _COARSEST)
        return side, shared if self.overlap is None else self.overlap


_GATE = Gate()


class JudgingSettings(SettingsGroup):
    """Thresholds; none of them changes a pixel."""

    title = "Quality and drift"
    marks = frozenset({Mark.NOT_IN_ID})

    gate: GateMode = Field(
        GateMode.ON, description="on: send products that fail a threshold to review; off: publish all"
    )
    gate_max_residual_cloud: float = Field(_GATE.max_residual_cloud, ge=0, le=1, description="restored cloud, share")
    gate_min_sharpness: float = Field(_GATE.min_sharpness, ge=0, description="least detail against surroundings")
    gate_max_sharpness: float = Field(_GATE.max_sharpness, ge=0, description="most detail against surroundings")
    gate_max_colour_shift: float = Field(_GATE.max_colour_shift, ge=0, description="shift of a band, reflectance")
    gate_max_ndvi_shift: float = Field(_GATE.max_ndvi_shift, ge=0, description="shift of mean NDVI")
    gate_max_seam_ratio: float = Field(_GATE.max_seam_ratio, ge=0, description="steps across borders / beside them")
    gate_max_half_width: float = Field(_GATE.max_half_width, ge=0, description="mean half-width, reflectance")
    gate_max_not_recoverable: float = Field(_GATE.max_not_recoverable, ge=0, le=1, description="lost area, share")
    drift_last: int = Field(20, ge=1, description="units that `unveil drift` looks at together")

    @property
    def quality_gate(self) -> Gate | None:
        """Thresholds of a product's quality; None where the gate is off. They change no pixel."""
        if self.gate is GateMode.OFF:
            return None
        return Gate(**{field.name: getattr(self, f"gate_{field.name}") for field in fields(Gate)})

    @property
    def gate_limits(self) -> dict[str, float] | None:
        """The thresholds as JSON values; None where the gate is off."""
        gate = self.quality_gate
        return None if gate is None else gate_document(gate)


class RunningSettings(SettingsGroup):
    """Devices, workers, and what they cost."""

    title = "Execution"
    marks = frozenset({Mark.NOT_IN_ID, Mark.LOCAL})

    device: Device = Field(Device.AUTO, description="where the model runs")
    # Who restores the units, and how many at once: no pixel depends on it (docs/scale.md).
    runner: RunnerKind = Field(
        RunnerKind.FLOW,
        description="flow: the flow's own task runner, one unit after the other unless it was given another one; "
        "threads, processes or dask: several at once",
    )
    workers: int | None = Field(
        None, ge=1, le=1000, description="units that are restored at once; one for each core, or GPU, when left out"
    )
    worker_threads: int | None = Field(
        None, ge=1, description="threads of numeric libraries in each worker; the cores shared out when left out"
    )
    dask_scheduler: str | None = Field(
        None, description="address of a Dask scheduler, e.g. tcp://HOST:8786; a cluster of this machine when left out"
    )
    allow_invalid: bool = Field(
        False, description="a run in which scenes are INVALID succeeds all the same; one that FAILED never does"
    )
    price_per_hour: float = Field(0, ge=0, description="of this machine, in any currency: for the cost of a scene")
