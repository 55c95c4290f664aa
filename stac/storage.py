"""Writing files so that they are there whole or not at all, and saying why when they cannot be."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stac.errors import DiskFull, NotWritable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a failed write into our errors, naming `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise DiskFull(f"No room to write {path} ({reason}); free some space or choose another --out.") from error
        raise NotWritable(
            f"{path} cannot be written ({reason}); check its permissions or choose another --out."
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically: readers see the old or the new one, never a part.

    Raises:
        DiskFull: there is no room.
        NotWritable: the folder cannot be written.
    """
    write_bytes(path, json_bytes(document))


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as it is written everywhere: the same values give the same bytes."""
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: readers see the old or the new one, never a part.

    Raises:
        DiskFull: there is no room.
        NotWritable: the folder cannot be written.
    """
    with writing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
