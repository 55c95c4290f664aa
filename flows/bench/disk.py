"""How fast a folder's disk takes and gives bytes, by plain writing and reading."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_CHUNK, _CHUNKS = 2**24, 16


@dataclass(frozen=True, slots=True)
class DiskRates:
    """Bytes per second."""

    #: Until the disk says that it has them.
    write: float
    #: The same file, after the system was asked to forget it; it may keep it all the same.
    read: float


def disk_rates() -> DiskRates:
    """Write and read a file of 256 MiB in the folder for temporary files."""
    chunk = os.urandom(_CHUNK)
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        path = Path(folder) / "bytes"
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(_CHUNKS):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter() - began
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            while file.read(_CHUNK):
                pass
            read = time.perf_counter() - began
    return DiskRates(_CHUNK * _CHUNKS / written, _CHUNK * _CHUNKS / read)
