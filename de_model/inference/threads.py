"""Running tiles side by side on the cores of a CPU, with bits that do not depend on how many there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from de_model.inference.batching import in_batches
from de_model.inference.tiles import Tile

FloatArray = NDArray[np.float32]
_Done = tuple[list[Tile], FloatArray]


def in_threads(
    tiles: Sequence[Tile], run: Callable[[list[Tile]], FloatArray], *, first_alone: bool = False
) -> Iterator[_Done]:
    """Yield every tile with what `run` makes of it, in order; as many run at once as torch may use threads.

    Within a tile operators keep to one thread: they divide their sums among threads, so the last bits of a result would
    depend on the number of cores. That many tiles at once use the cores as well, and wait for each other less.

    Args:
        tiles: what is to be run.
        run: returns layers `(1, layer, y, x)` of a tile; called from several threads.
        first_alone: finish the first tile before others begin, as when networks are compiled on the way.

    Raises:
        OutOfMemory: a tile does not fit into memory.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from in_batches(tiles, 1, run)
        return
    pending: deque[Future[_Done]] = deque()
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            for index, tile in enumerate(tiles):
                pending.append(pool.submit(_one, tile, run))
                # What is done waits to be blended in order; more of it than this is not held.
                if len(pending) > 2 * threads or (first_alone and index == 0):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for waiting in pending:
                waiting.cancel()
            # What the workers set for themselves is what threads made later would begin with.
            torch.set_num_threads(threads)


def _one(tile: Tile, run: Callable[[list[Tile]], FloatArray]) -> _Done:
    return next(in_batches([tile], 1, run))
