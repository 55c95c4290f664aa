"""Objects in S3 through s3fs: read, written under a condition, listed; every refusal said in one sentence."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound
from s3fs import S3FileSystem

from stac.errors import AccessRefused, SourceUnavailable, StacError, TargetUnavailable, UnreadableAsset
from stac.io.s3 import S3Location, S3Options, filesystem
from stac.io.secrets import redact

#: The precondition of a write that must find nothing there.
ABSENT = "*"
_DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"}
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_NO_CONDITIONS = {"NotImplemented", "501"}


class PreconditionFailed(TargetUnavailable):
    """Another writer was faster."""


#: Documents are small: s3fs is kept from asking for the size first, which would double the requests.
_WHOLE = {"max_concurrency": 1}


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
            UnreadableAsset: there is no such object.
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
        """Return what a request for an object returns, None where there is no object; a missing bucket is an error."""
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
