"""Telling a GPU that is lost from work that failed on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from de_model.errors import DeviceLost

T = TypeVar("T")


def answers(device: torch.device) -> bool:
    """Tell whether a GPU still does what it is told: after a fatal error every later call of the process fails, too."""
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
        DeviceLost: making them failed, and the device does not answer any more.
    """
    try:
        yield from results
    except RuntimeError as error:
        if answers(device):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceLost(
            f"The GPU {device} does not answer any more ({reason}); see the system's log, and start the process again."
        ) from error
