"""The runners by name, and how they share a machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

import psutil

from stac.io.cores import cores

#: What one process with a work unit in hand may need, bytes (docs/results/unit.md).
_PROCESS_BYTES = 2.5 * 2**30


@unique
class RunnerKind(StrEnum):
    """Where work units are restored."""

    #: One after the other, in the process of the run.
    SERIAL = "serial"
    #: In threads of that process.
    THREADS = "threads"
    #: In processes of this machine.
    PROCESSES = "processes"
    #: In the workers of a Dask cluster: of this machine, or one whose scheduler is named.
    DASK = "dask"


@dataclass(frozen=True, slots=True)
class Share:
    """How a machine is shared by the workers of one run."""

    workers: int
    #: Threads of numeric libraries in each worker, so that all of them together fill the cores.
    threads: int

    @property
    def in_flight(self) -> int:
        """Units that the run holds at once: while one is published its worker has the next one already."""
        return self.workers + max(1, self.workers // 4)


def share_of(wanted: int | None, gpus: int, threads: int | None = None) -> Share:
    """Return how this machine is shared.

    Args:
        wanted: workers asked for; None for one per GPU, or per core as far as memory goes where there is no GPU.
        gpus: GPUs that are used.
        threads: of each worker, where they are asked for.
    """
    here = cores()
    fits = int(psutil.virtual_memory().total // _PROCESS_BYTES)
    workers = wanted or gpus or max(1, min(here, fits))
    return Share(workers, threads or max(1, here // workers))


def thread_limits(threads: int) -> dict[str, str]:
    """Return the variables that numeric libraries read when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))
