"""Two pictures over each other, the second one shown right of the pointer, for notebooks."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stac.errors import InvalidInput

if TYPE_CHECKING:
    import xarray as xr

_COLOURS = ("red", "green", "blue")
#: Reflectance that is white, and the exponent that lifts what is dark.
_WHITE, _GAMMA = 0.28, 1 / 1.6


@dataclass(frozen=True)
class Slider:
    """Markup that a notebook shows; it needs no network."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def slider(before: xr.Dataset, after: xr.Dataset, width: int) -> Slider:
    """Return two images of one place as a slider.

    Args:
        before: `red`, `green` and `blue` on `(y, x)`, reflectance.
        after: likewise.
        width: pixels.

    Raises:
        InvalidInput: a colour is missing, or an image has a time axis.
    """
    script = files("flows").joinpath("templates", "image-compare.js").read_text("utf-8")
    frame = f"display:block;position:relative;overflow:hidden;width:{width}px;cursor:ew-resize"
    over = "width:100%;max-width:none;display:block;margin:0"
    pictures = (
        f'<img style="{over}" src="{_picture(before, width)}" alt="before">'
        f'<img style="{over};position:absolute;inset:0;height:100%" src="{_picture(after, width)}" alt="after">'
    )
    return Slider(f'<image-compare style="{frame}">{pictures}</image-compare><script>{script}</script>')


def _picture(image: xr.Dataset, width: int) -> str:
    """Return an image for the eye as a JPEG in an address."""
    missing = [name for name in _COLOURS if name not in image or image[name].ndim != 2]
    if missing:
        raise InvalidInput(
            f"{', '.join(missing)} is not an image (y, x) of the dataset; choose one date with `.sel(time=...)`."
        )
    rgb = np.stack([image[name].values for name in _COLOURS], axis=-1)
    eye = (255 * np.clip(np.nan_to_num(rgb) / _WHITE, 0, 1) ** _GAMMA).astype(np.uint8)
    drawn, buffer = Image.fromarray(eye), BytesIO()
    drawn.resize((width, max(1, width * drawn.height // drawn.width))).save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
