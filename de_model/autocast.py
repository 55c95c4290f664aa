"""Running networks in another number format than their weights'."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from de_model.precision import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which networks run in the wanted precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision is Precision.BF16 else nullcontext()
