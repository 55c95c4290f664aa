"""What a Dask worker of a run is told when it starts, also when it starts again in place of one that died."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import dask
from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from flows import __version__
from flows.runners.worker_process import follow_parent, limit_threads, use_gpu
from stac.io.secrets import Kept, take


class Begin(WorkerPlugin):
    """Makes a worker of this machine ready: its share of the cores, its GPU, and all that a task imports."""

    name = "unveil"

    def __init__(self, threads: int, gpus: int, secrets: Kept) -> None:
        """Tell what the worker gets.

        Args:
            threads: of numeric libraries.
            gpus: GPUs to be shared out by the number of the worker; 0 where it sees what it should already.
            secrets: logins and signatures of addresses.
        """
        self._threads, self._gpus, self._secrets = threads, gpus, secrets

    def setup(self, worker: Worker) -> None:
        """Run in the worker, before its first task."""
        take(self._secrets)
        follow_parent()
        if self._gpus:
            use_gpu(int(worker.name) % self._gpus)
        limit_threads(self._threads)
        import_module("flows.tasks")


def looks(path: str) -> tuple[str, bool, bool]:
    """Return the version of Unveil on a worker, whether it sees a file of the run, and whether Dask profiles it."""
    import_module("flows.tasks")
    return __version__, Path(path).is_file(), bool(dask.config.get("distributed.worker.profile.enabled"))
