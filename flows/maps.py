"""The maps of a quality report: layers of a product as small PNGs, with the colours of their legends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from stac.product.cog import rgb_of
from stac.product.layers import SOURCE_DATE_NODATA, Provenance
from stac.product.writer import Layer

_SIDE_PX = 640
#: Pixels that no acquisition saw, and those without an interval: grey that shows on light and on dark paper.
_NOTHING = (150, 156, 164)
_WIDEST = 0.1


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a legend."""

    #: RGB as six hexadecimal digits.
    color: str
    text: str


@dataclass(frozen=True, slots=True)
class Map:
    """A picture with what its colours mean."""

    title: str
    #: Text alternative.
    description: str
    png: bytes
    keys: tuple[Key, ...]


def maps_of(folder: Path) -> tuple[Map, ...]:
    """Return the maps of the product in a folder: where pixels come from, when they were seen, how sure they are.

    Raises:
        RasterioError: a layer cannot be read.
    """
    return _provenance(folder), _dates(folder), _intervals(folder)


def _provenance(folder: Path) -> Map:
    classes = _thinned(folder, Layer.PROVENANCE)[0]
    table = np.array([rgb_of(p.color) for p in Provenance], np.uint8)
    keys = tuple(Key(p.color, p.label) for p in Provenance if (classes == p).any())
    return Map("Where each pixel comes from", "Map of the provenance classes", _png(table[classes]), keys)


def _dates(folder: Path) -> Map:
    days = _thinned(folder, Layer.SOURCE_DATE)[0]
    found = [int(day) for day in np.unique(days) if day != SOURCE_DATE_NODATA]
    colors = _ramp("viridis", len(found))
    picture = np.full((*days.shape, 3), _NOTHING, np.uint8)
    for day, color in zip(found, colors, strict=True):
        picture[days == day] = color
    keys = [Key(_hex(c), str(np.datetime64(d, "D"))) for d, c in zip(found, colors, strict=True)]
    keys += [Key(_hex(_NOTHING), "seen on no date")] * bool((days == SOURCE_DATE_NODATA).any())
    return Map("When it was seen", "Map of the date whose acquisition saw each pixel", _png(picture), tuple(keys))


def _intervals(folder: Path) -> Map:
    widths = _thinned(folder, Layer.UNCERTAINTY)
    known = np.isfinite(widths).all(axis=0)
    mean = np.where(known, widths, 0).mean(axis=0)
    colors = np.array(_ramp("magma", 256), np.uint8)
    picture = colors[(mean / _WIDEST * 255).clip(0, 255).astype(np.uint8)]
    picture[~known] = _NOTHING
    steps = (0.0, 0.025, 0.05, 0.1)
    keys = [Key(_hex(colors[int(s / _WIDEST * 255)]), f"{'≥ ' * (s == _WIDEST)}{s:g}") for s in steps]
    text = "Map of the half-width of the 90 % interval, mean over bands"
    return Map("How sure it is: half-width of the 90 % interval", text, _png(picture), tuple(keys))


def _thinned(folder: Path, layer: Layer) -> NDArray[Any]:
    """Return a layer `(band, y, x)` of at most `_SIDE_PX` pixels a side, from its overviews."""
    with rasterio.open(folder / layer.file_name) as source:
        factor = max(1, -(-max(source.shape) // _SIDE_PX))
        shape = (source.count, -(-source.height // factor), -(-source.width // factor))
        return np.asarray(source.read(out_shape=shape))


def _ramp(name: str, count: int) -> list[tuple[int, int, int]]:
    """Return colours `(red, green, blue)`, 0-255, evenly along a colour map that colour-blind people can read."""
    shades = mpl.colormaps[name](np.linspace(0, 1, count) if count > 1 else [0.5])
    return [(int(r), int(g), int(b)) for r, g, b in np.rint(shades[:, :3] * 255)]


def _hex(color: Sequence[int]) -> str:
    return "".join(f"{int(value):02x}" for value in color)


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(picture)
    # Small products are shown pixel by pixel, not as a stamp.
    scale = max(1, 400 // max(image.size))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    image.quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
