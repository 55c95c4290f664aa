"""Weights on disk: safetensors with the model card inside. Nothing here can run code from a file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint

_SHIPPED = Path(__file__).parent / "weights" / "unveil-de-small.safetensors"


def shipped_weights() -> Path:
    """Return the path of the weights that come with the package.

    Raises:
        InvalidCheckpoint: the package was installed without them.
    """
    if not _SHIPPED.is_file():
        raise InvalidCheckpoint(f"The shipped weights {_SHIPPED.name} are missing; install unveil-eo again.")
    return _SHIPPED


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(enhancer: Enhancer, path: Path) -> None:
    """Write weights and card to `path`, whole or not at all.

    Raises:
        OSError: the folder is not writable or full.
    """
    tensors = {name: value.detach().contiguous().cpu() for name, value in enhancer.state_dict().items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=enhancer.card.to_metadata())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_card(path: Path) -> ModelCard:
    """Return the card of a weights file without loading its tensors.

    Raises:
        InvalidCheckpoint: the file is missing, truncated, or not an Unveil model.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            return ModelCard.from_metadata(stream.metadata(), str(path))
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read as safetensors ({error}); fetch or train it again.") from error


def load(path: Path, device: str = "cpu") -> Enhancer:
    """Return the model of a weights file, in evaluation mode, on `device`.

    Raises:
        InvalidCheckpoint: the file is missing, truncated, or its tensors do not fit its card.
    """
    enhancer = Enhancer(read_card(path))
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no mapping
    try:
        enhancer.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InvalidCheckpoint(f"{path} does not fit preset {enhancer.card.preset} ({first}).") from error
    enhancer.to(torch.device(device)).eval().requires_grad_(False)
    return enhancer.channels_last()
