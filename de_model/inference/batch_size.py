"""How many tiles a GPU is given at once where nobody says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from de_model.enhancer import Enhancer
from de_model.inference.sampling import Sampling

#: Pixels of a batch beyond which more are taken to gain nothing: 64 tiles of 128 px. An estimate, not measured.
_ENOUGH = 2**20
#: Share of the free memory that a batch may take; the rest is for what libraries and other models want.
_SHARE = 0.5

#: Sizes by model and by what a tile's memory depends on, so that batches keep their shape from block to block.
_FOUND: WeakKeyDictionary[Enhancer, dict[Sampling, int]] = WeakKeyDictionary()


def batch_size(enhancer: Enhancer, sampling: Sampling, run_one: Callable[[], object]) -> int:
    """Return the batch that was asked for, or the one that fits the memory of the model's GPU.

    Args:
        enhancer: the model, as it was loaded.
        sampling: how tiles are restored.
        run_one: runs one tile to its end; what it takes is measured at the first call for a model and a sampling.
    """
    if sampling.batch is not None:
        return sampling.batch
    found, what = _FOUND.setdefault(enhancer, {}), replace(sampling, seed=0)
    if what not in found:
        device = next(enhancer.parameters()).device
        found[what] = fitting(_bytes_of(run_one, device), _free_bytes(device), sampling.tile**2)
    return found[what]


def fitting(tile_bytes: int, free_bytes: int, tile_pixels: int) -> int:
    """Return the largest power of two of tiles that fits, 1 where none does: the batch itself finds out.

    Args:
        tile_bytes: memory that one tile takes while it is run.
        free_bytes: memory that is free.
        tile_pixels: pixels of a tile.
    """
    most = min(int(_SHARE * free_bytes) // max(1, tile_bytes), _ENOUGH // tile_pixels)
    return 1 << max(0, most.bit_length() - 1)


def _bytes_of(run_one: Callable[[], object], device: torch.device) -> int:
    run_one()  # work space that libraries keep for good is not a tile's
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run_one()
    return torch.cuda.max_memory_allocated(device) - before


def _free_bytes(device: torch.device) -> int:
    """Return what is free on the device, with what torch holds and does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
