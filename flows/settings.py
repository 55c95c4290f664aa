"""Settings of a run: command line > environment (`UNVEIL_*`) > `--config` file > defaults."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields, replace
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from de_model.inference.acceleration import Acceleration
from de_model.inference.sampling import Sampling
from de_model.precision import Precision
from de_model.samplers.kinds import SamplerKind
from flows.drift.limits import DriftLimits
from flows.restoration_options import RestorationOptions
from flows.runners.kinds import RunnerKind
from stac.access import Access, S3Options, SigningOptions
from stac.access.locations import Location, parse_location
from stac.access.redaction import holds_secret, redact
from stac.access.signing import PLANETARY_COMPUTER_TOKENS, Signing
from stac.fixed_grid import GridSpec
from stac.footprints import grown
from stac.indexes import index_secret
from stac.masks.combination import MaskRule
from stac.masks.kinds import MaskKind
from stac.priors import Prior
from stac.quality.gate import Gate, gate_document
from stac.query import Query
from stac.radiometry.scene_check import RadiometryCheck
from stac.resampling import Interpolation
from stac.sample_catalog import SAMPLE_COLLECTION, SAMPLE_INTERVAL
from stac.sources import Patience, provider_of
from stac.stack import ReadOptions

#: The word for the sample that ships with the package, served as a STAC API on loopback.
SAMPLE = "sample"
#: Settings that are addresses of services, whose logins are read from the environment alone.
ADDRESSES = ("source", "mlflow_uri", "signing_url")
DEFAULT_MODEL = "models:/unveil-de@champion"
#: Where other dates fill most of a scene the gaps are a few pixels wide, and small tiles save half the work; without
#: other dates whole clouds are restored, which needs more surroundings.
_TILE_FOR_GAPS, _TILE_FOR_SCENES = 64, 128
#: Neighbours share one in so many pixels of a side; more costs time (`unveil bench engine`). Whole pixels of the
#: smallest image that a sampler works on.
_SHARED, _COARSEST = 16, 4


@unique
class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@unique
class ModelFallback(StrEnum):
    """What a run does when its model cannot be had: no registry, no such alias, a changed artefact."""

    #: Stop and tell why.
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


_GATE, _DRIFT = Gate(), DriftLimits()


class RunSettings(BaseSettings):
    """Everything a run depends on."""

    model_config = SettingsConfigDict(env_prefix="UNVEIL_", extra="forbid", frozen=True)

    source: str = Field(
        SAMPLE,
        description="`sample`, earth-search, planetary-computer, copernicus, sentinel-hub, copernicus-sentinel-hub, "
        "the URL of a STAC API, or the path or URL of a static catalog (docs/sources.md)",
    )
    collection: str = Field(SAMPLE_COLLECTION, description="collection to search")
    bbox: str | None = Field(None, description="west,south,east,north in degrees; everywhere when left out")
    datetime: str = Field(SAMPLE_INTERVAL, description="interval of the scenes to restore")
    min_cloud: float = Field(5, ge=0, le=100, description="scenes clearer than this (percent) need no restoration")
    max_cloud: float = Field(80, ge=0, le=100, description="scenes cloudier than this (percent) are left alone")
    # NoDecode: in the environment, too, bands are one word with commas, not JSON.
    bands: Annotated[tuple[str, ...], NoDecode] = Field(
        ("blue", "green", "red", "nir"), description="bands by common name"
    )
    out: Annotated[Location, PlainValidator(parse_location), PlainSerializer(str)] = Field(
        Path("unveil-out"), description="catalog that is written: a folder, or s3://BUCKET/PREFIX"
    )
    # Secret, as the address of a database may hold its password.
    indexes: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="searchable copies that follow the catalog: https://HOST/PATH of a STAC API with transactions, "
        "postgresql://USER@HOST/DATABASE with pgstac (docs/indexes.md)",
    )
    public_root: str = Field(
        "", description="address of the catalog in the copies' hrefs, e.g. https://HOST/catalog; `out` when left out"
    )
    state_dir: Path | None = Field(
        None,
        description="local folder of ledger, model registry, staging and logs; `<out>/.unveil`, or for a catalog on "
        "S3 `~/.local/state/unveil/<hash of out>`",
    )
    geoparquet: bool = Field(True, description="keep items.parquet, a table of all items, beside each collection")
    signing: Signing | None = Field(
        None,
        description="how hrefs are signed when read: none or planetary-computer; as the source asks when left out",
    )
    signing_url: str = Field(PLANETARY_COMPUTER_TOKENS, description="token service of signed archives")
    s3_endpoint: str | None = Field(None, description="address of an S3 service other than AWS")
    s3_region: str | None = Field(None, description="region of the buckets")
    s3_anonymous: bool = Field(False, description="do not sign requests to S3: public buckets")
    s3_requester_pays: bool = Field(False, description="agree to pay for what is read from S3")
    s3_profile: str | None = Field(None, description="section of the AWS configuration files with the credentials")
    model: str = Field(DEFAULT_MODEL, description="model URI: models:/NAME@ALIAS or models:/NAME/VERSION")
    model_fallback: ModelFallback = Field(
        ModelFallback.ERROR, description="when the model cannot be had: error, or shipped to use the package's weights"
    )
    mlflow_uri: str | None = Field(None, description="MLflow server or database; a local one when left out")
    seed: int = Field(0, ge=0, description="seed of the noise")
    samples: int = Field(4, ge=1, le=64, description="samples of the model per tile")
    steps: int = Field(4, ge=1, le=1000, description="evaluations of the model per sample")
    # Four steps of DPM-Solver++ beat the paper's ten of DDIM in time and error: docs/results/experiments/samplers.md
    sampler: SamplerKind = Field(
        SamplerKind.DPMPP2M, description="dpmpp2m, unipc, pyramid, or the paper's ddim with 10 steps"
    )
    start: int | None = Field(
        None, ge=0, le=999, description="timestep at which to begin with the noised reference; pure noise when left out"
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
    batch: int = Field(8, ge=1, description="tiles run at once")
    # Speed; each may change the last bits of a result, or more: docs/engine.md.
    precision: Precision = Field(Precision.FP32, description="number format of the networks' activations: fp32 or bf16")
    compiled: bool = Field(False, description="compile the networks first; they stay as they are where that fails")
    winograd: bool = Field(False, description="Winograd's algorithm for the paper preset's convolutions on a CPU")
    allocation_every: int = Field(1, ge=1, description="weight allocation runs at every so many steps")
    device: Device = Device.AUTO
    # Who restores the units, and how many at once: no pixel depends on it (docs/scale.md).
    runner: RunnerKind = Field(
        RunnerKind.SERIAL, description="work units one after the other (serial), or in threads, processes or dask"
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
    use_model: bool = Field(
        True, description="restore with the model what no date saw; otherwise these pixels are marked not recoverable"
    )
    prior: Prior = Field(
        Prior.FUSED,
        description="fill from other dates: fused, matched-median, nearest, median or geomedian; none: the model alone",
    )
    prior_days: int = Field(15, ge=0, description="other dates must lie within this many days")
    cloud_dilation_m: float = Field(120, ge=0, description="growth of clouds, metres")
    shadow_dilation_m: float = Field(120, ge=0, description="growth of shadows, metres")
    masks: Annotated[tuple[MaskKind, ...], NoDecode] = Field(
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
    max_pixels: int = Field(250_000_000, ge=1, description="largest area of one work unit, pixels")
    gate: GateMode = Field(GateMode.ON, description="on: products that fail a threshold wait for review; off: none do")
    gate_max_residual_cloud: float = Field(_GATE.max_residual_cloud, ge=0, le=1, description="restored cloud, share")
    gate_min_sharpness: float = Field(_GATE.min_sharpness, ge=0, description="least detail against surroundings")
    gate_max_sharpness: float = Field(_GATE.max_sharpness, ge=0, description="most detail against surroundings")
    gate_max_colour_shift: float = Field(_GATE.max_colour_shift, ge=0, description="shift of a band, reflectance")
    gate_max_ndvi_shift: float = Field(_GATE.max_ndvi_shift, ge=0, description="shift of mean NDVI")
    gate_max_seam_ratio: float = Field(_GATE.max_seam_ratio, ge=0, description="steps across borders / beside them")
    gate_max_half_width: float = Field(_GATE.max_half_width, ge=0, description="mean half-width, reflectance")
    gate_max_not_recoverable: float = Field(_GATE.max_not_recoverable, ge=0, le=1, description="lost area, share")
    log_json: Path | None = Field(None, description="file that the log is appended to, one JSON object a line")
    price_per_hour: float = Field(0, ge=0, description="of this machine, in any currency: for the cost of a scene")
    # Drift: it is told, and changes no pixel.
    drift_psi_watch: float = Field(_DRIFT.psi_watch, gt=0, description="least population stability index to watch")
    drift_psi_alarm: float = Field(_DRIFT.psi_alarm, gt=0, description="least population stability index of an alarm")
    drift_shift_scale: float = Field(_DRIFT.shift_scale, gt=0, description="factor on the least shift of every feature")
    drift_confidence: float = Field(_DRIFT.confidence, ge=0.5, lt=1, description="share of chance that stays quiet")
    drift_margin: float = Field(_DRIFT.margin, ge=1, description="an alarm needs so many times what chance reaches")
    drift_last: int = Field(20, ge=1, description="units that `unveil drift` looks at together")
    drift_pairs: int = Field(10, ge=1, description="new cloudy/clear pairs that are worth a training")
    # The ledger of work.
    ledger_url: SecretStr | None = Field(
        None, description="postgresql+psycopg://USER@HOST/DATABASE; a file in the state folder when left out"
    )
    lease_s: float = Field(120, ge=1, description="a unit whose run stands still for so long is free again, seconds")
    held_wait_s: float = Field(150, ge=0, description="wait at the end for units that other runs hold, seconds")
    timeout_s: float = Field(60, gt=0, description="time-out of one request, seconds")
    search_s: float = Field(600, gt=0, description="longest time of a search with all its pages and retries, seconds")
    search_retries: int = Field(
        4, ge=0, le=20, description="attempts after a first one that failed for a passing reason"
    )
    grid: GridKind = Field(GridKind.NATIVE, description="native: the tiles of the scenes; fixed: cells over any area")
    grid_crs: int | None = Field(None, description="EPSG code of the fixed grid, in metres; UTM zones when left out")
    resolution: float = Field(10, gt=0, description="pixel size of the fixed grid, metres")
    cell_size: int = Field(2048, ge=64, description="side of a cell of the fixed grid, pixels")
    grid_origin: Annotated[tuple[float, float], NoDecode] = Field(
        (0.0, 0.0), description="x,y of a corner of a cell, metres; to share the pixels of an archive"
    )
    interpolation: Interpolation = Field(
        Interpolation.BILINEAR, description="bilinear or cubic, for scenes on another grid; coarser grids get means"
    )
    min_coverage: float = Field(
        1, ge=0, le=100, description="dates whose footprints cover less of a cell (percent) are left out"
    )

    @field_validator("grid_origin", mode="before")
    @classmethod
    def _split_origin(cls, value: Any) -> Any:
        return tuple(n.strip() for n in value.split(",")) if isinstance(value, str) else value

    @property
    def fixed_grid(self) -> GridSpec:
        """The fixed grid; raises `InvalidQuery` when there is no such grid."""
        return GridSpec(self.resolution, self.cell_size, self.grid_crs, self.grid_origin)

    @property
    def search(self) -> Query:
        """What to search for: the query with `prior_days` more, and on a fixed grid with all of the cells it touches.

        So a cell finds the same scenes whatever box it was touched by.
        """
        query = self.query.widened(self.prior_days)
        if self.grid is GridKind.NATIVE or query.bbox is None:
            return query
        return replace(query, bbox=grown(query.bbox, self.resolution * self.cell_size))

    @field_validator("bands", "masks", "indexes", mode="before")
    @classmethod
    def _split_words(cls, value: Any) -> Any:
        return tuple(b.strip() for b in value.split(",") if b.strip()) if isinstance(value, str) else value

    @property
    def query(self) -> Query:
        """What to search for; raises `InvalidQuery` when the area or the interval makes no sense."""
        return Query.parse(self.collection, self.bbox, self.datetime)

    @property
    def state(self) -> Path:
        """Folder of ledger, model registry and logs."""
        return self.state_dir or _state_beside(self.out)

    @property
    def access(self) -> Access:
        """How bytes are reached: signing and S3."""
        s3 = S3Options(self.s3_endpoint, self.s3_region, self.s3_requester_pays, self.s3_anonymous, self.s3_profile)
        return Access(s3, SigningOptions(self.signing or self._asked_signing, self.signing_url))

    @property
    def _asked_signing(self) -> Signing:
        """How the source wants its hrefs signed."""
        provider = provider_of(self.source)
        return Signing(provider.signing) if provider is not None and provider.signing else Signing.NONE

    @property
    def shareable(self) -> dict[str, Any]:
        """All settings as JSON values that may be stored, e.g. as parameters of a flow: passwords are not.

        What is left out is found in the environment again, which is the only place it is taken from.
        """
        secret = {name for name in ADDRESSES if holds_secret(getattr(self, name) or "")}
        values = self.model_dump(mode="json", exclude={"ledger_url", "indexes"} | secret)
        if self.ledger_url is not None and not has_password(self.ledger_url.get_secret_value()):
            values["ledger_url"] = self.ledger_url.get_secret_value()
        if not any(index_secret(address) for address in self.index_addresses):
            values["indexes"] = list(self.index_addresses)
        return values

    @property
    def shown_source(self) -> str:
        """The source for people and reports."""
        return redact(self.source)

    @property
    def index_addresses(self) -> tuple[str, ...]:
        """Addresses of the indexes; a database's may hold its password."""
        return tuple(address.get_secret_value() for address in self.indexes)

    @property
    def restoration(self) -> RestorationOptions:
        """How a date is restored."""
        tile, overlap = self._tiling
        sampling = Sampling(
            seed=self.seed,
            samples=self.samples,
            steps=self.steps,
            eta=self.eta,
            tile=tile,
            overlap=overlap,
            batch=self.batch,
            sampler=self.sampler,
            start=self.start,
            acceleration=self.acceleration,
        )
        return RestorationOptions(sampling, self.prior, self.prior_days, self.max_spread, self.use_model)

    @property
    def acceleration(self) -> Acceleration:
        """How the networks are run."""
        return Acceleration(
            precision=self.precision,
            compiled=self.compiled,
            winograd=self.winograd,
            allocation_every=self.allocation_every,
        )

    @property
    def quality_gate(self) -> Gate | None:
        """Thresholds of a product's quality; None where the gate is off. They change no pixel."""
        if self.gate is GateMode.OFF:
            return None
        return Gate(**{field.name: getattr(self, f"gate_{field.name}") for field in fields(Gate)})

    @property
    def drift_limits(self) -> DriftLimits:
        """Thresholds of drift."""
        return DriftLimits(
            psi_watch=self.drift_psi_watch,
            psi_alarm=self.drift_psi_alarm,
            shift_scale=self.drift_shift_scale,
            confidence=self.drift_confidence,
            margin=self.drift_margin,
        )

    @property
    def gate_limits(self) -> dict[str, float] | None:
        """The thresholds as JSON values; None where the gate is off."""
        gate = self.quality_gate
        return None if gate is None else gate_document(gate)

    @property
    def _tiling(self) -> tuple[int, int]:
        """Side of a tile and overlap, pixels."""
        side = self.tile or (_TILE_FOR_SCENES if self.prior is Prior.NONE else _TILE_FOR_GAPS)
        shared = max(_COARSEST, side // _SHARED // _COARSEST * _COARSEST)
        return side, shared if self.overlap is None else self.overlap

    @property
    def reading(self) -> ReadOptions:
        """How scenes are read."""
        return ReadOptions(
            self.cloud_dilation_m,
            self.shadow_dilation_m,
            self.timeout_s,
            interpolation=self.interpolation,
            radiometry_check=self.radiometry_check,
            masks=self.masks,
            mask_rule=self.mask_rule,
            persistent_bright=self.persistent_bright,
            access=self.access,
        )

    @property
    def patience(self) -> Patience:
        """How sources are waited for."""
        return Patience(self.timeout_s, self.search_s, self.search_retries)

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that changes pixels, as JSON values: part of a work unit's identity."""
        names = {
            "bands", "seed", "samples", "sampler", "steps", "start", "eta", "use_model", "prior", "prior_days",
            "cloud_dilation_m", "shadow_dilation_m", "masks", "mask_rule", "persistent_bright",
            "radiometry_check", "max_spread", "interpolation",
        }  # fmt: skip
        tile, overlap = self._tiling
        # Options of speed are named where they are taken: works made without them keep their identity.
        return (
            self.model_dump(mode="json", include=names)
            | {"tile": tile, "overlap": overlap}
            | self.acceleration.recorded
        )


def has_password(ledger_url: str) -> bool:
    """Tell whether the URL of a ledger holds a password."""
    if not ledger_url:
        return False
    from flows.ledger.database import parse_url

    return bool(parse_url(ledger_url).password)


def _state_beside(out: Location) -> Path:
    """Return the folder of a catalog's local state: inside it, or where this user keeps state when it is remote."""
    if isinstance(out, Path):
        return out / ".unveil"
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "unveil" / hashlib.sha256(str(out).encode()).hexdigest()[:16]
