"""The beginning of a process that restores work units for a run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from typing import Any

from flows.runners.kinds import thread_limits
from stac.io.secrets import Kept, take


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


def begin(threads: int, gpus: Any = None, secrets: Kept = ({}, {})) -> None:
    """Make this process a worker: its share of the cores, its GPU, and an end together with the run.

    Args:
        threads: of numeric libraries.
        gpus: a queue that holds the number of a GPU for every worker; None where all may see all.
        secrets: logins and signatures of addresses, which travel from memory to memory only.
    """
    take(secrets)
    follow_parent()
    if gpus is not None:
        use_gpu(gpus.get())
    limit_threads(threads)


def limit_threads(threads: int) -> None:
    """Let numeric libraries of this process use so many threads, also those that are loaded later."""
    os.environ.update(thread_limits(threads))
    import torch

    torch.set_num_threads(threads)


def use_gpu(number: int) -> None:
    """Let this process see one GPU only; has to be said before anything is done on a GPU.

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
