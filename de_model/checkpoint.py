"""Weights on disk: safetensors with the model card inside. Nothing here can run code from a file.

PyTorch is imported only to read or write tensors: a run with nothing to do needs the card and the checksum alone.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open

from de_model.card import ModelCard
from de_model.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

    from de_model.enhancer import Enhancer

#: Characters of torch's list of tensors that are missing, unknown or of another shape.
_REASON = 200
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
    """Return the SHA-256 of a weights file as 64 hexadecimal digits.

    Raises:
        InvalidCheckpoint: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InvalidCheckpoint(
            f"{path} cannot be read ({error.strerror}); correct the path of the weights."
        ) from error


class Knowledge(Protocol):
    """What is known of a model, in a file beside its weights: the factors of its intervals, for example."""

    @property
    def weights_sha256(self) -> str:
        """Checksum of the weights that it belongs to."""

    @property
    def sha256(self) -> str:
        """Checksum of what it says."""

    def save(self, path: Path) -> None:
        """Write it to a file."""


Known = TypeVar("Known", bound=Knowledge)


def known_of(
    weights: Path, path_of: Callable[[Path], Path], read: Callable[[Path], Known], command: str
) -> Known | None:
    """Return what lies beside a weights file, or beside the shipped weights when it is a copy of them; None without.

    Args:
        weights: the file.
        path_of: where it lies beside weights.
        read: reads it from its path.
        command: makes it anew.

    Raises:
        InvalidCheckpoint: what lies beside the weights belongs to other weights; or what `read` raises.
    """
    own, shipped = path_of(weights), path_of(shipped_weights())
    if own.is_file():
        known = read(own)
        if known.weights_sha256 != sha256_of(weights):
            raise InvalidCheckpoint(f"{own.name} belongs to other weights than {weights.name}; run {command}.")
        return known
    if not shipped.is_file():
        return None
    known = read(shipped)
    return known if known.weights_sha256 == sha256_of(weights) else None


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: the folder is not writable or full.
    """
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def save(enhancer: Enhancer, path: Path) -> None:
    """Write weights and card to `path`, whole or not at all; what float16 holds exactly is stored in it.

    Raises:
        OSError: the folder is not writable or full.
    """
    from safetensors.torch import save_file

    tensors = {name: _smallest(value.detach().contiguous().cpu()) for name, value in enhancer.state_dict().items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=enhancer.card.to_metadata())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _smallest(value: Tensor) -> Tensor:
    """Return a tensor in half precision where that loses nothing."""
    import torch

    half = value.half()
    return half if value.dtype == torch.float32 and torch.equal(half.float(), value) else value


def read_card(path: Path) -> ModelCard:
    """Return the card of a weights file without loading its tensors.

    Raises:
        InvalidCheckpoint: the file is missing, truncated, or not an Unveil model.
    """
    with _opened(path, "np") as stream:
        return ModelCard.from_metadata(stream.metadata(), str(path))


def load(path: Path, device: str = "cpu") -> Enhancer:
    """Return the model of a weights file, in evaluation mode, on `device`.

    Raises:
        InvalidCheckpoint: the file is missing or truncated, its tensors do not fit its card, or a weight is
            not finite.
    """
    import torch

    from de_model.enhancer import Enhancer

    enhancer = Enhancer(read_card(path))
    with _opened(path, "pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in sorted(stream.keys())}
    card = enhancer.card
    try:
        enhancer.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InvalidCheckpoint(
            f"{path} does not fit preset {card.preset} with reference {card.reference} and {len(card.bands)} bands "
            f"({reason[:_REASON]}); fetch the weights again or with the version that wrote them."
        ) from error
    broken = next((name for name, value in sorted(tensors.items()) if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise InvalidCheckpoint(
            f"{path} holds weights that are not finite ({broken}); its training failed: train again with a lower "
            "learning rate, or fetch other weights."
        )
    enhancer.to(torch.device(device)).eval().requires_grad_(False)
    return enhancer.channels_last()


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    """Open a safetensors file, or say which file cannot be read."""
    try:
        with safe_open(path, framework=framework) as stream:
            yield stream
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read as safetensors ({error}); fetch or train it again.") from error
