"""Settings by subject: area, judging, execution; their enumerations and checked types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from enum import StrEnum, unique
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_settings import NoDecode

from stac.errors import InvalidQuery
from stac.grid.fixed import GridSpec
from stac.io.http import RetryPolicy
from stac.io.secrets import redact, without_secret
from stac.quality.gate import Gate
from stac.search.source import ALL_DATES, Query
from stac.search.static import SAMPLE, SAMPLE_COLLECTION, SAMPLE_INTERVAL

#: Settings that native tiles do not use.
_OF_FIXED = ("resolution", "cell_size", "grid_crs", "grid_origin")
_GATE = Gate()


def _split(value: Any) -> Any:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


#: Part of the type of a setting, together with NoDecode: a string is words with commas between, not JSON.
CommaSeparated = BeforeValidator(_split)


def setting_name(place: Sequence[str | int]) -> str:
    """Return what people call the place of a value in settings, as a validation names it: `stages[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


@unique
class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


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


@unique
class Mark(StrEnum):
    """What holds of a setting; every one is part of a work unit's id and of a frozen plan unless marked."""

    #: No pixel depends on its value as it is. Scenes, cells and weights are in the id themselves.
    NOT_IN_ID = "no pixel depends on it"
    #: For the machine that executes a frozen plan: where products go, services, devices, waiting.
    LOCAL = "local"
    #: Address of a service, whose login is read from the environment alone.
    ADDRESS = "address"
    #: A database's address may hold its password.
    HIDDEN = "never shown"


def named_dates(source: str, datetime: str | None) -> str | None:
    """Return the dates that were named, or those that the sample is about; None where all are wanted."""
    return SAMPLE_INTERVAL if datetime is None and source == SAMPLE else datetime


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

    source: Annotated[str, Mark.ADDRESS] = Field(
        SAMPLE,
        description="`sample`, earth-search, planetary-computer, copernicus, sentinel-hub, copernicus-sentinel-hub, "
        "the URL of a STAC API, or the path or URL of a static catalog (docs/sources.md)",
    )
    collection: str = Field(SAMPLE_COLLECTION, description="collection to search")
    bbox: str | None = Field(None, description="west,south,east,north in degrees; everywhere when left out")
    datetime: str | None = Field(
        None,
        description="dates to restore: 2023-08-10/2023-08-20, 2023-08-10/.. until today, or one; left out, all of a "
        "static catalog, and those that the sample is about",
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
        """What to search for; raises `InvalidQuery` when the area, the interval or the grid makes no sense."""
        named = [name for name in _OF_FIXED if getattr(self, name) != AreaSettings.model_fields[name].default]
        if named and self.grid is GridKind.NATIVE:
            raise InvalidQuery(f"{named[0]} is of fixed grids, native tiles have their own; add --grid fixed.")
        return Query.parse(self.collection, self.bbox, self.dates or ALL_DATES)

    @property
    def shown_dates(self) -> str:
        """The dates for people and reports."""
        return self.dates or "all dates"

    @property
    def dates(self) -> str | None:
        """The dates that were named, or those of the sample; None where all are wanted."""
        return named_dates(self.source, self.datetime)

    @property
    def shown_source(self) -> str:
        """The source for people and reports."""
        return redact(without_secret(self.source))

    @property
    def retry_policy(self) -> RetryPolicy:
        """How sources are waited for."""
        return RetryPolicy(self.timeout_s, self.search_s, self.search_retries)


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
        return None if gate is None else asdict(gate)


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
    dask_scheduler: Annotated[str | None, Mark.ADDRESS] = Field(
        None, description="address of a Dask scheduler, e.g. tcp://HOST:8786; a cluster of this machine when left out"
    )
    allow_invalid: bool = Field(
        False, description="a run in which scenes are INVALID succeeds all the same; one that FAILED never does"
    )
    price_per_hour: float = Field(0, ge=0, description="of this machine, in any currency: for the cost of a scene")
