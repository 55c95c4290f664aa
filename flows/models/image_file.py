"""Single image files, without a catalog: GeoTIFF, PNG and JPEG in; GeoTIFF and PNG of the same pixels out.

PNG goes through GDAL as well: Pillow reduces 16-bit RGB to 8 bits without a word. A JPEG is written back as PNG,
because compressing it again would change every pixel, the observed ones too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from stac.errors import InvalidInput, NotWritable, UnreadableAsset
from stac.io.raster import environment
from stac.product.cog import cog_bytes

PixelArray = NDArray[Any]

_DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
_SPECTRUM = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir, ColorInterp.coastal)
_TIMEOUT_S = 30.0


@unique
class Kind(StrEnum):
    """Formats, by GDAL's names."""

    GEOTIFF = "GTiff"
    PNG = "PNG"
    JPEG = "JPEG"


#: File name endings that are looked for in a folder.
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": Kind.PNG,
    b"\xff\xd8\xff": Kind.JPEG,
    b"II*\x00": Kind.GEOTIFF,
    b"MM\x00*": Kind.GEOTIFF,
    b"II+\x00": Kind.GEOTIFF,
    b"MM\x00+": Kind.GEOTIFF,
}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What a file says about its pixels."""

    path: Path
    kind: Kind
    bands: int
    #: Height and width, pixels.
    shape: tuple[int, int]
    dtype: str
    #: Value of missing samples; None when none is declared.
    nodata: float | None
    #: Value = stored * scale + offset, per band, as the file declares it; 1 and 0 mean it declares nothing.
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    #: Description of every band, empty where it has none.
    names: tuple[str, ...]
    #: Colour interpretation of every band, `red` or `nir`; empty where it is of no part of the spectrum.
    colours: tuple[str, ...]
    #: Projection as WKT and geotransform; None where the file is not georeferenced.
    georeference: tuple[str, tuple[float, ...]] | None

    @property
    def suffix(self) -> str:
        """Ending of what is written back."""
        own = self.path.suffix.lower()
        if self.kind is Kind.GEOTIFF:
            return own if own in (".tif", ".tiff") else ".tif"
        return ".png"


def open_image(path: Path) -> ImageFile:
    """Return what a file says about its pixels, after checking that they can be restored and written back.

    Raises:
        InvalidInput: the file does not exist, or its format or kind of pixels is not supported.
        UnreadableAsset: it is damaged.
    """
    with _opened(path) as source:
        _check_pixels(path, source)
        return _described(path, source)


def read_pixels(image: ImageFile) -> PixelArray:
    """Return all stored values `(band, y, x)`.

    Raises:
        UnreadableAsset: the file is damaged.
    """
    with _opened(image.path) as source:
        return np.asarray(source.read())


def read_mask(path: Path, image: ImageFile) -> NDArray[np.bool_]:
    """Return the mask `(y, x)` of an image: True where any colour band of the mask's file is not 0.

    Raises:
        InvalidInput: its size or georeference is not the image's, it has transparency or NaN.
        UnreadableAsset: it is damaged.
    """
    with _opened(path) as source:
        if source.shape != image.shape:
            raise InvalidInput(
                f"Mask {path} has {source.shape[0]} x {source.shape[1]} px (rows x columns), {image.path} has "
                f"{image.shape[0]} x {image.shape[1]}; give the mask of this image."
            )
        if ColorInterp.alpha in source.colorinterp:
            raise InvalidInput(f"Mask {path} has an alpha channel; save it without transparency.")
        place = _described(path, source).georeference
        if place is not None and image.georeference is not None and not _same_place(place, image.georeference):
            raise InvalidInput(f"Mask {path} lies elsewhere than {image.path}; give the mask of this image.")
        values = source.read()
    if not np.isfinite(values).all():
        raise InvalidInput(f"Mask {path} holds NaN; write 0 where nothing is to be restored.")
    return np.asarray((values != 0).any(axis=0))


def encode_like(image: ImageFile, pixels: PixelArray) -> bytes:
    """Return the file that holds `pixels` `(band, y, x)` and everything else `image` says.

    A GeoTIFF becomes a cloud-optimised GeoTIFF with the same type, nodata, georeference, band names, scales and tags.

    Raises:
        NotWritable: GDAL cannot write these pixels.
        UnreadableAsset: the original is damaged.
    """
    with _opened(image.path) as source:
        try:
            with MemoryFile() as plain:
                with plain.open(**_profile(image, source), dtype=image.dtype) as target:
                    target.write(pixels)
                    _copy_metadata(image, source, target)
                return cog_bytes(plain, "average") if image.kind is Kind.GEOTIFF else bytes(plain.read())
        except RasterioError as error:
            raise NotWritable(f"The restored {image.path.name} cannot be made ({error}); report this.") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a local file by the format its first bytes name, so that no file can name others."""
    kind = _kind(path)
    try:
        _check_complete(path, kind)
        with environment(_TIMEOUT_S), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver=str(kind)) as source:
                yield source
    except (RasterioError, CRSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UnreadableAsset(f"{path} cannot be read ({reason}); fetch or save the file again.") from error


def _kind(path: Path) -> Kind:
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be opened ({error.strerror}); check the name and permissions.") from error
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if found is None:
        raise InvalidInput(f"{path} is not a GeoTIFF, PNG or JPEG; convert it to one of them.")
    return found


def _check_complete(path: Path, kind: Kind) -> None:
    """Raise for a PNG that is cut off or damaged: GDAL reads one without complaint and invents the rest."""
    if kind is not Kind.PNG:
        return
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableAsset(f"{path} cannot be read ({error}); fetch or save the file again.") from error


def _check_pixels(path: Path, source: Any) -> None:
    """Raise for what cannot be restored and written back unchanged elsewhere."""
    if source.subdatasets:
        raise InvalidInput(f"{path} holds {len(source.subdatasets)} images; save them as single files.")
    if set(source.dtypes) - set(_DTYPES) or len(set(source.dtypes)) > 1:
        raise InvalidInput(f"{path} has pixels of type {source.dtypes[0]}; convert it to one of {', '.join(_DTYPES)}.")
    if ColorInterp.palette in source.colorinterp:
        raise InvalidInput(f"{path} stores colours as a palette; save it as RGB.")
    if any(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums):
        raise InvalidInput(f"{path} has an alpha channel or a mask band; remove it, or declare a nodata value.")
    if source.tags().get("EXIF_Orientation", "1") != "1":
        raise InvalidInput(f"{path} is stored rotated (EXIF orientation); save it upright.")
    if source.driver == Kind.PNG and _png_depth(path) < 8:
        raise InvalidInput(f"{path} has {_png_depth(path)} bits per sample; save it with 8 or 16.")


def _png_depth(path: Path) -> int:
    """Return the bits per sample of a PNG, from its IHDR chunk."""
    with path.open("rb") as stream:
        return stream.read(25)[24]


def _described(path: Path, source: Any) -> ImageFile:
    kind = Kind(source.driver)
    georeference = None
    if source.crs is not None:
        georeference = (source.crs.to_wkt(), tuple(source.transform)[:6])
    return ImageFile(
        path=path,
        kind=kind,
        bands=source.count,
        shape=source.shape,
        dtype=source.dtypes[0],
        nodata=source.nodata,
        scales=tuple(source.scales),
        offsets=tuple(source.offsets),
        names=tuple(text or "" for text in source.descriptions),
        colours=tuple(color.name if color in _SPECTRUM else "" for color in source.colorinterp),
        georeference=georeference,
    )


def _same_place(one: tuple[str, tuple[float, ...]], other: tuple[str, tuple[float, ...]]) -> bool:
    pixel = max(abs(other[1][0]), abs(other[1][1]))
    same_crs = rasterio.crs.CRS.from_wkt(one[0]) == rasterio.crs.CRS.from_wkt(other[0])
    return same_crs and bool(np.allclose(one[1], other[1], rtol=0, atol=pixel / 100))


def _profile(image: ImageFile, source: Any) -> dict[str, Any]:
    profile: dict[str, Any] = {"height": image.shape[0], "width": image.shape[1], "count": image.bands}
    if image.nodata is not None:
        profile["nodata"] = image.nodata
    if image.kind is not Kind.GEOTIFF:
        return profile | {"driver": "PNG"}
    if source.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        profile["photometric"] = "RGB"
    if source.crs is not None or not source.transform.is_identity:
        profile |= {"crs": source.crs, "transform": source.transform}
    return profile | {"driver": "GTiff"}


def _copy_metadata(image: ImageFile, source: Any, target: Any) -> None:
    if image.kind is not Kind.GEOTIFF:
        profile = source.tags(ns="COLOR_PROFILE")
        if profile:
            target.update_tags(ns="COLOR_PROFILE", **profile)
        return
    target.colorinterp = source.colorinterp
    target.descriptions, target.units = source.descriptions, source.units
    target.scales, target.offsets = source.scales, source.offsets
    target.update_tags(**{name: value for name, value in source.tags().items() if name != "AREA_OR_POINT"})
    for band in source.indexes:
        # Statistics of the old pixels would be wrong for the new ones.
        kept = {k: v for k, v in source.tags(band).items() if not k.startswith("STATISTICS_")}
        target.update_tags(band, **kept)
    points, projection = source.gcps
    if points:
        target.gcps = (points, projection)
    if source.rpcs is not None:
        target.rpcs = source.rpcs
