"""Running tiles: in threads of a CPU or batches on a GPU, whatever memory there is."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeVar

import torch

from de_model.errors import DeviceLost, OutOfMemory
from de_model.inference.tiles import Tile

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: While workers start, torch's number of threads for the process is not what the process is to use.
_STARTING = Lock()
#: Longest that workers may take to start, seconds.
_START_S = 60.0
#: What torch says when memory runs out without an error type of its own.
_IN_WORDS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def on_device(
    tiles: Sequence[Tile], run: Callable[[list[Tile]], T], device: torch.device, at_once: int
) -> Iterator[tuple[list[Tile], T]]:
    """Yield tiles with what `run` makes of them, in order: one in each thread of a CPU, batches on a GPU.

    Args:
        tiles: what is to be run.
        run: returns what it makes of a batch.
        device: that `run` uses.
        at_once: tiles that a GPU is given together; fewer where they do not fit into its memory.

    Raises:
        OutOfMemory: not even one tile fits.
        DeviceLost: the CUDA context is unusable.
    """
    return in_threads(tiles, run) if device.type == "cpu" else watched(in_batches(tiles, at_once, run), device)


def in_batches(tiles: Sequence[Tile], size: int, run: Callable[[list[Tile]], T]) -> Iterator[tuple[list[Tile], T]]:
    """Yield batches of tiles with what `run` makes of each, in order.

    A batch that does not fit into memory is halved and run again, and so are those after it; a warning is logged.

    Args:
        tiles: what is to be run.
        size: tiles in a batch, at least 1.
        run: returns what it makes of a batch.

    Raises:
        OutOfMemory: not even one tile fits.
    """
    done = 0
    while done < len(tiles):
        batch = list(tiles[done : done + size])
        try:
            made = run(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(
                    f"One tile of {batch[0].size} px does not fit into memory; choose a smaller tile, or free memory."
                ) from error
            size = len(batch) // 2
            _log.warning("%d tiles at once do not fit into memory; going on with %d", len(batch), size)
        else:
            done += len(batch)
            yield batch, made
            continue
        # Outside the handler: the error holds the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of torch says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _IN_WORDS)


def in_threads(tiles: Sequence[Tile], run: Callable[[list[Tile]], T]) -> Iterator[tuple[list[Tile], T]]:
    """Yield every tile with what `run` makes of it, in order; as many run at once as torch may use threads.

    Within a tile operators keep to one thread: they divide their sums among threads, so the last bits of a result would
    depend on the number of cores. That many tiles at once use the cores as well, and wait for each other less.

    Args:
        tiles: what is to be run.
        run: returns what it makes of a batch of one tile; called from several threads.

    Raises:
        OutOfMemory: a tile does not fit into memory.
    """
    with _STARTING:
        threads = torch.get_num_threads()
        pool = None if threads == 1 else _single_threaded(threads)
    if pool is None:
        yield from in_batches(tiles, 1, run)
        return
    pending: deque[Future[tuple[list[Tile], T]]] = deque()
    with pool:
        try:
            for tile in tiles:
                pending.append(pool.submit(lambda one: next(in_batches([one], 1, run)), tile))
                # What is done waits to be blended in order; more of it than this is not held.
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for waiting in pending:
                waiting.cancel()


def _single_threaded(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose workers have started, each with one thread for its operators.

    torch keeps a number for the process, which is set along with that of a thread, and a thread that asks for the first
    time takes it: so a worker asks before it sets its own, and the number of the process is put back at once.
    """
    all_started = Barrier(workers + 1, timeout=_START_S)

    def begin() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(workers, initializer=begin)
    for _ in range(workers):
        pool.submit(all_started.wait)
    all_started.wait()
    torch.set_num_threads(workers)
    return pool


def answers(device: torch.device) -> bool:
    """Return whether the CUDA context is usable: after a fatal error every later call of the process fails, too."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def watched(
    results: Iterator[T], device: torch.device, answers: Callable[[torch.device], bool] = answers
) -> Iterator[T]:
    """Yield results that are made on a device.

    Raises:
        DeviceLost: making them failed, and the CUDA context is unusable.
    """
    try:
        yield from results
    except RuntimeError as error:
        if answers(device):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceLost(
            f"The GPU {device} no longer answers ({reason}); see the system's log, and start the process again."
        ) from error
