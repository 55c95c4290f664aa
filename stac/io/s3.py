"""Where a catalog is (a folder or an S3 prefix), how S3 is reached, and its objects through s3fs."""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import s3fs
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound
from botocore.session import Session as BotocoreClients
from rasterio.session import Session
from s3fs import S3FileSystem

from stac.errors import AccessRefused, InvalidQuery, SourceUnavailable, StacError, TargetUnavailable, UnreadableAsset
from stac.io.secrets import redact

_SCHEME = "s3://"
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; old buckets may hold capitals and `_`.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONNECT_S = 10
#: Attempts of one request, the first included.
_ATTEMPTS = 3
#: The precondition of a write that must find nothing there.
ABSENT = "*"
_DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"}
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_NO_CONDITIONS = {"NotImplemented", "501"}
#: Documents are small: s3fs is kept from asking for the size first, which would double the requests.
_WHOLE = {"max_concurrency": 1}


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


class PreconditionFailed(TargetUnavailable):
    """Another writer was faster."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """What a listing says about an object."""

    key: str
    etag: str
    #: Bytes.
    size: int
    modified: datetime


class Objects:
    """The objects of one S3 service.

    Every method may raise `AccessRefused` or `SourceUnavailable`; see `asking`.
    """

    def __init__(self, options: S3Options, timeout_s: float) -> None:
        self._options, self._timeout_s = options, timeout_s

    def read(self, place: S3Location) -> bytes | None:
        """Return an object's bytes, None where there is none."""
        path = f"{place.bucket}/{place.key}"
        found: bytes | None = self._if_there(place, lambda client: client.cat_file(path, **_WHOLE))
        return found

    def probe(self, place: S3Location) -> bool:
        """Return whether an object can be read, by reading one byte: unlike HEAD, a refusal then says its reason."""
        path = f"{place.bucket}/{place.key}"
        return self._if_there(place, lambda client: client.cat_file(path, start=0, end=1)) is not None

    def read_many(self, bucket: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of several objects by key, fetched at the same time; those that are gone are left out."""
        paths = [f"{bucket}/{key}" for key in keys]
        if not paths:
            return {}
        found: Mapping[str, bytes | Exception]
        with self._asking(S3Location(bucket)):
            found = self._client.cat(paths, on_error="return", **_WHOLE)
            if isinstance(found, bytes):  # a single path gives its bytes alone
                found = {paths[0]: found}
            for answer in found.values():
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
        return {path.partition("/")[2]: data for path, data in found.items() if isinstance(data, bytes)}

    def head(self, place: S3Location) -> S3Object | None:
        """Return what the service says about an object, None where there is none."""
        found = self._if_there(place, lambda client: client.call_s3("head_object", Bucket=place.bucket, Key=place.key))
        if found is None:
            return None
        return S3Object(place.key, found["ETag"], int(found["ContentLength"]), found["LastModified"])

    def listing(self, prefix: S3Location) -> Iterator[S3Object]:
        """Yield all objects below a prefix, by key; nothing where there is none."""
        for page in self._pages(prefix):
            for found in page.get("Contents", ()):
                yield S3Object(found["Key"], found["ETag"], int(found["Size"]), found["LastModified"])

    def folders(self, prefix: S3Location) -> list[str]:
        """Return the names right below a prefix that hold objects."""
        pages = self._pages(prefix, Delimiter="/")
        below = (each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ()))
        return [posixpath.basename(name.rstrip("/")) for name in below]

    def write(self, place: S3Location, content: bytes, media_type: str, expected: str | None = None) -> None:
        """Write an object.

        Args:
            place: bucket and key.
            content: all bytes.
            media_type: sent to readers over HTTP.
            expected: ETag that must be there (`If-Match`), `ABSENT` where nothing may be (`If-None-Match`).

        Raises:
            PreconditionFailed: something else is there.
        """
        condition = {}
        if expected is not None:
            condition = {"IfNoneMatch": ABSENT} if expected == ABSENT else {"IfMatch": expected}
        with self._asking(place):
            self._client.call_s3(
                "put_object", Bucket=place.bucket, Key=place.key, Body=content, ContentType=media_type, **condition
            )

    def upload(self, file: Path, place: S3Location, media_type: str) -> None:
        """Write a file, in parts where it is large."""
        with self._asking(place):
            self._client.put_file(str(file), f"{place.bucket}/{place.key}", ContentType=media_type)

    def download(self, place: S3Location, file: Path) -> None:
        """Copy an object into a file of this machine.

        Raises:
            UnreadableAsset: the object is missing.
        """
        with self._asking(place):
            try:
                self._client.get_file(f"{place.bucket}/{place.key}", str(file))
            except FileNotFoundError as error:
                _require_bucket(error)
                raise UnreadableAsset(f"{place} is not there; check again, or make its product again.") from error

    @contextmanager
    def at_hand(self, place: S3Location) -> Iterator[Path]:
        """Yield a copy of an object in a temporary folder, under its own name."""
        with tempfile.TemporaryDirectory(prefix="unveil-") as folder:
            copy = Path(folder) / place.name
            self.download(place, copy)
            yield copy

    def remove(self, bucket: str, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no error."""
        for key in keys:
            with self._asking(S3Location(bucket, key)):
                self._client.call_s3("delete_object", Bucket=bucket, Key=key)

    def _pages(self, prefix: S3Location, **options: str) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a listing."""
        start = f"{prefix.key}/" if prefix.key else ""
        more: dict[str, str] = {}
        while True:
            with self._asking(prefix):
                page = self._client.call_s3("list_objects_v2", Bucket=prefix.bucket, Prefix=start, **options, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _if_there(self, place: S3Location, ask: Callable[[S3FileSystem], Any]) -> Any:
        """Return what a request for an object returns, None for a missing object; a missing bucket is an error."""
        with self._asking(place):
            try:
                return ask(self._client)
            except FileNotFoundError as error:
                _require_bucket(error)
                return None

    @property
    def _client(self) -> S3FileSystem:
        return filesystem(self._options, self._timeout_s)

    def _asking(self, place: S3Location) -> AbstractContextManager[None]:
        return asking(place, self._options)


@contextmanager
def asking(place: S3Location, options: S3Options) -> Iterator[None]:
    """Turn what an S3 service answers into our errors.

    Raises:
        AccessRefused: the bucket does not exist, the rights or the credentials do not suffice.
        PreconditionFailed: a condition of a write does not hold.
        SourceUnavailable: the service does not answer in time, or refuses for another reason.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise AccessRefused(
            f"{place}: no AWS credentials were found ({_short(error)}); set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or read a public bucket with s3_anonymous."
        ) from error
    except (BotoCoreError, TimeoutError) as error:
        raise SourceUnavailable(
            f"{place}: {options.endpoint_url or 'the S3 service'} does not answer ({_short(error)}); "
            "check s3_endpoint and the network, and try again."
        ) from error
    except (OSError, ClientError) as error:
        raise _meaning(place, error) from error


def error_code(error: BaseException) -> str:
    """Return the code of an S3 error, empty when it is none: `NoSuchBucket`, `AccessDenied`, `412`."""
    for each in (error, error.__cause__):
        if isinstance(each, ClientError):
            return str(each.response.get("Error", {}).get("Code", ""))
    return ""


def _meaning(place: S3Location, error: Exception) -> StacError:
    code = error_code(error)
    if code in _LOST:
        return PreconditionFailed(f"{place} was changed by another writer; try again.")
    if code == "NoSuchBucket":
        return AccessRefused(f"{place}: the bucket {place.bucket} does not exist; check its name and s3_endpoint.")
    if code in _DENIED or isinstance(error, PermissionError):
        return AccessRefused(
            f"{place}: access is denied ({code or _short(error)}); check the AWS credentials, s3_profile, "
            "s3_requester_pays and the rights on the bucket."
        )
    if code in _NO_CONDITIONS:
        return AccessRefused(f"{place}: the service does not support what was asked ({code}).")
    return SourceUnavailable(f"{place}: the S3 service refuses ({code or _short(error)}); try again later.")


def _require_bucket(error: FileNotFoundError) -> None:
    """Pass over a missing object; a missing bucket is an error."""
    if error_code(error) == "NoSuchBucket":
        raise error


def _short(error: Exception) -> str:
    text = redact(str(error)).splitlines()
    return (text[0] if text else type(error).__name__)[:200]


def key_below(prefix: S3Location, key: str) -> str:
    """Return a key relative to a prefix."""
    return posixpath.relpath(key, prefix.key) if prefix.key else key


def media_type_of(name: str) -> str:
    """Return the media type of a file of a product or catalog."""
    known = {
        ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
        ".png": "image/png",
        ".html": "text/html; charset=utf-8",
        ".json": "application/json",
        ".parquet": "application/vnd.apache.parquet",
    }
    return known.get(posixpath.splitext(name)[1], "application/octet-stream")
