"""Real pairs through `unveil predict`: `python -m benchmarks.another_day --data FOLDER --out docs/results`.

A cloudy image that stands alone is restored; the truth is a clear date of the same ground. Trivial fillers and every
step of the rule for another day (`de_model.inference.another_day`) stand beside each other, on places that are trained
on, where the rule was chosen, and on those that are not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.places import LISTING
from benchmarks.report import Page, parser, publish, table
from de_model import checkpoint
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.data.cases import CaseSource, Pair
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.another_day import on_another_day
from de_model.inference.engine import restore_image, scene_levels
from de_model.inference.sampling import sampling_for
from de_model.metrics.baselines import interpolated
from de_model.scene.design import AnotherDay
from de_model.scene.shadows import shadows_beside
from flows.models.training_places import read_listing, scenes_of
from flows.processing.restore import inverse_distance
from flows.progress import report_progress

FloatArray = NDArray[np.float32]

_FLAT, _SAME, _ALL = "flat", "same day", "predict"
_SHARE, _HAZE = "share", "without haze"
#: Each step has those before it; the last one is the command's.
_STEPS = (_SAME, _SHARE, _HAZE, _ALL)
_TRIVIAL = (_FLAT, "normalised_convolution", "fillnodata")
_AT_LEVEL = ("flat at the truth's level", "predict at the truth's level")
_ABOUT = """\
PSNR on cloudy pixels, dB. The image is restored alone, its clouds opaque; the truth is another date, so what changed
between the two is error for everything. *Flat* is the median of its clear ground. *Same day* is what the model makes of
it (`--same-day`). The steps of `another_day` of the model's card follow, each with those before it: a *share* of what
is restored, the rest being the scene's level; *without haze*; and *predict*, with the near infrared of vegetation drawn
to its usual level. The last columns are shifted, per band, to the mean of the truth: what is left is what an estimate
says of the pattern below the cloud, and no image of one date shows that level."""


@dataclass(frozen=True, slots=True)
class PairScore:
    """PSNR of the cloudy pixels of a pair by estimate, dB."""

    place: str
    pair: str
    held_out: bool
    pixels: int
    psnr: Mapping[str, float]


def main(options: argparse.Namespace) -> None:
    """Measure and publish."""
    torch.set_num_threads(1)
    enhancer = checkpoint.load(options.weights)
    listing = read_listing(LISTING, options.data)
    with tempfile.TemporaryDirectory() as folder:
        # Scenes at half their resolution would repeat pairs.
        write_archive(Path(folder), scenes_of(replace(listing, coarser_from=0)))
        scores = list(_scores(enhancer, read_archive(Path(folder)), listing.held_out))
    publish("another_day", page_of(scores), options)


def _scores(enhancer: Enhancer, scenes: Sequence[Scene], held_out: Sequence[str]) -> Iterator[PairScore]:
    pairs, restored = CaseSource(scenes).pairs, dict[str, FloatArray]()
    for number, pair in enumerate(pairs):
        scene = pair.cloudy
        report_progress(pair.name, number, len(pairs))
        if scene.info.name not in restored:
            sampling = sampling_for(enhancer.card)
            found = restore_image(
                enhancer, scene.image, scene.cloud, sampling, gsd_m=scene.info.gsd_m, another_day=False
            )
            restored = {scene.info.name: found.image}
        estimates = _estimates(enhancer, pair, restored[scene.info.name])
        where = scene.cloud & pair.clear.clear
        truth = pair.clear.image[:, where]
        psnr = {name: _psnr(image[:, where], truth) for name, image in estimates.items()}
        for name, of in zip(_AT_LEVEL, (_FLAT, _ALL), strict=True):
            own = estimates[of][:, where]
            psnr[name] = _psnr(own - own.mean(axis=1, keepdims=True) + truth.mean(axis=1, keepdims=True), truth)
        place = scene.info.place
        yield PairScore(place, pair.name, place in held_out, int(where.sum()), psnr)


def _estimates(enhancer: Enhancer, pair: Pair, image: FloatArray) -> dict[str, FloatArray]:
    """Return every estimate of the image below the clouds, `(band, y, x)`."""
    if enhancer.card.scene is None:
        raise InvalidModelInput("These weights are of the first edition; give weights of the second.")
    scene, cloud, own = pair.cloudy.image, pair.cloudy.cloud, enhancer.card.scene.another_day
    flat = np.median(scene[:, pair.cloudy.clear], axis=1)
    hidden = cloud | shadows_beside(scene, cloud, enhancer.card.bands, pair.cloudy.info.gsd_m)
    levels, known = scene_levels(scene, hidden), ~cloud & np.isfinite(scene).all(axis=0)
    nothing = AnotherDay(share=own.share)
    steps = {_SHARE: nothing, _HAZE: replace(own, vegetation=nothing.vegetation), _ALL: own}
    return {
        _FLAT: np.broadcast_to(flat[:, None, None], scene.shape),
        _TRIVIAL[1]: interpolated(scene, known, tuple(flat)).image,
        _TRIVIAL[2]: inverse_distance(scene, known, tuple(flat)),
        _SAME: image,
        **{
            name: on_another_day(image, scene, cloud, levels, enhancer.card.bands, step) for name, step in steps.items()
        },
    }


def _psnr(image: FloatArray, truth: FloatArray) -> float:
    return float(-10 * np.log10(max(float(np.square(image - truth).mean()), 1e-12)))


def page_of(scores: Sequence[PairScore]) -> Page:
    """Return the page and its figures."""
    parts = [_ABOUT]
    for title, held_out in (("Places held out", True), ("Places that were trained on", False)):
        own = [score for score in scores if score.held_out is held_out]
        if own:
            parts += [f"## {title}", _table_of(own), _gains(own)]
    return Page("Real pairs through predict", tuple(parts), [asdict(score) for score in scores])


def _table_of(scores: Sequence[PairScore]) -> str:
    names = (*_TRIVIAL, *_STEPS, *_AT_LEVEL)
    rows = [(s.pair, s.pixels, *(f"{s.psnr[name]:.2f}" for name in names)) for s in scores]
    return table(("pair", "pixels", *names), rows)


def _gains(scores: Sequence[PairScore]) -> str:
    """Return the gains over the flat colour: by place, and how every mean comes about."""
    rows: list[tuple[object, ...]] = []
    places = sorted({score.place for score in scores})
    gains = {name: [[s.psnr[name] - s.psnr[_FLAT] for s in scores if s.place == p] for p in places] for name in _STEPS}
    for index, place in enumerate(places):
        means = [np.mean(gains[name][index]) for name in _STEPS]
        rows.append((place, len(gains[_ALL][index]), *(f"{mean:+.2f}" for mean in means)))
    for title, summary in (("**mean of places**", _of_places), ("mean of pairs", _of_pairs), ("worst pair", _worst)):
        rows.append((title, len(scores), *(f"{summary(gains[name]):+.2f}" for name in _STEPS)))
    return "Gain over the flat colour, dB:\n\n" + table(("place", "pairs", *_STEPS), rows)


def _of_places(gains: Sequence[Sequence[float]]) -> float:
    return float(np.mean([np.mean(place) for place in gains]))


def _of_pairs(gains: Sequence[Sequence[float]]) -> float:
    return float(np.mean(np.concatenate(gains)))


def _worst(gains: Sequence[Sequence[float]]) -> float:
    return float(np.min(np.concatenate(gains)))


def _options() -> argparse.Namespace:
    found = parser("another_day", "What an image that stands alone says of another, clear day.")
    found.add_argument(
        "--weights", type=Path, default=checkpoint.shipped_weights(), help="weights of the second edition"
    )
    found.add_argument("--data", type=Path, help="folder of the listing's paths")
    return found.parse_args()


if __name__ == "__main__":
    main(_options())
