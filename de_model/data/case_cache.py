"""Cases kept on disk: prepared once, read by every epoch of every stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.data.cases import CaseSource
from de_model.errors import InvalidModelInput

_ARRAYS = ("maps", "numbers", "truth", "masks")


class Batch(NamedTuple):
    """Cases in one of eight orientations each."""

    #: `(batch, map, y, x)` and `(batch, number)`, as the networks take them.
    maps: Tensor
    numbers: Tensor
    #: Standardised reflectance `(batch, band, y, x)`.
    truth: Tensor
    #: Hidden pixels whose truth is known, and all whose truth is known, `(batch, 1, y, x)`.
    wanted: Tensor
    valid: Tensor


class CaseCache:
    """Prepared cases in memory-mapped arrays; half precision.

    Args:
        folder: as `prepare_cases` left it.

    Raises:
        InvalidModelInput: it holds no cases, or not all of them yet.
    """

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / "cases.json").read_text())
        except (OSError, ValueError) as error:
            raise InvalidModelInput(f"{folder} holds no prepared cases ({error}); prepare them first.") from error
        self.count, self.fingerprint = int(about["count"]), str(about["fingerprint"])
        self._arrays: dict[str, NDArray[Any]] = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS
        }

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """Return the batch of a step: cases in a new order every epoch, each in one of eight orientations."""
        first = step * size
        chosen = [self._at(first + i, seed) for i in range(size)]
        turns = np.random.default_rng((seed, 7, step)).integers(0, 8, size)
        arrays = self._arrays
        parts = [
            [_turned(arrays[name][i], t) for i, t in zip(chosen, turns, strict=True)]
            for name in ("maps", "truth", "masks")
        ]
        maps, truth, masks = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in parts)
        numbers = torch.from_numpy(np.stack([arrays["numbers"][i] for i in chosen]).astype(np.float32))
        return Batch(maps, numbers, truth, masks[:, :1], masks[:, 1:2])

    def _at(self, position: int, seed: int) -> int:
        epoch, index = divmod(position, self.count)
        return int(np.random.default_rng((seed, 5, epoch)).permutation(self.count)[index])


def _turned(image: NDArray[Any], turn: int) -> NDArray[Any]:
    turned = np.rot90(image, turn % 4, axes=(-2, -1))
    return turned[..., ::-1] if turn >= 4 else turned


def prepare_cases(
    folder: Path, source: CaseSource, count: int, fingerprint: str, on_case: Callable[[int, int], None] | None = None
) -> None:
    """Draw `count` cases and keep them; goes on where it was stopped.

    Args:
        folder: made when missing.
        source: draws case 0, 1, ...
        count: how many.
        fingerprint: of the archive, kept with the cases.
        on_case: called with (cases done, cases in all).

    Raises:
        OSError: the folder is full or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / "progress.json"
    about = {"count": count, "fingerprint": fingerprint, "seed": source.seed, "size": source.size}
    done = 0
    if progress.is_file():
        left = json.loads(progress.read_text())
        done = int(left.pop("done")) if {k: left.get(k) for k in about} == about else 0
    first = source.case(0)
    shapes = {
        "maps": first.maps.shape,
        "numbers": first.numbers.shape,
        "truth": first.truth.shape,
        "masks": (2, *first.wanted.shape),
    }
    kinds = {"maps": np.float16, "numbers": np.float32, "truth": np.float16, "masks": np.uint8}
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+" if done == 0 else "r+", kinds[name], (count, *shapes[name])
        )
        for name in _ARRAYS
    }
    for number in range(done, count):
        case = source.case(number)
        arrays["maps"][number], arrays["numbers"][number] = case.maps, case.numbers
        arrays["truth"][number] = case.truth
        arrays["masks"][number] = np.stack([case.wanted, case.valid])
        if (number + 1) % 200 == 0 or number + 1 == count:
            progress.write_text(json.dumps(about | {"done": number + 1}))
        if on_case is not None:
            on_case(number + 1, count)
    for array in arrays.values():
        array.flush()
    (folder / "cases.json").write_text(json.dumps(about))
