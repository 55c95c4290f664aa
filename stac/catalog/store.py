"""Where a catalog is written: a folder (`store_folder`) or a prefix in an S3 bucket (`store_s3`).

Both have the same methods and keep the same promises, which `FolderTarget` writes down: names are paths relative to the
root, with forward slashes; a product is there when its item is, and files without an item are invisible.
"""

from __future__ import annotations

from pathlib import Path

from stac.catalog.store_folder import FolderTarget
from stac.catalog.store_s3 import S3Target, TargetObjects
from stac.io.s3 import Location, S3Location, S3Options

Target = FolderTarget | S3Target
#: What a crash leaves behind is cleared away when it has not changed for so long, seconds.
ABANDONED_S = 7 * 24 * 3600.0
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
        return S3Target(root, TargetObjects(s3 or S3Options(), _TIMEOUT_S), workspace)
    return FolderTarget(root)
