"""Cases drawn while a training runs: no case is seen twice, and none is kept on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from de_model.data.cases import CaseSource

#: Batches that a worker draws ahead.
_AHEAD = 4
_MOST_WORKERS = 8
#: Fewer batches are drawn in the process itself: workers take seconds to start.
_WORTH_WORKERS = 64


class Batch(NamedTuple):
    """Several cases."""

    #: `(batch, map, y, x)` and `(batch, number)`, as the networks take them.
    maps: Tensor
    numbers: Tensor
    #: Standardised reflectance `(batch, band, y, x)`.
    truth: Tensor
    #: Hidden pixels whose truth is known, and all whose truth is known, `(batch, 1, y, x)`.
    wanted: Tensor
    valid: Tensor


class CaseStream:
    """Batches of fresh cases, drawn by worker processes; what a batch holds depends on its number alone.

    Args:
        source: draws case 0, 1, ...
        workers: processes; None for one fewer than there are processors.
    """

    def __init__(self, source: CaseSource, workers: int | None = None) -> None:
        self.source = source
        own = len(os.sched_getaffinity(0)) - 1
        self.workers = min(own, _MOST_WORKERS) if workers is None else workers

    def batches(self, first: int, last: int, size: int) -> Iterator[Batch]:
        """Yield batch `first` to `last - 1`, each of `size` cases."""
        workers = self.workers if last - first >= _WORTH_WORKERS else 0
        loader: DataLoader[Batch] = DataLoader(
            _Batches(self.source, size),
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            # A copy of a process that runs a flow would inherit its threads' locks, and ends with an error.
            multiprocessing_context="forkserver" if workers else None,
        )
        yield from loader


class _Batches(Dataset[Batch]):
    def __init__(self, source: CaseSource, size: int) -> None:
        self.source, self.size = source, size

    def __getitem__(self, number: int) -> Batch:
        cases = [self.source.case(number * self.size + index) for index in range(self.size)]
        return Batch(
            _joined([case.maps for case in cases]),
            _joined([case.numbers for case in cases]),
            _joined([case.truth for case in cases]),
            _joined([case.wanted[None] for case in cases]),
            _joined([case.valid[None] for case in cases]),
        )


def _joined(arrays: list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
