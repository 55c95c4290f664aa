"""Whether a file lies where its item says: a cell planned from wrong fields would be another piece of ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from rasterio.crs import CRS
from rasterio.errors import CRSError

from stac.errors import InvalidItem

#: Declared corners may differ by the rounding of a catalog, pixels.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Declared:
    """The pixel grid of an asset in the words of its item; empty where it says nothing."""

    code: str = ""
    #: Rows, columns.
    shape: tuple[Any, ...] = ()
    #: Affine coefficients a, b, c, d, e, f.
    transform: tuple[Any, ...] = ()

    @classmethod
    def of(cls, item: pystac.Item, asset: pystac.Asset) -> Declared:
        """Return what an item declares.

        Shape and transform count on the asset itself only: those of an item hold for its finest bands, and catalogs
        write them without meaning the others.
        """
        fields = {**item.properties, **asset.extra_fields}
        code = fields.get("proj:code") or (f"EPSG:{fields['proj:epsg']}" if fields.get("proj:epsg") else "")
        shape, transform = (asset.extra_fields.get(name) or () for name in ("proj:shape", "proj:transform"))
        return cls(str(code), tuple(shape), tuple(transform)[:6])


UNDECLARED = Declared()


def require_as_declared(source: Any, declared: Declared, name: str) -> None:
    """Raise unless an open file has the projection, shape and transform that its item declares.

    Args:
        source: the file, an open rasterio dataset.
        declared: the words of its item; what they leave out is not compared.
        name: of the asset, for messages.

    Raises:
        InvalidItem: they differ; both values are named.
    """
    if declared.code and not _same_projection(source.crs, declared.code):
        raise InvalidItem(_contradiction(name, "proj:code", declared.code, source.crs.to_string()))
    if declared.shape and tuple(declared.shape) != tuple(source.shape):
        raise InvalidItem(_contradiction(name, "proj:shape", list(declared.shape), list(source.shape)))
    real = tuple(source.transform)[:6]
    if declared.transform and not _same_place(declared.transform, real):
        raise InvalidItem(_contradiction(name, "proj:transform", list(declared.transform), list(real)))


def _contradiction(name: str, field: str, said: object, found: object) -> str:
    return f"{name}: the item declares {field} {said}, the file has {found}; correct the item or leave the scene out."


def _same_projection(real: CRS, code: str) -> bool:
    try:
        return bool(real == CRS.from_user_input(code))
    except CRSError:
        return False


def _same_place(declared: tuple[Any, ...], real: tuple[float, ...]) -> bool:
    try:
        said = np.array(declared, dtype=float)
    except (TypeError, ValueError):
        return False
    pixel = max(abs(real[0]), abs(real[4]))
    return said.shape == (6,) and bool(np.allclose(said, real, rtol=0, atol=_TOLERANCE * pixel))
