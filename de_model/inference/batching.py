"""Running tiles in batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from de_model.errors import OutOfMemory
from de_model.inference.tiles import Tile

T = TypeVar("T")

_IN_WORDS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

_log = logging.getLogger(__name__)


def in_batches(
    tiles: Sequence[Tile], size: int, run: Callable[[list[Tile]], T], *, whole: bool = False
) -> Iterator[tuple[list[Tile], T]]:
    """Yield batches of tiles with what `run` makes of each, in order.

    A batch that does not fit into memory is halved and run again, and so are those after it; a warning says so.

    Args:
        tiles: what is to be run.
        size: tiles in a batch, at least 1.
        run: returns what it makes of a batch.
        whole: the last batch is filled up with its last tile before it is run, so that all have one shape: networks are
            compiled, and walks recorded, for shapes. What it is yielded with has no repeats.

    Raises:
        OutOfMemory: not even one tile fits.
    """
    done = 0
    while done < len(tiles):
        batch = list(tiles[done : done + size])
        tried = batch + batch[-1:] * (size - len(batch)) if whole else batch
        try:
            made = run(tried)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(tried) == 1:
                raise OutOfMemory(
                    f"One tile of {batch[0].size} px does not fit into memory; choose a smaller tile, or free memory."
                ) from error
            size = len(tried) // 2
            _log.warning("%d tiles at once do not fit into memory; going on with %d", len(tried), size)
        else:
            done += len(batch)
            yield batch, made
            continue
        # Outside the handler: the error holds the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out; on a CPU, and in the libraries of a GPU, torch says so only in words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _IN_WORDS)
