"""Settings of where things lie: the catalog that is written, its indexes, the state of runs, storage on S3."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, SecretStr, field_validator
from pydantic_settings import NoDecode

from flows.settings.words import Commas
from stac.io.access import S3Options
from stac.io.s3 import Location, parse_location
from stac.io.signing import PLANETARY_COMPUTER_TOKENS, Signing


class PlaceSettings(BaseModel):
    """Where a run reads, writes and remembers."""

    out: Annotated[Location, PlainValidator(parse_location), PlainSerializer(str)] = Field(
        Path("unveil-out"), description="catalog that is written: a folder, or s3://BUCKET/PREFIX"
    )
    # Secret, as the address of a database may hold its password.
    indexes: Annotated[tuple[SecretStr, ...], NoDecode, Commas] = Field(
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
    geoparquet: bool = Field(True, description="keep the items of each collection as GeoParquet, too, one file a month")
    signing: Signing | None = Field(
        None,
        description="how hrefs are signed when read: none or planetary-computer; as the source asks when left out",
    )
    signing_url: str = Field(PLANETARY_COMPUTER_TOKENS, description="token service of signed archives")
    allow_hosts: Annotated[tuple[str, ...], NoDecode, Commas] = Field(
        (), description="hosts inside this network that a source may link to, besides its own (docs/security.md)"
    )
    s3_endpoint: str | None = Field(None, description="address of an S3 service other than AWS")
    s3_region: str | None = Field(None, description="region of the buckets")
    s3_anonymous: bool = Field(False, description="do not sign requests to S3: public buckets")
    s3_requester_pays: bool = Field(False, description="agree to pay for what is read from S3")
    s3_profile: str | None = Field(None, description="section of the AWS configuration files with the credentials")
    mlflow_uri: str | None = Field(None, description="MLflow server or database; a local one when left out")
    # The ledger of work.
    ledger_url: SecretStr | None = Field(
        None, description="postgresql+psycopg://USER@HOST/DATABASE; a file in the state folder when left out"
    )
    lease_s: float = Field(120, ge=1, description="a unit whose run stands still for so long is free again, seconds")
    held_wait_s: float = Field(150, ge=0, description="wait at the end for units that other runs hold, seconds")
    log_json: Path | None = Field(None, description="file that the log is appended to, one JSON object a line")

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


def folder_problem(folder: Path) -> str:
    """Return why a folder cannot be used; empty where it can.

    Databases, links and GDAL name files by addresses, in which `?` and `#` end the path.
    """
    found = sorted({sign for sign in str(folder.absolute()) if sign in "?#" or not sign.isprintable()})
    if not found:
        return ""
    return (
        f"{str(folder.absolute())!r} holds {' and '.join(map(repr, found))}, which ends an address; name another folder"
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
