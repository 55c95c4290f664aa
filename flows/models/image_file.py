"""Single image files, without a catalog: GeoTIFF, PNG and JPEG in, as reflectance 0-1; GeoTIFF and PNG out.

PNG goes through GDAL as well: Pillow reduces 16-bit RGB to 8 bits without a word. A JPEG is written back as PNG,
because compressing it again would change every pixel, the observed ones too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.shutil import copy

from stac.errors import InvalidInput, NotWritable, UnreadableAsset
from stac.grid.georeference import pixel_side_m
from stac.io.raster import environment
from stac.product.cog import cog_bytes
from stac.reflectance import PRODUCT_SCALE

FloatArray = NDArray[np.float32]
PixelArray = NDArray[Any]

_DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
_SPECTRUM = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir, ColorInterp.coastal)
_TIMEOUT_S = 30.0
#: Largest reflectance of a dark 16-bit image, clouds included: brighter ground is everywhere. Eight-bit values in a
#: 16-bit file stay below it.
_IMPLAUSIBLY_DARK = 0.03
#: Below this a value marks what was not measured, such as -9999.
_LEAST_REFLECTANCE = -0.5
#: More samples than this share above reflectance 1 are no clouds but another scale.
_MOST_SATURATED = 0.5
#: File name endings that are looked for in a folder.
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


@unique
class Kind(StrEnum):
    """Formats, by GDAL's names."""

    GEOTIFF = "GTiff"
    PNG = "PNG"
    JPEG = "JPEG"


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
    def gsd_m(self) -> float | None:
        """Side of a pixel, metres, at the centre of an image in degrees; None where the file does not say."""
        if self.georeference is None:
            return None
        crs, affine = self.georeference
        return pixel_side_m(GeoBox(self.shape, Affine(*affine), crs))

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
        InvalidInput: its size or georeference is not the image's, it has transparency, NaN or nodata.
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
        values, nodata = source.read(), source.nodata
    if not np.isfinite(values).all():
        raise InvalidInput(f"Mask {path} holds NaN; write 0 where nothing is to be restored.")
    if nodata and (values == nodata).any():
        raise InvalidInput(
            f"Mask {path} holds its nodata value {nodata:g}; write 0 where nothing is to be restored, or declare no "
            "nodata value where it means cloud."
        )
    return np.asarray((values != 0).any(axis=0))


def encode_like(image: ImageFile, pixels: PixelArray) -> bytes:
    """Return the file that holds `pixels` `(band, y, x)` and everything else `image` says.

    A GeoTIFF becomes a cloud-optimised GeoTIFF with the same type, nodata, georeference, band names, scales and tags.

    Raises:
        NotWritable: GDAL cannot write these pixels.
        UnreadableAsset: the original is damaged.
    """
    with _opened(image.path) as source, MemoryFile(ext=".tif") as whole:
        try:
            copy(source, whole.name, driver="GTiff")
            with rasterio.open(whole.name, "r+") as target:
                target.write(pixels)
                target.clear_stats()  # of the old pixels
            if image.kind is Kind.GEOTIFF:
                return cog_bytes(whole, "average")
            with MemoryFile(ext=".png") as picture:
                copy(whole.name, picture.name, driver="PNG")
                return bytes(picture.read())
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


@dataclass(frozen=True, slots=True)
class ValueScale:
    """Reflectance = stored * scale + offset, per band."""

    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    #: Where it comes from: `given`, `declared by the file` or `default`.
    origin: str

    def columns(self) -> tuple[FloatArray, FloatArray]:
        """Return scales and offsets as `(band, 1, 1)`."""
        scales, offsets = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.scales, self.offsets))
        return scales, offsets


def scale_of(image: ImageFile, given: float | None) -> ValueScale:
    """Return how an image's values become reflectance: as given, else as the file declares, else by its type.

    Defaults: 1/255 for 8 bits, 1e-4 for 16-bit GeoTIFF (the convention of surface reflectance products), 1/65535 for
    16-bit PNG, 1 for floating point.

    Raises:
        InvalidInput: the scale is not a positive number.
    """
    if given is not None:
        _check_scale(given, "--scale")
        return ValueScale((given,) * image.bands, (0.0,) * image.bands, "given")
    if any(scale != 1 for scale in image.scales) or any(image.offsets):
        for scale in image.scales:
            _check_scale(scale, f"The scale declared by {image.path}")
        return ValueScale(image.scales, image.offsets, "declared by the file")
    return ValueScale((_default(image),) * image.bands, (0.0,) * image.bands, "default")


def _default(image: ImageFile) -> float:
    if image.dtype == "uint8":
        return 1 / 255
    if image.dtype.startswith("float"):
        return 1.0
    return PRODUCT_SCALE if image.kind is Kind.GEOTIFF else 1 / 65535


def _check_scale(scale: float, name: str) -> None:
    if not 0 < scale < math.inf:
        raise InvalidInput(f"{name} is {scale}; reflectance = stored value x scale wants a positive number.")


def missing(pixels: PixelArray, image: ImageFile) -> NDArray[np.bool_]:
    """Return `(band, y, x)`, True on samples of the declared nodata value."""
    if image.nodata is None:
        return np.zeros(pixels.shape, dtype=bool)
    return np.asarray(np.isnan(pixels) if math.isnan(image.nodata) else pixels == image.nodata)


def decode(pixels: PixelArray, image: ImageFile, scale: ValueScale) -> FloatArray:
    """Return reflectance `(band, y, x)`, NaN on nodata.

    Raises:
        InvalidInput: a sample is not finite without being nodata, or the values do not fit the scale.
    """
    gaps = missing(pixels, image)
    odd = int((~np.isfinite(pixels) & ~gaps).sum())
    if odd:
        raise InvalidInput(
            f"{image.path} holds {odd} values that are NaN or infinite; declare NaN as its nodata value."
        )
    scales, offsets = scale.columns()
    reflectance = pixels.astype(np.float32) * scales + offsets
    if not gaps.all():
        _check_plausible(reflectance[~gaps], image, scale)
    reflectance[gaps] = np.nan
    return reflectance


def _check_plausible(values: FloatArray, image: ImageFile, scale: ValueScale) -> None:
    """Raise for values that another scale would explain better: restoring them would spoil them silently."""
    used = f"with scale {scale.scales[0]:.4g} ({scale.origin})"
    if (values > 1).mean() > _MOST_SATURATED:
        raise InvalidInput(
            f"{image.path}: {used} most values exceed reflectance 1 (largest {values.max():.4g}); give the right "
            "--scale."
        )
    if (least := values.min()) < _LEAST_REFLECTANCE:
        raise InvalidInput(
            f"{image.path}: {used} a value is reflectance {least:.4g}, which nothing on the ground has; declare it as "
            "nodata, or give the right --scale."
        )
    if scale.origin == "default" and image.dtype in ("uint16", "int16") and values.max() < _IMPLAUSIBLY_DARK:
        raise InvalidInput(
            f"{image.path}: {used} no value exceeds reflectance {values.max():.4g}, as if 8-bit values were stored in "
            f"16 bits; give the right --scale, {1 / 255:.7f} for 0-255."
        )


def encode(
    reflectance: FloatArray, replaced: NDArray[np.bool_], pixels: PixelArray, image: ImageFile, scale: ValueScale
) -> PixelArray:
    """Return stored values `(band, y, x)`: new ones where `replaced`, every other sample bit for bit as it was.

    A missing sample stays missing, and no new one takes the nodata value.

    Args:
        reflectance: `(band, y, x)`, finite where `replaced`.
        replaced: `(y, x)`.
        pixels: the stored values before.
        image: their file.
        scale: how values become reflectance.
    """
    scales, offsets = scale.columns()
    where = replaced & ~missing(pixels, image)
    values = (np.where(where, reflectance, np.float32(0)) - offsets) / scales
    dtype = pixels.dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.rint(values).clip(limits.min, limits.max)
    new = values.astype(dtype)
    if image.nodata is not None and (clash := where & (new == image.nodata)).any():
        new[clash] = _beside(image.nodata, dtype)
    return np.where(where, new, pixels)


def _beside(nodata: float, dtype: np.dtype[Any]) -> Any:
    """Return the nearest value that is not nodata."""
    if dtype.kind == "f":
        return np.nextafter(dtype.type(nodata), dtype.type(1 if nodata < 1 else 0))
    return dtype.type(nodata + 1 if nodata < np.iinfo(dtype).max else nodata - 1)
