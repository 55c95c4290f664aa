"""Training in several processes, started by `torchrun`: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed

from de_model.errors import InvalidModelInput


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined(device: str = "cpu") -> Iterator[World]:
    """Join the processes that `torchrun` started, or be alone; leave them at the end of the context.

    Args:
        device: `cpu`, or `cuda` for the GPU of this process's local rank.

    Raises:
        InvalidModelInput: there is no GPU for this process.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device(device)
    if place.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InvalidModelInput(
                f"Process {local} needs a GPU of its own, {torch.cuda.device_count()} are here; lower --nproc-per-node."
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if size == 1:
        yield World(device=place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), size, place)
    finally:
        distributed.destroy_process_group()
