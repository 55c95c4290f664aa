"""What makes a process a worker of a run: its share of the cores, its GPU, its secrets, and an end with the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any

import psutil

from stac.io.cores import cores
from stac.io.secrets import Kept, take

#: What one process with a work unit in hand may need, bytes (docs/results/tile.md).
_PROCESS_BYTES = 2.5 * 2**30


@dataclass(frozen=True, slots=True)
class Share:
    """How a machine is shared by the workers of one run."""

    workers: int
    #: Threads of numeric libraries in each worker, so that all of them together fill the cores.
    threads: int


def share_of(wanted: int | None, gpus: int, threads: int | None = None) -> Share:
    """Return how this machine is shared.

    Args:
        wanted: workers asked for; None for one per GPU, or per core as far as memory goes without a GPU.
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


def inherited(threads: int) -> dict[str, str]:
    """Return the variables that a worker process starts with.

    Prefect's threads know what its settings were when it was loaded, and would start a server of their own where these
    named none.

    Args:
        threads: of numeric libraries.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return settings | {"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"} | thread_limits(threads)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started while the context is open inherit some variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def begin_worker(threads: int, secrets: Kept, gpu: int | None = None) -> None:
    """Make this process a worker.

    Args:
        threads: of numeric libraries.
        secrets: logins and signatures of addresses, which travel from memory to memory only.
        gpu: the one GPU that it sees; None where all may see all.
    """
    take(secrets)
    follow_parent()
    if gpu is not None:
        use_gpu(gpu)
    limit_threads(threads)


def begin_pool_worker(threads: int, secrets: Kept, gpus: Any = None) -> None:
    """Make this process of a pool a worker; `gpus` is a queue that holds the number of a GPU for each of them."""
    begin_worker(threads, secrets, None if gpus is None else gpus.get())


def limit_threads(threads: int) -> None:
    """Let numeric libraries of this process use so many threads, also those that are loaded later."""
    os.environ.update(thread_limits(threads))
    import torch

    torch.set_num_threads(threads)


def use_gpu(number: int) -> None:
    """Let this process see one GPU only; has to be called before anything is done on a GPU.

    Args:
        number: counted among those that the process sees until now.
    """
    import torch

    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[number % len(seen)] if seen else str(number)
    # From here on the variable may change, as Prefect gives every task the environment of its run.
    torch.cuda.init()  # type: ignore[no-untyped-call]


def follow_parent() -> None:
    """End this process when the one that started it has ended, also by SIGKILL; leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
