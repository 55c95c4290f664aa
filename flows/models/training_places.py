"""Imagery of many places as one training archive: what a listing names, read once.

A listing is a YAML file:

    bands: [blue, green, red, nir]
    held_out: [MGRS-33TWL]          # places that are read and never trained on
    coarser_from: 512               # scenes of so many pixels a side are taken at half their resolution, too
    sources:
      - catalog: {source: PATH or URL, collection: ID, interval: START/END, cells: [MGRS-33TWM]}
      - pairs: {folder: sen12mscr-10m, gsd_m: 10, bands: [B02, B03, B04, B08], table: pairs.csv}
      - images: {glob: "terramind-10m/*.tif", gsd_m: 10, bands: [2, 3, 4, 8]}
      - bands: {glob: "T29UNU_{band}.jp2", bands: [B02, B03, B04, B8A], scl: SCL, offset: -0.1, gsd_m: 60, place: NAME}
      - landsat: {glob: "landsat-30m/*.tar.gz", bands: [SR_B2, SR_B3, SR_B4, SR_B5]}   # Collection 2, level 2

Paths are relative to the listing's folder, or to the one that is given. `catalog` may carry `bbox`, the part that is
read. `images` may carry `mask: _label` (a file of the same name with this ending, not 0 = cloud; where there is none,
as `bright`), `mask: bright` (what is much brighter in the first band than the dark ground is cloud, grown by three
pixels), `without: [NAME]` and `place: NAME` for images of one place.
"""

from __future__ import annotations

import csv
import os
import tarfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import binary_dilation

from de_model.data.archive import Scene, SceneInfo
from de_model.scene.observation import SceneClass
from flows.errors import InvalidSettings
from flows.models.image_file import open_image, read_mask, read_pixels
from flows.planning.search import SceneSet, stacks_of
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, among
from stac.masks.methods import classify_scl

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_COUNT = 1e-4
#: A bright mask: excess over the dark fifth of the ground, reflectance, and growth, pixels.
_BRIGHT, _GROWTH_PX = 0.04, 3
#: Counts beyond this are no reflectance.
_LARGEST = 60_000
#: Scale and offset of Collection 2 reflectance.
_LANDSAT = (2.75e-5, -0.2)
#: Ground within this many pixels of a cloud, and darker in the last band than this share of the median, is shadow.
_SHADOW_REACH_PX, _SHADOW_SHARE = 40, 0.55
#: Scenes hidden by more than this teach nothing.
MOST_HIDDEN = 0.96
#: Words of `pairs.csv`: the clear half is hazy, and what is below the cloud is too bright to know it from cloud.
_HAZY, _SNOW = "hazy target", "snow below cloud"


@dataclass(frozen=True, slots=True)
class PlaceListing:
    """What a training looks at."""

    bands: tuple[str, ...]
    held_out: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]
    #: Folder of relative paths.
    root: Path
    #: Side of scenes that are taken at half their resolution, too; 0 for none.
    coarser_from: int = 0


def read_listing(path: Path, root: Path | None = None) -> PlaceListing:
    """Read a listing.

    Args:
        path: the YAML file.
        root: folder of its relative paths; its own when left out.

    Raises:
        InvalidSettings: the file is missing, no YAML, or names a kind of source that is not known.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
        sources = tuple(values["sources"])
        listing = PlaceListing(
            tuple(values["bands"]),
            tuple(values.get("held_out", ())),
            sources,
            root or path.parent,
            int(values.get("coarser_from", 0)),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InvalidSettings(f"{path} is not a listing of places ({error}); it needs bands and sources.") from error
    for source in sources:
        if len(source) != 1 or next(iter(source)) not in _READERS:
            raise InvalidSettings(f"{path} names a source {source}; each is one of {', '.join(_READERS)}.")
    return listing


def scenes_of(listing: PlaceListing) -> list[Scene]:
    """Return every scene of a listing.

    Raises:
        InvalidSettings: a source is incomplete or empty.
        stac.errors.UnreadableAsset, stac.errors.InvalidInput: a file cannot be read or does not fit.
    """
    found: list[Scene] = []
    for source in listing.sources:
        kind, values = next(iter(source.items()))
        try:
            read = list(_READERS[kind](values, listing))
        except KeyError as error:
            raise InvalidSettings(f"Source {kind} {dict(values)} lacks {error}; add it.") from error
        if not read:
            raise InvalidSettings(f"Source {kind} {dict(values)} holds no scene below {listing.root}; check its path.")
        found += read
    least = listing.coarser_from
    return found + [_coarser(scene) for scene in found if least and min(scene.classes.shape) >= least]


def _coarser(scene: Scene) -> Scene:
    """Return a scene at half its resolution: to a network that sees pixels it is other ground."""
    height, width = (length // 2 * 2 for length in scene.classes.shape)
    shape = (height // 2, 2, width // 2, 2)
    image = scene.image[:, :height, :width].reshape(len(scene.image), *shape).mean(axis=(2, 4))
    # The worst of four: the classes are in the order of what they hide, but for nodata.
    classes = scene.classes[:height, :width].reshape(shape).max(axis=(1, 3))
    info = scene.info
    series = f"{info.series}-coarser" if info.series else ""
    changed = SceneInfo(f"{info.name}-coarser", info.place, series, info.day, 2 * info.gsd_m)
    return Scene(changed, image.astype(np.float32), classes)


def _catalog(values: Mapping[str, Any], listing: PlaceListing) -> Iterator[Scene]:
    source = str(values["source"])
    local = listing.root / source
    for cell in values["cells"]:
        chosen = SceneSet(
            cells=(cell,),
            source=str(local) if local.exists() else source,
            collection=values["collection"],
            datetime=values["interval"],
            bbox=values.get("bbox"),
            bands=listing.bands,
        )
        yield from scenes_of_stacks(chosen, values.get("place"))


def scenes_of_stacks(chosen: SceneSet, place: str | None = None) -> Iterator[Scene]:
    """Yield the scenes of a catalog's cells; every cell is a place and a series unless a place is named.

    Args:
        chosen: the cells.
        place: name of the place.

    Raises:
        InvalidSettings: a cell has no scene.
    """
    for code, stack in zip(chosen.cells, stacks_of(chosen), strict=True):
        for index, name in enumerate(stack.item_ids):
            classes = _classes(stack.classes[index])
            if (classes == SceneClass.THICK).mean() > MOST_HIDDEN:
                continue
            info = SceneInfo(name, place or code, code, int(stack.days[index]), _gsd(stack))
            yield Scene(info, np.nan_to_num(stack.reflectance(index)), classes)


def _gsd(stack: Stack) -> float:
    return abs(float(stack.cell.geobox.resolution.x))


def _classes(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    result = np.full(classes.shape, SceneClass.CLEAR, np.uint8)
    result[among(classes, (PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.DEFECTIVE))] = SceneClass.THICK
    result[classes == PixelClass.SHADOW] = SceneClass.SHADOW
    result[classes == PixelClass.NODATA] = SceneClass.NODATA
    return result


def _pairs(values: Mapping[str, Any], listing: PlaceListing) -> Iterator[Scene]:
    """Yield both halves of the sound pairs of SEN12MS-CR, and of the others what can be trusted."""
    folder = listing.root / values["folder"]
    with (folder / values.get("table", "pairs.csv")).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        name, hazy = row["name"], row["verdict"] == _HAZY
        place = "_".join(name.split("_")[:3])
        for half, day in (("cloudy", 1), ("clear", 30)):
            path = folder / f"{name}_{half}.tif"
            unusable = (hazy and half == "clear") or (row["verdict"] == _SNOW and half == "cloudy")
            if unusable or not path.is_file():
                continue
            image, cloud = _read(path, values["bands"], folder / f"{name}_{half}_cloudmask.tif")
            if hazy and not 0.05 < cloud.mean() < 0.95:
                continue
            info = SceneInfo(f"{name}_{half}", place, "" if hazy else name, day, float(values["gsd_m"]))
            yield Scene(info, image, _without_data(image, np.where(cloud, SceneClass.THICK, SceneClass.CLEAR)))


def _images(values: Mapping[str, Any], listing: PlaceListing) -> Iterator[Scene]:
    mask = str(values.get("mask", ""))
    left_out = set(values.get("without", ()))
    for path in sorted(listing.root.glob(values["glob"])):
        if (mask.startswith("_") and path.stem.endswith(mask)) or path.stem in left_out:
            continue
        label = path.with_name(f"{path.stem}{mask}{path.suffix}") if mask.startswith("_") else None
        image, cloud = _read(path, values["bands"], label)
        if mask and (label is None or not label.is_file()):
            cloud = _bright(image)
        classes = _with_shadow(image, cloud)
        info = SceneInfo(path.stem, str(values.get("place", path.stem)), "", 0, float(values["gsd_m"]))
        yield Scene(info, image, _without_data(image, classes))


def _read(path: Path, bands: Sequence[str | int], mask: Path | None) -> tuple[FloatArray, BoolArray]:
    """Return reflectance `(band, y, x)` and cloud `(y, x)`; bands by name, or by number counted from 1."""
    image = open_image(path)
    lacking = [band for band in bands if isinstance(band, str) and band not in image.names]
    if lacking:
        raise InvalidSettings(f"{path} has no band {lacking[0]}; it has {', '.join(image.names) or 'no names'}.")
    chosen = [image.names.index(band) if isinstance(band, str) else int(band) - 1 for band in bands]
    pixels = read_pixels(image)[chosen].astype(np.float32) * np.float32(_COUNT)
    if mask is None or not mask.is_file():
        return pixels, np.zeros(pixels.shape[1:], bool)
    return pixels, read_mask(mask, open_image(path))


def _without_data(image: FloatArray, classes: NDArray[Any]) -> NDArray[np.uint8]:
    return np.where((image <= 0).all(axis=0), SceneClass.NODATA, classes).astype(np.uint8)


def _bright(image: FloatArray) -> BoolArray:
    first = image[0]
    return np.asarray(binary_dilation(first > np.percentile(first, 20) + _BRIGHT, iterations=_GROWTH_PX))


def _with_shadow(image: FloatArray, cloud: BoolArray) -> NDArray[np.uint8]:
    """Return classes by a cloud mask; what is dark in the last band near a cloud is shadow, which such masks lack."""
    classes = np.where(cloud, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
    if cloud.any() and not cloud.all():
        last = image[-1]
        dark = last < _SHADOW_SHARE * np.median(last[~cloud])
        classes[dark & ~cloud & binary_dilation(cloud, iterations=_SHADOW_REACH_PX)] = SceneClass.SHADOW
    return classes


def _bands(values: Mapping[str, Any], listing: PlaceListing) -> Iterator[Scene]:
    """Yield the one image whose bands are files of their own, with Sentinel-2's scene classes where it has them."""
    names = [str(listing.root / values["glob"].format(band=band)) for band in values["bands"]]
    if not all(map(os.path.isfile, names)):
        return
    counts = np.stack([_plane(name) for name in names])
    missing = (counts <= 0).any(axis=0) | (counts > _LARGEST).any(axis=0)
    image = np.where(missing, 0, counts * np.float32(_COUNT) + np.float32(values.get("offset", 0))).astype(np.float32)
    if "scl" in values:
        classes = _classes(classify_scl(_plane(str(listing.root / values["glob"].format(band=values["scl"])))))
    else:
        classes = np.where(_bright(image), SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
    classes[missing] = SceneClass.NODATA
    yield Scene(SceneInfo(values["place"], values["place"], "", 0, float(values["gsd_m"])), image, classes)


def _landsat(values: Mapping[str, Any], listing: PlaceListing) -> Iterator[Scene]:
    """Yield the scenes of Collection 2, level 2, as they are delivered; those that lack a band are left out."""
    for path in sorted(listing.root.glob(values["glob"])):
        with tarfile.open(path) as archive:
            names = archive.getnames()
            members = [next((n for n in names if n.endswith(f"_{band}.TIF")), "") for band in values["bands"]]
        if not all(members):
            continue
        counts = np.stack([_plane(f"/vsitar/{path.resolve()}/{name}") for name in members])
        missing = (counts == 0).any(axis=0)
        image = np.where(missing, 0, counts * np.float32(_LANDSAT[0]) + np.float32(_LANDSAT[1])).astype(np.float32)
        classes = _with_shadow(image, _bright(image) & ~missing)
        classes[missing] = SceneClass.NODATA
        _, _, track, day = path.name.split("_")[:4]
        since = (date.fromisoformat(day) - date(1970, 1, 1)).days
        place = f"landsat-{track}"
        yield Scene(SceneInfo(f"{place}-{day}", place, place, since, 30.0), image, classes)


def _plane(name: str) -> NDArray[Any]:
    with warnings.catch_warnings():
        # The place of a Landsat band is in the archive's MTL, and is not wanted.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(name, driver="JP2OpenJPEG" if name.endswith(".jp2") else "GTiff") as source:
            plane: NDArray[Any] = source.read(1)
    return plane


_READERS = {"catalog": _catalog, "pairs": _pairs, "images": _images, "bands": _bands, "landsat": _landsat}
