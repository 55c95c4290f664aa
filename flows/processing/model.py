"""Load a model once per process, and the sampling that suits it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Event

import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import DeviceLost
from de_model.inference.sampling import sampling_for
from flows.errors import InvalidSettings
from flows.settings import Device
from flows.settings.loading import load_settings
from flows.settings.restoring import RestorationOptions

_log = logging.getLogger("unveil")
#: Set for the rest of the process: an error of this kind spoils every later call of CUDA.
_GPU_LOST = Event()


def in_products(card: ModelCard) -> RestorationOptions:
    """Return how a model makes products, by the settings of the environment.

    Raises:
        InvalidSettings: a setting of the environment makes no sense.
    """
    return load_settings().fitted_to(sampling_for(card)).restoration


@lru_cache(maxsize=2)
def load_model(weights: str, sha256: str, device: Device) -> Enhancer:
    """Return the model of a weights file; the same one for all units of a process.

    Raises:
        InvalidCheckpoint: the file is not the registered one, or not a model.
        InvalidSettings: a GPU was asked for and there is none, or this process has lost it.
    """
    del sha256  # part of the cache's key; checked when the file was fetched
    return checkpoint.load(Path(weights), torch_device(device))


def torch_device(device: Device) -> str:
    """Return `cuda` or `cpu`.

    Raises:
        InvalidSettings: a GPU was asked for and there is none, or this process has lost it.
    """
    there, lost = torch.cuda.is_available(), _GPU_LOST.is_set()
    if device is Device.CUDA and not there:
        raise InvalidSettings("Device cuda was asked for, but torch sees no GPU; use --device auto or cpu.")
    if device is Device.CUDA and lost:
        raise InvalidSettings(
            "Device cuda was asked for, but the GPU stopped answering this process; give the run again, which goes on "
            "from its last block, or use --device auto to go on with the CPU."
        )
    return "cuda" if there and not lost and device is not Device.CPU else "cpu"


@contextmanager
def without_a_lost_gpu() -> Iterator[None]:
    """Have this process load its models on the CPU after a GPU was lost in the context; the error goes on.

    Raises:
        DeviceLost: as it came.
    """
    try:
        yield
    except DeviceLost as error:
        _GPU_LOST.set()
        load_model.cache_clear()
        _log.warning("%s This process goes on with the CPU.", error)
        raise
