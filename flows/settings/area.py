"""Settings of what is searched, and of the cells that work is divided into."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from pydantic_settings import NoDecode

from flows.settings.kinds import SAMPLE, GridKind
from flows.settings.words import Commas
from stac.grid.fixed import GridSpec
from stac.io.secrets import redact, without_secret
from stac.search.opening import Patience
from stac.search.query import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL


class AreaSettings(BaseModel):
    """Which scenes, of which place and time, on which grid."""

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
    grid: GridKind = Field(GridKind.NATIVE, description="native: the tiles of the scenes; fixed: cells over any area")
    grid_crs: int | None = Field(None, description="EPSG code of the fixed grid, in metres; UTM zones when left out")
    resolution: float = Field(10, gt=0, description="pixel size of the fixed grid, metres, 0.01 to 100 000")
    cell_size: int = Field(2048, ge=64, description="side of a cell of the fixed grid, pixels")
    grid_origin: Annotated[tuple[float, float], NoDecode, Commas] = Field(
        (0.0, 0.0), description="x,y of a corner of a cell, metres; to share the pixels of an archive"
    )
    min_coverage: float = Field(
        1, ge=0, le=100, description="dates whose footprints cover less of a cell (percent) are left out"
    )
    max_pixels: int = Field(250_000_000, ge=1, description="largest area of one work unit, pixels")
    timeout_s: float = Field(60, gt=0, description="time-out of one request, seconds")
    search_s: float = Field(600, gt=0, description="longest time of a search with all its pages and retries, seconds")
    search_retries: int = Field(
        4, ge=0, le=20, description="attempts after a first one that failed for a passing reason"
    )

    @property
    def fixed_grid(self) -> GridSpec:
        """The fixed grid; raises `InvalidQuery` when there is no such grid."""
        return GridSpec(self.resolution, self.cell_size, self.grid_crs, self.grid_origin)

    @property
    def query(self) -> Query:
        """What to search for; raises `InvalidQuery` when the area or the interval makes no sense."""
        return Query.parse(self.collection, self.bbox, self.datetime)

    @property
    def shown_source(self) -> str:
        """The source for people and reports."""
        return redact(without_secret(self.source))

    @property
    def patience(self) -> Patience:
        """How sources are waited for."""
        return Patience(self.timeout_s, self.search_s, self.search_retries)
