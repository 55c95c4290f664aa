"""What a mosaic is made of, beside the settings of a run."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from stac.composite.period import Method


class MosaicOptions(BaseModel):
    """Period, region and method of mosaics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period: str = Field(
        default="month",
        description="dekad, month, quarter, season, year: parts of `datetime`; dates: all of it; or one by name: "
        "2018-07, 2018-07-D2, 2018-Q3, 2018-JJA, 2018",
    )
    last: int | None = Field(
        default=None, ge=1, description="so many of the periods that ended last, instead of `datetime`"
    )
    method: Method = Field(
        default=Method.MEDIAN,
        description="median, geomedian, medoid, quantile, or best (one date, completed by the others)",
    )
    quantile: float = Field(default=0.5, ge=0, le=1, description="of the method quantile")
    region: Path | None = Field(
        default=None, description="GeoJSON file of the region; the `bbox` of the settings without one"
    )
    name: str | None = Field(
        default=None, max_length=60, description="name of the region in ids; that of the file, or made from the box"
    )
    nbar: bool = Field(
        default=False, description="Sentinel-2 reflectance as seen from straight above, so that orbits agree"
    )

    @field_validator("quantile")
    @classmethod
    def _of_its_method(cls, value: float, given: ValidationInfo) -> float:
        if value != cls.model_fields["quantile"].default and given.data.get("method") is not Method.QUANTILE:
            raise ValueError("it is of method quantile; choose that method, or leave it out")
        return value

    @field_validator("nbar")
    @classmethod
    def _best_keeps_pixels(cls, value: bool, given: ValidationInfo) -> bool:
        if value and given.data.get("method") is Method.BEST:
            raise ValueError("method best keeps the pixels of one date, nbar changes them all; choose another method")
        return value
