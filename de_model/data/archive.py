"""Scenes kept for training: reflectance, classes, and the clouds that can be laid on other ground.

An archive is a folder of `NAME.npz` files, one per scene, and knows nothing of catalogs: whoever reads imagery writes
scenes here once, and trainings read them from memory-mapped arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from de_model.errors import InvalidModelInput
from de_model.scene.observation import SceneClass

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]

#: Reflectance of one count on disk.
_COUNT = 1e-4
#: Pixels over which a cloud fades outside its mask: masks miss the border of clouds.
_FADE_PX = 12.0
#: Reflectance of a cloud that hides the ground.
_BRIGHT = 0.55
#: Least pixels of a cloud layer.
_FEWEST_PX = 200


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What a scene is."""

    name: str
    #: Scenes of one place are held out together.
    place: str
    #: Scenes of one series show the same pixels on other days; empty for a single image.
    series: str
    #: Days since 1970-01-01; 0 when unknown.
    day: int
    gsd_m: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A real cloud: `seen = path + (1 - opacity) * ground`, and the light that its shadow leaves."""

    #: `(y, x)`, 0..1.
    opacity: FloatArray
    #: Reflectance `(band, y, x)`.
    path: FloatArray
    #: `(y, x)`, as the scene's mask said.
    mask: BoolArray


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of the archive."""

    info: SceneInfo
    #: Reflectance `(band, y, x)`.
    image: FloatArray
    #: `SceneClass` per pixel; cloud is `THICK` whatever its thickness.
    classes: ByteArray
    #: Its clouds, where there are enough of them.
    layer: Layer | None = None

    @property
    def clear(self) -> BoolArray:
        """Pixels that show the ground `(y, x)`."""
        return self.classes == SceneClass.CLEAR

    @property
    def cloud(self) -> BoolArray:
        """Pixels below cloud `(y, x)`."""
        return (self.classes == SceneClass.THICK) | (self.classes == SceneClass.THIN)


def write_archive(folder: Path, scenes: Sequence[Scene]) -> str:
    """Write every scene with its clouds, and return the fingerprint of the whole.

    Args:
        folder: made when missing; files of other scenes in it are removed.
        scenes: names must differ.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.npz"):
        stale.unlink()
    digest = hashlib.sha256()
    for scene in scenes:
        layer = layer_of(scene, counterpart(scene, scenes))
        arrays: dict[str, Any] = {"image": _counts(scene.image), "classes": scene.classes}
        if layer is not None:
            arrays |= {
                "opacity": np.round(layer.opacity * 255).astype(np.uint8),
                "path": _counts(layer.path),
                "mask": layer.mask.astype(np.uint8),
            }
        np.savez(folder / f"{scene.info.name}.npz", **arrays, info=np.array(json.dumps(asdict(scene.info))))
        digest.update(arrays["image"].tobytes() + arrays["classes"].tobytes())
    return digest.hexdigest()


def read_archive(folder: Path, without: Iterable[str] = (), only: Iterable[str] | None = None) -> list[Scene]:
    """Return the scenes of an archive, ordered by name.

    Args:
        folder: as `write_archive` left it.
        without: places that are held out.
        only: the only places that are read; None for all.

    Raises:
        InvalidModelInput: a place that is held out is not in the archive, or nothing is left.
    """
    kept_out, wanted = set(without), None if only is None else set(only)
    scenes = [_read(path) for path in sorted(folder.glob("*.npz"))]
    # A name that fits no place would let the place that was meant be trained on.
    places = {scene.info.place for scene in scenes}
    if unknown := sorted(kept_out - places):
        raise InvalidModelInput(
            f"Place {unknown[0]} is to be held out and {folder} does not hold it; it holds {', '.join(sorted(places))}."
        )
    kept = [s for s in scenes if s.info.place not in kept_out and (wanted is None or s.info.place in wanted)]
    if not kept:
        raise InvalidModelInput(f"{folder} holds no scene of the places that are asked for; prepare it first.")
    return kept


def _read(path: Path) -> Scene:
    with np.load(path, allow_pickle=False) as stored:
        info = SceneInfo(**json.loads(str(stored["info"])))
        layer = None
        if "opacity" in stored:
            layer = Layer(stored["opacity"].astype(np.float32) / 255, _reflectance(stored["path"]), stored["mask"] > 0)
        return Scene(info, _reflectance(stored["image"]), stored["classes"], layer)


def _counts(image: FloatArray) -> NDArray[np.int16]:
    return np.clip(np.round(np.nan_to_num(image) / _COUNT), -32000, 32000).astype(np.int16)


def _reflectance(counts: NDArray[np.int16]) -> FloatArray:
    return counts.astype(np.float32) * np.float32(_COUNT)


def counterpart(scene: Scene, scenes: Sequence[Scene]) -> FloatArray | None:
    """Return the clearest nearest other date of the series, in the colours of this one; None without one.

    Args:
        scene: the scene whose ground is wanted.
        scenes: all scenes.
    """
    others = [s for s in scenes if scene.info.series and s.info.series == scene.info.series and s is not scene]
    others = [s for s in others if s.clear.mean() > 0.85]
    if not others:
        return None
    nearest = min(others, key=lambda s: abs(s.info.day - scene.info.day))
    both = scene.clear & nearest.clear
    return matched(nearest.image, scene.image, both) if both.sum() > 500 else None


def matched(
    source: FloatArray,
    target: FloatArray,
    both: BoolArray,
    at: tuple[slice, slice] = (slice(None), slice(None)),
    stride: int = 3,
) -> FloatArray:
    """Return `source` in the radiometry of `target`: one gain and offset per band from the pixels both show.

    The gain is limited to 0.4..2.5, and shrunk towards 1 a little, so that few pixels cannot run away.

    Args:
        source: reflectance `(band, y, x)`.
        target: the same.
        both: `(y, x)`, what both show.
        at: the window that is returned; all pixels make the fit.
        stride: every so many pixels make the fit.
    """
    shared = both[::stride, ::stride]
    wanted = source[:, *at]
    result = np.empty_like(wanted)
    for band in range(len(source)):
        x, y = source[band, ::stride, ::stride][shared], target[band, ::stride, ::stride][shared]
        if len(x) < 20:
            result[band] = wanted[band]
            continue
        low, high = np.percentile(y - x, [2, 98])
        kept = (y - x >= low) & (y - x <= high)
        x, y = x[kept], y[kept]
        mx, my = x.mean(), y.mean()
        variance = np.mean((x - mx) ** 2) + 1e-6
        gain = (np.mean((x - mx) * (y - my)) + 1e-6) / variance
        gain = float(np.clip(gain, 0.4, 2.5))
        result[band] = my + gain * (wanted[band] - mx)
    return result


def layer_of(scene: Scene, ground: FloatArray | None) -> Layer | None:
    """Return the clouds of a scene apart from its ground; None where there are too few or no clear ground.

    Args:
        scene: the scene.
        ground: what is below `(band, y, x)`; the clear median colour, smoothly varied, where None.
    """
    cloud, clear = scene.cloud, scene.clear
    if cloud.sum() < _FEWEST_PX or clear.sum() < _FEWEST_PX:
        return None
    known = ground is not None
    below = ground if ground is not None else _smooth_ground(scene.image, clear)
    excess = scene.image - below
    visible = slice(0, min(3, len(excess)))
    bright = np.maximum(_BRIGHT, np.percentile(scene.image[visible][:, cloud], 95))
    raw = np.mean(excess[visible] / np.maximum(bright - below[visible], 0.1), axis=0)
    opacity = np.clip(raw, 0, 1)
    smooth = np.clip(gaussian_filter(raw, 2.0 if known else 4.0), 0, 1)
    blend = np.clip((opacity - 0.3) / 0.3, 0, 1)
    opacity = blend * opacity + (1 - blend) * smooth
    path = scene.image - (1 - opacity) * below
    thin = np.stack([gaussian_filter(part, 2.0 if known else 4.0) for part in path])
    path = blend * path + (1 - blend) * thin
    fade = np.clip(1 - distance_transform_edt(~cloud) / _FADE_PX, 0, 1).astype(np.float32)
    fade[scene.classes == SceneClass.NODATA] = 0
    opacity = (opacity * fade).astype(np.float32)
    return Layer(opacity, np.where(opacity > 0, path * fade, 0).astype(np.float32), cloud)


def _smooth_ground(image: FloatArray, clear: BoolArray) -> FloatArray:
    """Return the clear ground's colour around every pixel, the scene's median far from any."""
    median = np.median(image[:, clear], axis=1)
    weight = gaussian_filter(clear.astype(np.float32), 20.0) + 0.02
    parts = [
        m + gaussian_filter(np.where(clear, band - m, 0).astype(np.float32), 20.0) / weight
        for m, band in zip(median, image, strict=True)
    ]
    return np.stack(parts).astype(np.float32)
