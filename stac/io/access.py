"""How the bytes behind an href are reached: signed, from S3, or as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from stac.io.s3 import S3Options
from stac.io.signing import SigningOptions

__all__ = ["Access", "S3Options", "SigningOptions"]


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that reading an asset needs to know besides its href. Holds no secret."""

    s3: S3Options = field(default_factory=S3Options)
    signing: SigningOptions = field(default_factory=SigningOptions)
    #: Hosts that the user named, which may be inside this network; None where every href is the caller's own.
    hosts: frozenset[str] | None = None
