"""Where a catalog is written: a folder, or a prefix in an S3 bucket, behind one small interface."""

from __future__ import annotations

from pathlib import Path

from stac.catalog.store import Target
from stac.catalog.store_folder import FolderTarget
from stac.catalog.store_s3 import S3Target
from stac.io.objects import Objects
from stac.io.s3 import Location, S3Location, S3Options

__all__ = ["Target", "target_at"]

#: Longest wait for one answer of an S3 service, seconds.
_TIMEOUT_S = 60.0


def target_at(root: Location, s3: S3Options | None = None, workspace: Path | None = None) -> Target:
    """Return the target at a location.

    Args:
        root: folder or S3 prefix of the catalog.
        s3: where S3 is and as whom it is asked.
        workspace: local folder in which products for S3 are made; a folder target needs none.
    """
    if isinstance(root, S3Location):
        return S3Target(root, Objects(s3 or S3Options(), _TIMEOUT_S), workspace)
    return FolderTarget(root)
