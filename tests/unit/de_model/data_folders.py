"""Writes small data sets in exactly the layouts of the published ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 48


def picture(seed: int, bands: int = 3, size: int = SIZE) -> NDArray[np.uint8]:
    """Smooth random ground `(y, x, band)`, or `(y, x)` for one band; another seed looks different."""
    random = np.random.default_rng([77, seed])
    coarse = random.integers(40, 160, (6, 6, bands), np.uint8)
    whole = np.asarray(
        np.stack(
            [Image.fromarray(coarse[..., b]).resize((size, size), Image.Resampling.BICUBIC) for b in range(bands)], -1
        )
    )
    return whole[..., 0] if bands == 1 else whole


def clouded(ground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same ground with its upper half under a bright veil."""
    result = ground.copy()
    half = len(ground) // 2
    result[:half] = 120 + result[:half] // 2
    return result


def save(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_pairs(folder: Path, numbers: Iterable[int], *, mask: bool = False, first_seed: int = 0) -> None:
    """`cloud/` and `label/`, and `mask/` as in RICE2."""
    for number in numbers:
        ground = picture(first_seed + number)
        save(folder / "cloud" / f"{number}.png", clouded(ground))
        save(folder / "label" / f"{number}.png", ground)
        if mask:
            hidden = np.zeros(ground.shape, np.uint8)
            hidden[: SIZE // 2], hidden[SIZE // 2 : SIZE // 2 + 4] = 255, 128
            save(folder / "mask" / f"{number}.png", hidden)


def write_nir(folder: Path, numbers: Iterable[int], first_seed: int = 0) -> None:
    """`cloud/` and `label/` of near infrared: grey stored in three channels."""
    for number in numbers:
        grey = picture(5000 + first_seed + number, 1)
        save(folder / "label" / f"{number}.png", np.repeat(grey[..., None], 3, -1))
        save(folder / "cloud" / f"{number}.png", np.repeat(clouded(grey)[..., None], 3, -1))


def write_cuhk(folder: Path, name: str, *, archive: bool, train: int = 4, test: int = 2, first_seed: int = 0) -> None:
    """CUHK-CR with near infrared, as in its archive or as DE's loader reads it."""
    for split, count, seed in (("train", train, first_seed), ("test", test, first_seed + 500)):
        numbers = range(200, 200 + count)
        write_pairs(folder / name / split, numbers, first_seed=seed)
        nir = folder / "nir" / name / split if archive else folder / name / split / "nir"
        write_nir(nir, numbers, first_seed=seed)
