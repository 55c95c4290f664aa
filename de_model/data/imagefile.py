"""Reading one picture file: PNG and JPEG through pillow, TIFF through tifffile."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from de_model.errors import InvalidData

#: Names that count as pictures, lower case.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_TIFF = frozenset({".tif", ".tiff"})
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Samples = NDArray[np.generic]


def is_picture(path: Path) -> bool:
    """True for the name of a picture; hidden files and resource forks (`._1.png`) are none."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def read_picture(path: Path) -> Samples:
    """Return the samples `(band, y, x)` as stored: uint8, uint16 or float32.

    Raises:
        InvalidData: the file is missing, truncated, or of a kind that would not be read whole.
    """
    with _called_invalid(path):
        return _read_tiff(path) if path.suffix.lower() in _TIFF else _read_display(path)


def content_hash(samples: Samples) -> str:
    """Return the SHA-256 of shape, type and samples `(band, y, x)`."""
    head = f"{samples.shape} {samples.dtype.name}:".encode()
    return hashlib.sha256(head + np.ascontiguousarray(samples).tobytes()).hexdigest()


def picture_size(path: Path) -> tuple[int, int, int]:
    """Return width, height and bits per sample from the head of a file.

    Raises:
        InvalidData: as `read_picture`; pixels are not looked at.
    """
    with _called_invalid(path):
        if path.suffix.lower() in _TIFF:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                return page.imagewidth, page.imagelength, page.bitspersample
        _refuse_deep_png(path)
        with Image.open(path) as image:
            return image.width, image.height, 8


@contextmanager
def _called_invalid(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for a bad file into one sentence."""
    try:
        yield
    except FileNotFoundError as missing:
        raise InvalidData(f"{path} does not exist.") from missing
    except (
        *(OSError, ValueError, SyntaxError, KeyError, IndexError, TypeError, EOFError, MemoryError),
        *(struct.error, zlib.error, tifffile.TiffFileError, Image.DecompressionBombError),
        Image.DecompressionBombWarning,
    ) as broken:
        raise InvalidData(f"{path} cannot be read ({_brief(broken, path)}); fetch it again.") from broken


def _brief(broken: BaseException, path: Path) -> str:
    text = " ".join(str(broken).split()).replace(f" {str(path)!r}", "")
    return text[:120] or type(broken).__name__


def _read_display(path: Path) -> Samples:
    _refuse_deep_png(path)
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image.load()
        if image.mode not in ("L", "RGB", "RGBA"):
            raise InvalidData(
                f"{path} has pixels of mode {image.mode}; 8-bit grey (L), RGB or RGBA is read. Convert the file."
            )
        samples = np.asarray(image)
    return samples[None] if samples.ndim == 2 else np.moveaxis(samples, -1, 0)


def _refuse_deep_png(path: Path) -> None:
    """Refuse what pillow would silently round to 8 bits."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(_PNG_SIGNATURE) and len(head) == 26 and head[24] == 16:
        raise InvalidData(f"{path} has 16-bit samples, 8-bit ones are expected; convert it, or store TIFF.")


def _read_tiff(path: Path) -> Samples:
    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise InvalidData(f"{path} holds no picture; fetch it again.")
        page, series = tiff.pages.first, tiff.series[0]
        _refuse_truncated(path, page)
        try:
            samples = series.asarray()
        except ValueError as unsupported:
            if "imagecodecs" not in str(unsupported):
                raise
            raise InvalidData(
                f"{path} is compressed with {page.compression.name}, which needs the imagecodecs package; install it, "
                "or rewrite the file with DEFLATE."
            ) from unsupported
        axes = series.axes
    return _bands_first(path, samples, axes)


def _refuse_truncated(path: Path, page: tifffile.TiffPage) -> None:
    """A TIFF whose last strip is missing would otherwise be read as zeros."""
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    size = path.stat().st_size
    if ends and max(ends) > size:
        raise InvalidData(f"{path} is truncated ({size} of {max(ends)} bytes); fetch it again.")


def _bands_first(path: Path, samples: Samples, axes: str) -> Samples:
    """Return `(band, y, x)` whatever the interleaving."""
    if "Y" not in axes or "X" not in axes or samples.ndim > 3:
        raise InvalidData(f"{path} has axes {axes}; one image of bands, rows and columns is read.")
    rest = [axis for axis in axes if axis not in "YX"]
    order = [axes.index(axis) for axis in (*rest, "Y", "X")]
    ordered = np.transpose(samples, order)
    return ordered if rest else ordered[None]
