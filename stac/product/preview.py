"""Pictures for people: the 8-bit `visual`, the thumbnail and the quicklook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stac.io.files import writing
from stac.product.cog import rgb_of
from stac.product.layers import Provenance
from stac.reflectance import PRODUCT_SCALE

RGB = ("red", "green", "blue")
#: One stretch for all products, so that neighbours and dates look alike: reflectance 0 to 0.28, gamma 1.6.
BRIGHTEST, _GAMMA = 0.28, 1.6

#: Pictures are drawn from rasters of at least this many pixels a side, where there are as many.
PICTURE_PX = 1024
_THUMBNAIL_PX = 512
_PANEL_PX = 560
_GUTTER, _TITLE, _ROW = 12, 34, 24
_PAPER, _INK = (255, 255, 255), (28, 39, 51)


def visual(data: NDArray[np.uint16], bands: Sequence[str]) -> NDArray[np.uint8]:
    """Return red, green, blue `(3, y, x)`: 1-255 where there is data, 0 where not.

    A product without these three bands shows its first band in grey.
    """
    chosen = [bands.index(b) for b in RGB] if set(RGB) <= set(bands) else [0, 0, 0]
    pixels = data[chosen]
    bright = (pixels * np.float32(PRODUCT_SCALE / BRIGHTEST)).clip(0, 1) ** (1 / _GAMMA)
    picture = (1 + bright * 254).astype(np.uint8)
    picture[:, (data == 0).all(axis=0)] = 0
    return picture


def write_thumbnail(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a PNG of at most 512 px; nodata is transparent. `picture` is `(3, y, x)`."""
    alpha = np.where((picture == 0).all(axis=0), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.concatenate([picture, alpha[None]]).transpose(1, 2, 0))
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    _save(path, image)


def write_quicklook(
    path: Path,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    provenance: NDArray[np.uint8],
    counts: Mapping[Provenance, int],
) -> None:
    """Write a PNG with three panels: before, after, and where each pixel comes from, with a legend.

    Args:
        path: where to.
        before: the target as it was, red, green, blue `(3, y, x)`.
        after: the product, likewise.
        provenance: `Provenance` values `(y, x)`.
        counts: pixels of every class in the whole product, for the legend.
    """
    panels = [("Before", _rgb(before)), ("After", _rgb(after)), ("Where it comes from", _provenance(provenance))]
    height = max(1, round(_PANEL_PX * panels[1][1].height / panels[1][1].width))
    scaled = [(name, _fit(picture, height)) for name, picture in panels]
    width, legend = _PANEL_PX, _legend(counts)
    rows = -(-len(legend) // 3)
    sheet = Image.new("RGB", (3 * width + 4 * _GUTTER, height + _TITLE + 2 * _GUTTER + rows * _ROW), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (name, picture) in enumerate(scaled):
        left = _GUTTER + index * (width + _GUTTER)
        draw.text((left, 8), name, _INK, ImageFont.load_default(17))
        sheet.paste(picture, (left, _TITLE))
    for index, (color, text) in enumerate(legend):
        left, down = _GUTTER + (index % 3) * (width + _GUTTER), _TITLE + height + _GUTTER + (index // 3) * _ROW
        draw.rectangle((left, down + 2, left + 15, down + 17), color, _INK)
        draw.text((left + 23, down), text, _INK, ImageFont.load_default(15))
    _save(path, sheet)


def _rgb(picture: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(picture.transpose(1, 2, 0))


def _provenance(provenance: NDArray[np.uint8]) -> Image.Image:
    table = np.array([rgb_of(p.color) for p in Provenance], np.uint8)
    return Image.fromarray(table[provenance])


def _fit(picture: Image.Image, height: int) -> Image.Image:
    """Scale to the size of a panel: down by averaging, up by repeating, so that pixels stay pixels."""
    shrinks = picture.width > _PANEL_PX
    return picture.resize((_PANEL_PX, height), Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def _legend(counts: Mapping[Provenance, int]) -> list[tuple[tuple[int, int, int], str]]:
    """Return colour and text of every class that is present, with its share of the product."""
    total = sum(counts.values())
    return [(rgb_of(p.color), f"{p.label}: {_percent(n / total)}") for p, n in counts.items() if n]


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")


def _save(path: Path, image: Image.Image) -> None:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    with writing(path):
        path.write_bytes(buffer.getvalue())
