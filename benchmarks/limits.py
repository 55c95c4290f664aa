"""How much can be known of the ground below a cloud: `python -m benchmarks.limits --data FOLDER --out docs/results`.

Two bounds beside the model, in gaps: simple kriging with the scene's own covariance, the best linear unbiased guess
from the ground around, and the best blend of model and interpolation, chosen with the truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.optimize import nnls

from benchmarks.held_out import cases_of, ground_of, kinds_of
from benchmarks.places import LISTING, held_out_scenes
from benchmarks.report import Page, parser, publish, table
from de_model import checkpoint
from de_model.data.cases import Case
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.metrics.baselines import interpolated
from de_model.scene.networks import Inputs
from de_model.validation import PixelKind

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Ranges of the exponential covariances whose sum is fitted, pixels.
_RANGES = np.array((1.0, 3.0, 8.0, 20.0, 60.0))
#: Edges of the distances at which the covariance is looked at, pixels; fewer pairs of pixels say nothing.
_DISTANCES = np.array((0.5, 1.2, 1.8, 2.5, 3.5, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110))
_FEWEST_PAIRS = 20
#: Least share of the variance that is noise of single pixels: it keeps the system of equations solvable.
_NUGGET = 0.03
#: Steps of the conjugate gradients, and the residual at which they end, as a share of the first.
_STEPS, _RESIDUAL = 60, 1e-5
#: Zeros around a window, so that ground at one edge says nothing of the other, pixels.
_MARGIN = 150
#: Standardised reflectance is cut off here before its covariance is taken.
_CUT = 6.0
_FEWEST = 150
_BLENDS = np.linspace(0, 1, 11)

_ABOUT_GAPS = """\
## Gaps

PSNR, means over the cases of a place that was held out; cases as in [places](places.md), those without other dates.
*Kriging* is the best linear unbiased guess from the known ground, by the covariance of the scene itself. *Best blend*
is the share of the interpolation in the model's estimate that is best for each case, chosen with the truth: what could
be gained at most by knowing which of the two to trust."""


@dataclass(frozen=True, slots=True)
class GapScore:
    """PSNR of the pixels of one kind in one case, dB."""

    place: str
    kind: PixelKind
    flat: float
    normalised_convolution: float
    kriging: float
    de: float
    best_blend: float


def main(options: argparse.Namespace) -> None:
    """Measure and publish."""
    torch.set_num_threads(1)
    enhancer = checkpoint.load(options.weights)
    scenes = held_out_scenes(LISTING, options.data, options.archive)
    gaps = [
        score
        for place, case, real in cases_of(scenes, options.cases)
        if not real
        for score in _gap(enhancer, place, case)
    ]
    parts, record = (_ABOUT_GAPS, _gap_table(gaps)), {"gaps": [asdict(score) for score in gaps]}
    publish("limits", Page("How much can be known below a cloud", parts, record), options)


def kriging(ground: FloatArray, known: BoolArray) -> FloatArray:
    """Return `(band, y, x)` of mean 0 guessed everywhere from its known pixels: simple kriging, band by band.

    Args:
        ground: standardised reflectance; only its known pixels are looked at.
        known: `(y, x)`.
    """
    return np.stack([_kriged(np.clip(np.where(known, band, 0), -_CUT, _CUT), known) for band in ground])


def _kriged(values: NDArray[np.float64], known: BoolArray) -> FloatArray:
    """Solve (covariance + nugget) x = values on the known pixels, and spread x by the covariance."""
    parts, nugget = _covariance(values, known)
    height, width = values.shape
    shape = (next_fast_len(height + _MARGIN), next_fast_len(width + _MARGIN))
    kernel = np.tensordot(parts, np.exp(-_radius(shape) / _RANGES[:, None, None]), axes=1)
    power = np.maximum(rfft2(kernel).real, 0)

    def spread(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = irfft2(rfft2(plane, shape) * power, shape)[:height, :width]
        return found

    x, residual = np.zeros(values.shape), values.astype(np.float64)
    direction, size = residual, float((residual**2).sum())
    enough = _RESIDUAL * size
    for _ in range(_STEPS):
        if size <= enough:
            break
        image = np.where(known, spread(direction) + nugget * direction, 0)
        step = size / float((direction * image).sum())
        x, residual = x + step * direction, residual - step * image
        size, before = float((residual**2).sum()), size
        direction = residual + size / before * direction
    return spread(x).astype(np.float32)


def _covariance(values: NDArray[np.float64], known: BoolArray) -> tuple[NDArray[np.float64], float]:
    """Return the share of every exponential in the covariance of the known pixels, and their noise's variance."""
    shape = tuple(next_fast_len(2 * length) for length in values.shape)
    products, pairs = (irfft2(np.abs(rfft2(plane, shape)) ** 2, shape) for plane in (values, known.astype(float)))
    radius, enough = _radius(shape), pairs > _FEWEST_PAIRS
    variance = float(products[0, 0] / max(pairs[0, 0], 1))
    distances, covariances = [], []
    for low, high in pairwise(_DISTANCES):
        ring = enough & (radius >= low) & (radius < high)
        if ring.any():
            distances.append((radius[ring] * pairs[ring]).sum() / pairs[ring].sum())
            covariances.append(products[ring].sum() / pairs[ring].sum())
    at = np.array(distances)
    near = 1 / np.sqrt(at)
    parts, _ = nnls(np.exp(-at[:, None] / _RANGES) * near[:, None], np.array(covariances) * near)
    return parts, max(variance - float(parts.sum()), _NUGGET * variance)


def _radius(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the distance of every pixel of a periodic plane from its corner."""
    rows, columns = (np.minimum(np.arange(length), length - np.arange(length)) for length in shape)
    return np.hypot(rows[:, None], columns[None])


@torch.inference_mode()
def _gap(enhancer: Enhancer, place: str, case: Case) -> list[GapScore]:
    ground, known = ground_of(case)
    bands = len(case.truth)
    kinds = {
        kind: where
        for kind, where in kinds_of(case).items()
        if kind in (PixelKind.GAP_NEAR, PixelKind.GAP_FAR) and where.sum() >= _FEWEST
    }
    if not kinds or bool((case.maps[2 * bands + 4] > 0).any()):
        return []
    restored = _restored(enhancer, case)
    around, kriged = interpolated(ground, known, (0.0,) * bands).image, kriging(ground, known)
    deviation = (0.03 * np.exp(case.numbers[bands : 2 * bands])).astype(np.float32)[:, None]
    found = []
    for kind, where in kinds.items():
        truth, own, nearby, best = (image[:, where] * deviation for image in (case.truth, restored, around, kriged))
        blends = [_psnr(own + share * (nearby - own), truth) for share in _BLENDS]
        figures = (_psnr(0 * truth, truth), _psnr(nearby, truth), _psnr(best, truth), blends[0], max(blends))
        found.append(GapScore(place, kind, *figures))
    return found


def _restored(enhancer: Enhancer, case: Case) -> FloatArray:
    if enhancer.scene is None or enhancer.card.scene is None:
        raise InvalidModelInput("These weights are of the first edition; give weights of the second.")
    design, networks, bands = enhancer.card.scene, enhancer.scene, len(case.truth)
    inputs = Inputs(torch.from_numpy(case.maps)[None].float(), torch.from_numpy(case.numbers)[None], bands)
    noise = torch.randn((1, *case.truth.shape), generator=torch.Generator().manual_seed(0))
    return networks.sample(inputs, noise, design.t_start, design.steps, enhancer.card.eta).mean[0].numpy()


def _psnr(image: FloatArray, truth: FloatArray) -> float:
    return float(-10 * np.log10(max(float(np.square(image - truth).mean()), 1e-12)))


def _gap_table(scores: Sequence[GapScore]) -> str:
    names = ("flat", "normalised_convolution", "kriging", "de", "best_blend")
    rows = []
    for kind in (PixelKind.GAP_NEAR, PixelKind.GAP_FAR):
        places = sorted({score.place for score in scores if score.kind is kind})
        if not places:
            continue
        figures = []
        for place in places:
            own = [score for score in scores if score.kind is kind and score.place == place]
            figures.append([np.mean([getattr(score, name) for score in own]) for name in names])
            rows.append((kind, place, len(own), *(f"{value:.2f}" for value in figures[-1])))
        count = sum(score.kind is kind for score in scores)
        rows.append((kind, "**mean of places**", count, *(f"{value:.2f}" for value in np.mean(figures, axis=0))))
    return table(("pixels", "place", "cases", *names), rows)


def _options() -> argparse.Namespace:
    found = parser("limits", "Bounds of what can be known below a cloud.")
    found.add_argument(
        "--weights", type=Path, default=checkpoint.shipped_weights(), help="weights of the second edition"
    )
    found.add_argument("--data", type=Path, help="folder of the listing's paths")
    found.add_argument("--archive", type=Path, help="archive of a training, in place of reading the listing's imagery")
    found.add_argument("--cases", type=int, default=10, help="of each place and kind of cover")
    return found.parse_args()


if __name__ == "__main__":
    main(_options())
