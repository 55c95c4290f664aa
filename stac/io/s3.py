"""Where a catalog is (a folder or an S3 prefix) and how S3 is reached."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import s3fs
from botocore.exceptions import NoCredentialsError
from botocore.session import Session as BotocoreClients
from rasterio.session import Session

from stac.errors import InvalidQuery

_SCHEME = "s3://"
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; old buckets may hold capitals and `_`.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a key or prefix in it; joined and named like a path."""

    bucket: str
    #: Without slashes at its ends; empty for the bucket itself.
    key: str = ""

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.key}" if self.key else f"{_SCHEME}{self.bucket}"

    def __truediv__(self, name: str) -> S3Location:
        return S3Location(self.bucket, str(PurePosixPath(self.key) / name) if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The last part of the key without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def parent(self) -> S3Location:
        """The prefix that holds this key."""
        above = str(PurePosixPath(self.key).parent)
        return S3Location(self.bucket, "" if above == "." else above)

    @property
    def gdal_path(self) -> str:
        """The name under which GDAL opens the object."""
        return f"/vsis3/{self.bucket}/{self.key}"


Location = Path | S3Location


def is_s3(href: str) -> bool:
    """Return whether an href names an object in S3."""
    return href.lower().startswith(_SCHEME)


def s3_location(href: str) -> S3Location:
    """Return the bucket and key of an `s3://bucket/key` href.

    Raises:
        InvalidQuery: there is no bucket, or the key leads upwards or holds control characters.
    """
    bucket, _, key = href[len(_SCHEME) :].partition("/")
    key = key.strip("/")
    parts = key.split("/")
    if not is_s3(href) or not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidQuery(f"{href!r} names no bucket; write s3://BUCKET/PREFIX.")
    if key and (any(part in ("", ".", "..") for part in parts) or not key.isprintable() or "?" in key):
        raise InvalidQuery(f"{href!r} is not a plain key of an object; it may hold no empty part, '..' or '?'.")
    return S3Location(bucket, key)


def parse_location(text: object) -> Location:
    """Return the location that a path or `s3://bucket/prefix` means.

    Raises:
        InvalidQuery: it is empty, or of a kind that cannot be written.
    """
    if isinstance(text, (Path, S3Location)):
        return text
    if not isinstance(text, str):
        raise InvalidQuery(f"{text!r:.100} is not a folder; give a path or s3://BUCKET/PREFIX.")
    if is_s3(text):
        return s3_location(text)
    if not text.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        raise InvalidQuery(f"{text!r} is not a folder; give a path or s3://BUCKET/PREFIX.")
    return Path(text)


_CONNECT_S = 10
#: Attempts of one request, the first included.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where an S3 service is and as whom it is asked. Holds no secret."""

    #: Address of a service other than AWS: `https://minio.example.org`.
    endpoint_url: str | None = None
    region: str | None = None
    #: The reader pays for what is read; asked for by some public archives.
    requester_pays: bool = False
    #: Requests are not signed: public buckets, no account needed.
    anonymous: bool = False
    #: Section of the AWS configuration files.
    profile: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint_url is not None:
            address = urlsplit(self.endpoint_url)
            if address.scheme not in ("http", "https") or not address.hostname or address.username or address.query:
                raise InvalidQuery("The S3 endpoint must be an address such as https://minio.example.org.")

    def gdal(self) -> dict[str, Any]:
        """Return GDAL's settings for `/vsis3/`; none where the defaults of GDAL and the environment hold.

        See https://gdal.org/en/stable/user/virtual_file_systems.html#vsis3.
        """
        settings: dict[str, Any] = {}
        if self.endpoint_url is not None:
            address = urlsplit(self.endpoint_url)
            settings["AWS_S3_ENDPOINT"] = address.netloc + address.path.rstrip("/")
            settings["AWS_HTTPS"] = address.scheme == "https"
            settings["AWS_VIRTUAL_HOSTING"] = False
        if self.region is not None:
            settings["AWS_REGION"] = self.region
        if self.anonymous:
            settings["AWS_NO_SIGN_REQUEST"] = True
        elif self.region is None and (region := _session(self.profile).get_config_variable("region")):
            settings["AWS_REGION"] = region
        if self.requester_pays:
            settings["AWS_REQUEST_PAYER"] = "requester"
        return settings

    def s3fs(self, timeout_s: float) -> dict[str, Any]:
        """Return the arguments of `s3fs.S3FileSystem`.

        Args:
            timeout_s: longest wait for one answer, seconds.
        """
        client = {"endpoint_url": self.endpoint_url, "region_name": self.region}
        return {
            "anon": self.anonymous,
            "requester_pays": self.requester_pays,
            **({"profile": self.profile} if self.profile is not None else {}),
            "client_kwargs": {name: value for name, value in client.items() if value is not None},
            "config_kwargs": {
                "connect_timeout": min(timeout_s, _CONNECT_S),
                "read_timeout": timeout_s,
                "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
            },
        }


class BotocoreSession(Session):
    """Hands GDAL the credentials that botocore finds, so that GDAL and s3fs never ask as two different people.

    botocore knows every source of credentials (variables, files, single sign-on, roles) and renews those that expire.
    """

    def __init__(self, options: S3Options) -> None:
        """Look the credentials up.

        Raises:
            NoCredentialsError, ProfileNotFound: there are none, and requests are not anonymous.
        """
        self._named: dict[str, str] = {}
        if options.anonymous:
            return
        found = _session(options.profile).get_credentials()
        if found is None:
            raise NoCredentialsError
        keys = found.get_frozen_credentials()
        self._named = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
        if keys.token:
            self._named["AWS_SESSION_TOKEN"] = keys.token

    def get_credential_options(self) -> dict[str, str]:
        """Return the credentials as GDAL settings; none for anonymous requests."""
        return dict(self._named)


@lru_cache(maxsize=16)
def _session(profile: str | None) -> BotocoreClients:
    return BotocoreClients(profile=profile)


def forget_clients() -> None:
    """Drop clients and credentials, so that changed variables and files are seen."""
    _session.cache_clear()
    _filesystem.cache_clear()


def filesystem(options: S3Options, timeout_s: float) -> s3fs.S3FileSystem:
    """Return the client of a service; one per process and options, because its event loop does not survive a fork."""
    return _filesystem(options, timeout_s, os.getpid())


@lru_cache(maxsize=16)
def _filesystem(options: S3Options, timeout_s: float, pid: int) -> s3fs.S3FileSystem:
    del pid  # part of the cache's key
    client = s3fs.S3FileSystem(**options.s3fs(timeout_s), use_listings_cache=False, skip_instance_cache=True)
    # s3fs repeats on top of botocore's attempts; together they stay few.
    client.retries = 2
    return client
