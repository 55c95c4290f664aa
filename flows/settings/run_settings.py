"""The settings of a run: where things are, and all subjects in one model."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flows.settings.fields import (
    AreaSettings,
    CommaSeparated,
    GridKind,
    JudgingSettings,
    Mark,
    RunningSettings,
    SettingsGroup,
)
from flows.settings.restoring import RestoringSettings
from stac.catalog.indexes.base import index_secret
from stac.grid.footprint import grown
from stac.io.addresses import host_of
from stac.io.files import folder_problem
from stac.io.s3 import Location, S3Options, parse_location
from stac.io.secrets import holds_secret, keep
from stac.io.signing import PLANETARY_COMPUTER_TOKENS, Access, Signing, SigningOptions
from stac.load.stack import ReadOptions
from stac.masks.combination import MaskKind
from stac.search.providers import provider_of
from stac.search.source import Query


class PlaceSettings(SettingsGroup):
    """Where a run reads, writes and remembers."""

    title = "Places and services"
    marks = frozenset({Mark.NOT_IN_ID, Mark.LOCAL})

    out: Annotated[Location, PlainValidator(parse_location), PlainSerializer(str)] = Field(
        Path("unveil-out"), description="catalog that is written: a folder, or s3://BUCKET/PREFIX"
    )
    indexes: Annotated[tuple[SecretStr, ...], NoDecode, CommaSeparated, Mark.HIDDEN] = Field(
        (),
        description="searchable copies that follow the catalog: https://HOST/PATH of a STAC API with transactions, "
        "postgresql://USER@HOST/DATABASE with pgstac (docs/indexes.md)",
        json_schema_extra={"option": "--index"},
    )
    public_root: str = Field(
        "", description="address of the catalog in the copies' hrefs, e.g. https://HOST/catalog; `out` when left out"
    )
    state_dir: Path | None = Field(
        None,
        description="local folder of ledger, model registry, staging and logs; `<out>/.unveil`, or for a catalog on "
        "S3 `~/.local/state/unveil/<hash of out>`",
    )
    geoparquet: bool = Field(True, description="keep the items of each collection as GeoParquet, too, one file a month")
    signing: Signing | None = Field(
        None,
        description="how hrefs are signed when read: none or planetary-computer; as the source asks when left out",
    )
    signing_url: Annotated[str, Mark.ADDRESS] = Field(
        PLANETARY_COMPUTER_TOKENS, description="token service of signed archives"
    )
    allow_hosts: Annotated[tuple[str, ...], NoDecode, CommaSeparated] = Field(
        (), description="hosts inside this network that a source may link to, besides its own (docs/security.md)"
    )
    s3_endpoint: Annotated[str | None, Mark.ADDRESS] = Field(
        None, description="address of an S3 service other than AWS"
    )
    s3_region: str | None = Field(None, description="region of the buckets")
    s3_anonymous: bool = Field(False, description="do not sign requests to S3: public buckets")
    s3_requester_pays: bool = Field(False, description="agree to pay for what is read from S3")
    s3_profile: str | None = Field(None, description="section of the AWS configuration files with the credentials")
    mlflow_uri: Annotated[str | None, Mark.ADDRESS] = Field(
        None, description="MLflow server or database; a local one when left out"
    )
    # The ledger of work.
    ledger_url: Annotated[SecretStr | None, Mark.HIDDEN] = Field(
        None, description="postgresql+psycopg://USER@HOST/DATABASE; a file in the state folder when left out"
    )
    lease_s: float = Field(120, ge=1, description="a unit whose run stands still for so long is free again, seconds")
    held_wait_s: float = Field(150, ge=0, description="wait at the end for units that other runs hold, seconds")

    @field_validator("out", "state_dir")
    @classmethod
    def _nameable(cls, place: Location | None) -> Location | None:
        if isinstance(place, Path) and (problem := folder_problem(place)):
            raise ValueError(problem)
        return place

    @property
    def state(self) -> Path:
        """Folder of ledger, model registry and logs."""
        return self.state_dir or _state_beside(self.out)

    @property
    def index_addresses(self) -> tuple[str, ...]:
        """Addresses of the indexes; a database's may hold its password."""
        return tuple(address.get_secret_value() for address in self.indexes)

    @property
    def s3(self) -> S3Options:
        """How S3 is spoken to."""
        return S3Options(self.s3_endpoint, self.s3_region, self.s3_requester_pays, self.s3_anonymous, self.s3_profile)


def has_password(ledger_url: str) -> bool:
    """Return whether the URL of a ledger holds a password."""
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


class RunSettings(AreaSettings, PlaceSettings, RestoringSettings, JudgingSettings, RunningSettings, BaseSettings):
    """Everything a run depends on."""

    model_config = SettingsConfigDict(env_prefix="UNVEIL_", extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def search(self) -> Query:
        """What to search for: the query with `composite_days` more, on a fixed grid with all cells it touches.

        So a cell finds the same scenes whatever box it was touched by.
        """
        query = self.query.widened(self.composite_days)
        if self.grid is GridKind.NATIVE or query.bbox is None:
            return query
        return replace(query, bbox=grown(query.bbox, self.resolution * self.cell_size))

    @property
    def access(self) -> Access:
        """How bytes are reached: signing, S3, and the hosts inside this network that may be asked."""
        keep(self.source)  # a process that only reads pixels knows its login from here
        named = {host_of(self.source), host_of(self.s3_endpoint or ""), *(each.lower() for each in self.allow_hosts)}
        signing = SigningOptions(self.signing or self._asked_signing, self.signing_url)
        return Access(self.s3, signing, frozenset(named) - {""}, self.timeout_s)

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
        secret = {name for name in marked(Mark.ADDRESS) if holds_secret(getattr(self, name) or "")}
        values = self.model_dump(mode="json", exclude=secret | marked(Mark.HIDDEN))
        if self.ledger_url is not None and not has_password(self.ledger_url.get_secret_value()):
            values["ledger_url"] = self.ledger_url.get_secret_value()
        if not any(index_secret(address) for address in self.index_addresses):
            values["indexes"] = list(self.index_addresses)
        return values

    @property
    def reading(self) -> ReadOptions:
        """How scenes are read."""
        return ReadOptions(
            self.cloud_dilation_m,
            self.shadow_dilation_m,
            interpolation=self.interpolation,
            radiometry_check=self.radiometry_check,
            masks=self.masks,
            mask_rule=self.mask_rule,
            temporal=not self.masks or MaskKind.TEMPORAL in self.masks,
            access=self.access,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that changes pixels, as JSON values: part of a work unit's identity."""
        names = type(self).model_fields.keys() - marked(Mark.NOT_IN_ID)
        return self.model_dump(mode="json", include=names) | asdict(self.restoration.sampling)


#: Subjects in the order of the command line.
_GROUPS: tuple[type[SettingsGroup], ...] = (
    AreaSettings,
    PlaceSettings,
    RestoringSettings,
    JudgingSettings,
    RunningSettings,
)


def groups() -> list[tuple[str, dict[str, FieldInfo]]]:
    """Return the settings by subject: its title, and its fields by name."""
    return [(group.title, group.model_fields) for group in _GROUPS]


def marked(mark: Mark) -> frozenset[str]:
    """Return the names of the settings that a mark is on, itself or by its group."""
    return frozenset(name for group in _GROUPS for name in group.model_fields if mark in group.marks_of(name))
