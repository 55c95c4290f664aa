"""Restoring single image files, without catalog, labels or registry: what `unveil predict` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.inference.engine import RestoredImage, restore_image
from de_model.inference.sampling import Sampling
from de_model.metrics.baselines import REACH_PX, flat_colour
from de_model.metrics.signatures import signatures
from de_model.validation import (
    CLEAR_SHARE,
    Filler,
    PixelKind,
    fillers_of,
    kinds_of_gaps,
    validation_of,
)
from flows import __version__
from flows.errors import InvalidSettings
from flows.models.evaluation_report import plain
from flows.models.image_file import (
    SUFFIXES,
    ImageFile,
    ValueScale,
    decode,
    encode,
    encode_like,
    missing,
    open_image,
    read_mask,
    read_pixels,
    scale_of,
)
from flows.processing.model import load_model
from flows.processing.restore import by_filler, filled_around, without_model
from flows.progress import report_progress
from flows.settings import Device, GapFilling
from stac.grid.assets import looks_spectral, readings, same
from stac.io.files import require_writable, write_bytes, write_json, writing
from stac.product.block_store import blocks_of

Document = dict[str, Any]

#: Side of what is interpolated at once, pixels.
_BLOCK_PX = 1024
_RGB = frozenset({"red", "green", "blue"})


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be restored, and how."""

    #: Image files, and folders whose image files are taken.
    inputs: tuple[Path, ...]
    weights: Path
    #: Folder that is written to; made when missing.
    out: Path
    sampling: Sampling
    #: A file for every image, or a folder with a file of the same name (any ending) for each; None restores all.
    mask: Path | None = None
    #: Reflectance = stored value * scale; None takes what the file declares or the default of its type.
    scale: float | None = None
    device: Device = Device.AUTO
    #: What fills the masked pixels: the best validated filler of their kind, or the model.
    gaps: GapFilling = GapFilling.VALIDATED
    #: Show the ground below clouds as another, clear day would, as far as the model knows; else in the image's light.
    another_day: bool = True


@dataclass(frozen=True, slots=True)
class _Job:
    """One image, checked, and where its result goes."""

    image: ImageFile
    mask: Path | None
    scale: ValueScale
    #: For each band of the model, the band of the file.
    order: tuple[int, ...]
    output: Path
    sidecar: Path


def predict(request: Request) -> Iterator[Document]:
    """Restore every image and yield its record once image and record are written.

    All files are checked before the first is restored. `<name>.restored.<ending>` and `<name>.restored.json` are there
    whole or not at all; the record is written last.

    Raises:
        InvalidSettings: nothing is to be restored, two results would share a name, or the device is missing.
        InvalidCheckpoint: the weights are missing, damaged or no model.
        InvalidModelInput: a value of `sampling` does not fit the model.
        stac.errors.InvalidInput: an image or mask does not fit; the message names it.
        stac.errors.UnreadableAsset: an image or mask is damaged.
        stac.errors.NotWritable: the folder cannot be written.
    """
    card = checkpoint.read_card(request.weights)
    jobs = _plan(request, card)
    request.sampling.check(card)
    digest = checkpoint.sha256_of(request.weights)
    enhancer = load_model(str(request.weights), digest, request.device)
    require_writable(request.out)
    for job in jobs:
        yield _restore(job, enhancer, request, digest)


def find_images(inputs: Sequence[Path]) -> tuple[Path, ...]:
    """Return the image files among `inputs` and directly inside the folders among them, each once.

    Raises:
        InvalidSettings: there is none.
    """
    found: dict[Path, Path] = {}
    for path in inputs:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        found |= {p.resolve(): p for p in inside}
    if not found:
        where = ", ".join(str(path) for path in inputs) or "the command line"
        raise InvalidSettings(f"No image in {where}; name files ending in {', '.join(SUFFIXES)}.")
    return tuple(found.values())


def _plan(request: Request, card: ModelCard) -> list[_Job]:
    jobs = [_job(path, request, card) for path in find_images(request.inputs)]
    # No result may replace what is read, or another result.
    owners = {path.resolve(): path for job in jobs for path in (job.image.path, job.mask, request.weights) if path}
    for job in jobs:
        for target in (job.output, job.sidecar):
            owner = owners.setdefault(target.resolve(), job.image.path)
            if owner is not job.image.path or target.resolve() == owner.resolve():
                raise InvalidSettings(
                    f"The result of {job.image.path} would be {target}, which is taken by {owner}; rename one, or "
                    "choose another --out."
                )
    return jobs


def _job(path: Path, request: Request, card: ModelCard) -> _Job:
    image = open_image(path)
    if image.bands != len(card.bands):
        raise InvalidSettings(
            f"{path} has {image.bands} bands, the model {request.weights.name} restores {len(card.bands)} "
            f"({', '.join(card.bands)}); choose these bands or other weights."
        )
    mask = _mask_of(image, request.mask)
    if mask is not None:
        read_mask(mask, image)  # a mask that does not fit stops the command before hours of work
    stem = request.out / f"{path.stem}.restored"
    output, sidecar = (stem.with_name(stem.name + suffix) for suffix in (image.suffix, ".json"))
    return _Job(image, mask, scale_of(image, request.scale), band_order(image, card.bands), output, sidecar)


def band_order(image: ImageFile, bands: tuple[str, ...]) -> tuple[int, ...]:
    """Return, for each band of the model, the index of the file's band.

    Descriptions (`red`, `B04`) and colour interpretation are asked; where neither names a band, and for RGB pictures
    that carry other bands (false colours), the stored order is taken.

    Raises:
        InvalidSettings: the file names bands, but not those of the model, or names them in two ways that differ.
    """
    described, coloured = _by_names(image, bands), _by_colours(image, bands)
    if described and coloured and described != coloured:
        raise InvalidSettings(
            f"{image.path}: its bands are called {', '.join(image.names)}, but coloured {', '.join(image.colours)}; "
            "correct one of them."
        )
    return described or coloured or tuple(range(len(bands)))


def _by_names(image: ImageFile, bands: tuple[str, ...]) -> tuple[int, ...] | None:
    if not looks_spectral(image.names):
        return None
    found = {order for names in readings(image.names) if (order := _places(names, bands)) is not None}
    if len(found) != 1:
        raise _other_bands(image, image.names, bands)
    return found.pop()


def _by_colours(image: ImageFile, bands: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the order by colour; one band without any is the one that is left."""
    colours = image.colours
    if not set(colours) & set(bands) or (set(colours) == _RGB and set(bands) != _RGB):
        return None
    left = [band for band in bands if not any(same(colour, band) for colour in colours)]
    if colours.count("") == len(left) == 1:
        colours = tuple(colour or left[0] for colour in colours)
    order = _places(colours, bands)
    if order is None:
        raise _other_bands(image, colours, bands)
    return order


def _places(names: Sequence[str], bands: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return where each band is among some names, None unless each is there once."""
    found = [[index for index, name in enumerate(names) if same(name, band)] for band in bands]
    return tuple(places[0] for places in found) if all(len(places) == 1 for places in found) else None


def _other_bands(image: ImageFile, names: Sequence[str], bands: tuple[str, ...]) -> InvalidSettings:
    listed = ", ".join(name or "(unnamed)" for name in names)
    return InvalidSettings(
        f"{image.path} holds the bands {listed}, the model restores {', '.join(bands)}; choose these bands or other "
        "weights, or describe the bands by these names."
    )


def _mask_of(image: ImageFile, mask: Path | None) -> Path | None:
    if mask is None or not mask.is_dir():
        return mask
    found = [mask / f"{image.path.stem}{suffix}" for suffix in SUFFIXES]
    present = [path for path in found if path.is_file()]
    if len(present) != 1:
        raise InvalidSettings(
            f"{mask} holds {len(present)} masks for {image.path.name}; it needs one named {image.path.stem} with an "
            f"ending of {', '.join(SUFFIXES)}."
        )
    return present[0]


def _restore(job: _Job, enhancer: Enhancer, request: Request, digest: str) -> Document:
    pixels = read_pixels(job.image)
    scene = decode(pixels, job.image, job.scale)[list(job.order)]
    needed = np.asarray(~missing(pixels, job.image).all(axis=0))
    if job.mask is not None:
        needed &= read_mask(job.mask, job.image)
    progress, card = partial(report_progress, job.image.path.name), enhancer.card
    progress()
    gsd_m = job.image.gsd_m or card.gsd_m
    # Where nothing is clear, the other fillers know nothing either.
    some_ground = bool((np.isfinite(scene).all(axis=0) & ~needed).any())
    choose = request.gaps is GapFilling.VALIDATED and some_ground
    validated = fillers_of(validation_of(request.weights)) if choose else {}
    # The model gives what it makes of an image as a whole, not its reference alone.
    fillers = {kind: Filler.DE if name.of_model else name for kind, name in validated.items()}
    found, pixels_of = _fill(scene, needed, fillers, enhancer, request, progress, gsd_m)
    stored_order = np.argsort(job.order)
    content = encode_like(job.image, encode(found.image[stored_order], needed, pixels, job.image, job.scale))
    scene[:, needed] = found.image[:, needed]
    about = {
        "fillers": {"kinds": {str(kind): str(name) for kind, name in fillers.items()}, "pixels": pixels_of},
        "figures": _figures(found, needed),
        "signatures": _signatures(scene, needed, card.bands),
    }
    return _write(job, content, _record(job, card, request, digest) | about)


def _fill(
    scene: NDArray[np.float32],
    needed: NDArray[np.bool_],
    fillers: Mapping[PixelKind, Filler],
    enhancer: Enhancer,
    request: Request,
    progress: Callable[[int, int], None],
    gsd_m: float,
) -> tuple[RestoredImage, dict[str, int]]:
    """Return an image filled kind by kind as products are, all of it opaque, and the pixels by filler."""
    known = np.isfinite(scene).all(axis=0) & ~needed
    level, clear_ground = flat_colour(scene, known), bool(known.mean() >= CLEAR_SHARE)
    around, trivial = np.full_like(scene, np.nan), np.zeros_like(needed)
    for at, window in _windows(needed):
        thin = np.zeros_like(needed[window])
        kinds = kinds_of_gaps(needed[window], thin, known[window], clear_ground=clear_ground)
        where = by_filler(kinds, fillers)
        filled = filled_around(scene[:, *window], known[window], level, where).image
        inside = tuple(
            slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(at, window, strict=True)
        )
        around[:, *at], trivial[at] = filled[:, *inside], without_model(where)[inside]
    left = needed & ~trivial
    found = restore_image(
        enhancer,
        scene,
        left,
        request.sampling,
        progress,
        gsd_m=gsd_m,
        another_day=request.another_day,
        hidden=needed,
    )
    found.image[:, trivial] = around[:, trivial]
    return found, {"interpolated": int(trivial.sum()), "model": int(left.sum())}


def _windows(needed: NDArray[np.bool_]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Yield every block in which a pixel is needed, and the same with the ground around that fills it."""
    for block in blocks_of(slice(0, needed.shape[0]), slice(0, needed.shape[1]), _BLOCK_PX):
        at = (block.rows, block.columns)
        if needed[at].any():
            rows, columns = (
                slice(max(0, own.start - REACH_PX), min(size, own.stop + REACH_PX))
                for own, size in zip(at, needed.shape, strict=True)
            )
            yield at, (rows, columns)


def _write(job: _Job, content: bytes, record: Document) -> Document:
    """Write image and record; a failure leaves neither."""
    with writing(job.sidecar):
        job.sidecar.unlink(missing_ok=True)
    try:
        write_bytes(job.output, content)
        record["output"] = {"file": job.output.name, "sha256": checkpoint.sha256_of(job.output)}
        write_json(job.sidecar, record)
    except BaseException:
        job.output.unlink(missing_ok=True)
        raise
    return record


def _record(job: _Job, card: ModelCard, request: Request, digest: str) -> Document:
    image = job.image
    return {
        "unveil": __version__,
        "input": {
            **_file(image.path),
            "kind": str(image.kind),
            "dtype": image.dtype,
            "shape": [image.bands, *image.shape],
            "gsd_m": image.gsd_m,
            "nodata": None if image.nodata is None or math.isnan(image.nodata) else image.nodata,
        },
        "mask": None if job.mask is None else _file(job.mask),
        "model": {
            "file": request.weights.name,
            "sha256": digest,
            "preset": str(card.preset),
            "bands": list(card.bands),
            "gsd_m": card.gsd_m,
        },
        "sampling": asdict(request.sampling),
        "another_day": request.another_day,
        "scale": asdict(job.scale),
        # For each band of the model, the band of the file, counted from 1 as GDAL does.
        "band_order": [index + 1 for index in job.order],
    }


def _file(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": checkpoint.sha256_of(path)}


def _figures(found: RestoredImage, needed: NDArray[np.bool_]) -> Document:
    """Return counts and means over the restored pixels; null where nothing was restored."""
    means = {"mean_reference_weight": found.mean_reference_weight, "mean_spread": found.mean_spread}
    counts = {"restored_pixels": int(needed.sum()), "shadow_pixels": found.shadow_pixels, "tiles": found.tiles}
    return {**counts, **plain(means)}


def _signatures(scene: NDArray[np.float32], needed: NDArray[np.bool_], bands: tuple[str, ...]) -> Document | None:
    """Return the failure signatures against the observed surroundings; null where there are none."""
    around = signatures(scene, needed, bands).surroundings if needed.any() else None
    return None if around is None else plain(asdict(around))
