"""Running tiles in batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from de_model.errors import OutOfMemory
from de_model.inference.tiles import Tile

FloatArray = NDArray[np.float32]

_log = logging.getLogger(__name__)


def in_batches(
    tiles: Sequence[Tile], size: int, run: Callable[[list[Tile]], FloatArray]
) -> Iterator[tuple[list[Tile], FloatArray]]:
    """Yield batches of tiles with what `run` makes of each, in order.

    A batch that does not fit into memory is halved and run again, and so are those after it; a warning says so.

    Args:
        tiles: what is to be run.
        size: tiles in a batch, at least 1.
        run: returns layers `(tile, layer, y, x)` of a batch.

    Raises:
        OutOfMemory: not even one tile fits.
    """
    done = 0
    while done < len(tiles):
        batch = list(tiles[done : done + size])
        try:
            layers = run(batch)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(
                    f"One tile of {batch[0].size} px does not fit into memory; choose a smaller tile, or free memory."
                ) from error
            size = len(batch) // 2
            _log.warning("%d tiles at once do not fit into memory; going on with %d", len(batch), size)
        else:
            done += len(batch)
            yield batch, layers
            continue
        # Outside the handler: the error holds the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out; on a CPU torch says so only in words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
