"""What an MLflow model of Unveil holds and how it answers; MLflow itself is only known to `pyfunc_model.py`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from de_model.calibration import CalibrationTable, Origin
from de_model.card import ModelCard
from de_model.errors import InvalidModelInput
from de_model.inference.sampling import Sampling, sampler_kind, sampling_for

if TYPE_CHECKING:
    from de_model.enhancer import Enhancer
    from de_model.inference.engine import Restoration

#: Names of the artefacts: the weights, and the calibration of their intervals.
WEIGHTS, CALIBRATION = "weights", "calibration"
#: Names of the input tensors.
SCENE, NEEDED = "scene", "needed"

_PACKAGE = Path(__file__).parent
_RUNTIME = ("numpy", "safetensors", "torch")
_EXAMPLE_SIDE = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What the packaged model returns."""

    #: Surface reflectance `(batch, band, y, x)`: restored where needed, elsewhere the scene bit by bit.
    image: NDArray[np.float32]
    #: Standard deviation over samples `(batch, band, y, x)`, reflectance; NaN where not needed.
    spread: NDArray[np.float32]
    #: Share of the reference `(batch, y, x)`, eta..1; NaN where not needed.
    reference_weight: NDArray[np.float32]

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the named tensors of the signature."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def model_script() -> Path:
    """Return the models-from-code script."""
    return _PACKAGE / "pyfunc_model.py"


def requirements() -> list[str]:
    """Return what the packaged model needs besides MLflow, pinned to the versions in use."""
    # A local label such as `+cpu` names a build that no index serves.
    return [f"{name}=={version(name).partition('+')[0]}" for name in _RUNTIME]


def copy_code(folder: Path) -> Path:
    """Copy the modules of this package, without weights, to `folder`, and return the copy.

    A packaged model carries its own code, so that it loads where Unveil is not installed.
    """
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    return Path(shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=ignored))


def tags_of(card: ModelCard, sha256: str) -> dict[str, str]:
    """Return the tags that distinguish registered models."""
    return {
        "sha256": sha256,
        "bands": ",".join(card.bands),
        "preset": str(card.preset),
        "gsd_m": f"{card.gsd_m:g}",
        "trained_on": card.trained_on,
        "data_fingerprint": card.data_fingerprint,
        "revision": card.revision,
    }


def describe(card: ModelCard, sha256: str, calibration: CalibrationTable | None) -> str:
    """Return the model card for people, as Markdown: what it restores, what it learnt from, how far to trust it."""
    rows = {
        "weights": f"safetensors, SHA-256 `{sha256}`",
        "bands": ", ".join(card.bands),
        "pixel size of the training imagery": f"{card.gsd_m:g} m",
        "preset, reference": f"{card.preset}, {card.reference}",
        "share of the reference": f"{card.eta:g} at least, {card.weight_mode}",
        "trained on": card.trained_on or "not known",
        "fingerprint of the training data": f"`{card.data_fingerprint}`" if card.data_fingerprint else "not known",
        "code": card.revision or "not known",
        "intervals": _intervals_in_words(calibration),
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    return (
        "# Unveil DE: restores what clouds hide\n\n"
        "Diffusion Enhancement (arXiv 2401.15105) of one optical scene. In: surface reflectance with its clouds, and "
        "where a result is wanted. Out: the restored image, its spread over samples, and the share of the reference. "
        "What it restores is plausible, not observed.\n\n"
        f"{table}\n\n"
        "Not for other bands, and only with care for pixel sizes, seasons and places that it was not trained on.\n"
    )


def _intervals_in_words(table: CalibrationTable | None) -> str:
    if table is None:
        return "not calibrated: those of a Gaussian"
    factors = ", ".join(
        f"{band} {factor:.2f}" for band, factor in zip(table.bands, table.factors[Origin.MODEL], strict=True)
    )
    return f"{table.level:.0%}, factors of the model's pixels {factors}; fitted on {table.fitted_on or 'not known'}"


def default_parameters(card: ModelCard) -> dict[str, int | float | str | None]:
    """Return the sampling parameters a caller may set, with their defaults for this model.

    Numbers are whole where the default is an `int` or None, real where it is a `float`.
    """
    sampling = sampling_for(card)
    plain = {f.name: getattr(sampling, f.name) for f in fields(sampling)}
    return plain | {"sampler": str(sampling.sampler)}


def example(card: ModelCard) -> dict[str, NDArray[Any]]:
    """Return a small valid input: bare ground of reflectance 0.1 to 0.3 with a cloud in the middle."""
    side, bands = _EXAMPLE_SIDE, len(card.bands)
    ramp = np.linspace(0.1, 0.3, side, dtype=np.float32)
    scene = np.broadcast_to(ramp, (1, bands, side, side)).copy()
    needed = np.zeros((1, side, side), dtype=bool)
    middle = slice(side // 4, 3 * side // 4)
    scene[..., middle, middle], needed[..., middle, middle] = 0.9, True
    return {SCENE: scene, NEEDED: needed}


def answer(enhancer: Enhancer, tensors: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> Answer:
    """Restore a batch of scenes.

    Args:
        enhancer: the model.
        tensors: `scene`, surface reflectance `(batch, band, y, x)` as observed, clouds included, NaN at nodata; and
            `needed`, `(batch, y, x)`, true where a result is wanted.
        parameters: overrides of `default_parameters`.

    Raises:
        InvalidModelInput: a tensor is missing or of another shape, or a parameter is unknown or out of range.
    """
    scenes, needed = _checked(tensors)
    sampling = _sampling(enhancer.card, parameters or {})
    from de_model.inference.engine import restore  # PyTorch is loaded where a model answers

    found = [restore(enhancer, scene, mask, sampling) for scene, mask in zip(scenes, needed, strict=True)]
    return _collect(scenes, needed, found)


def _checked(tensors: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    missing = {SCENE, NEEDED} - set(tensors)
    if missing:
        raise InvalidModelInput(f"Tensor {min(missing)} is missing; give {SCENE} and {NEEDED}.")
    scenes, needed = np.asarray(tensors[SCENE], np.float32), np.asarray(tensors[NEEDED], bool)
    if scenes.ndim != 4 or needed.shape != (len(scenes), *scenes.shape[2:]):
        raise InvalidModelInput(
            f"{SCENE} has shape {scenes.shape} and {NEEDED} {needed.shape}; give (batch, band, y, x) and (batch, y, x)."
        )
    return scenes, needed


def _sampling(card: ModelCard, parameters: Mapping[str, Any]) -> Sampling:
    defaults = default_parameters(card)
    unknown = set(parameters) - set(defaults)
    if unknown:
        raise InvalidModelInput(f"Parameter {min(unknown)} is unknown; known are {', '.join(defaults)}.")
    given = {name: _parsed(name, value, defaults[name]) for name, value in parameters.items()}
    return replace(sampling_for(card), **given)


def _parsed(name: str, value: Any, default: Any) -> Any:
    """Return a parameter in the type of its default; servers deliver numbers as they like: 4.0 for 4."""
    if isinstance(default, str):
        return sampler_kind(str(value))
    if value is None and default is None:
        return None
    number = _number(name, value)
    if isinstance(default, float):
        return number
    if not number.is_integer():
        raise InvalidModelInput(f"Parameter {name} is {value!r}; give a whole number.")
    # Seeds may be larger than a float can hold exactly.
    return value if isinstance(value, int) else int(number)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidModelInput(f"Parameter {name} is {value!r}; give a number.") from error


def _collect(scenes: NDArray[np.float32], needed: NDArray[np.bool_], found: list[Restoration]) -> Answer:
    wanted = needed[:, None]
    empty = np.float32(np.nan)
    images = np.array([r.image for r in found], np.float32).reshape(scenes.shape)
    spreads = np.array([r.spread for r in found], np.float32).reshape(scenes.shape)
    weights = np.array([r.reference_weight for r in found], np.float32).reshape(needed.shape)
    return Answer(
        image=np.where(wanted, images, scenes),
        spread=np.where(wanted, spreads, empty),
        reference_weight=np.where(needed, weights, empty),
    )
