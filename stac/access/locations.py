"""Where a catalog lies: a folder of this machine, or a prefix in an S3 bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
    """Tell whether an href names an object in S3."""
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
        raise InvalidQuery(f"{href!r} is no plain key of an object; it may hold no empty part, '..' or '?'.")
    return S3Location(bucket, key)


def parse_location(text: object) -> Location:
    """Return the location that a path or `s3://bucket/prefix` means.

    Raises:
        InvalidQuery: it is empty, or of a kind that cannot be written.
    """
    if isinstance(text, (Path, S3Location)):
        return text
    if not isinstance(text, str):
        raise InvalidQuery(f"{text!r:.100} is no folder; give a path or s3://BUCKET/PREFIX.")
    if is_s3(text):
        return s3_location(text)
    if not text.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        raise InvalidQuery(f"{text!r} is no folder; give a path or s3://BUCKET/PREFIX.")
    return Path(text)
