"""What the model is worth on places that it never saw: `python -m benchmarks.places --data FOLDER --out docs/results`.

With `--record` the validation record beside the weights is written from the same figures, and with `--widths` the
weights' predicted deviations are recalibrated first (their checksum changes).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.held_out import (
    CONSTANTS,
    KindScore,
    band_factors,
    coverage,
    crossed_coverage,
    kind_records,
    measure,
    with_widths,
)
from benchmarks.report import Page, parser, publish, table
from de_model import checkpoint
from de_model.calibration import Origin, calibration_path, conformal_factor, load_table
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.scene.design import SceneDesign
from de_model.scene.model import SceneNetworks
from de_model.validation import Filler, PixelKind, ValidationRecord, validation_path
from flows.models.training_places import read_listing, scenes_of
from flows.processing.restore import inverse_distance
from stac.composite.normalisation import repeatability

#: The listing of the shipped weights.
LISTING = Path(checkpoint.__file__).parent / "weights" / "places.yaml"
_ABOUT = """\
Places that training never saw. Clouds, shadows and gaps are those of the held-out scenes,
moved and turned onto other clear ground of the same places, whose truth is exact; `real pairs` are two dates, and what
changed between them counts as error for every filler. PSNR per case, then means over places."""
_ABOUT_KEPT = """\
## Drawn to the level of the scene

Where little ground is clear, only a part of an estimate is kept (`kept` of the card); the rest is the scene's level.
PSNR against all kept, where no other date helps. The knots were chosen on these places."""
_SHOWN = (Filler.FLAT, Filler.NORMALISED_CONVOLUTION, Filler.FILLNODATA, Filler.REFERENCE, Filler.DE)


def main(options: argparse.Namespace) -> None:
    """Measure, and write what was asked for."""
    torch.set_num_threads(1)
    enhancer = checkpoint.load(options.weights)
    scenes = held_out_scenes(options.places, options.data, options.archive, options.held_out)
    scores = measure(*_model(enhancer), scenes, options.cases, others={Filler.FILLNODATA: _by_gdal})
    if options.widths:
        enhancer = _recalibrated(enhancer, scores, options.weights)
    record = ValidationRecord(
        checkpoint.sha256_of(options.weights), enhancer.card.bands, _in_words(scores), kind_records(scores)
    )
    if options.record:
        record.save(validation_path(options.weights))
    publish("places", page_of(scores, record, enhancer), options)


def held_out_scenes(
    places: Path, data: Path | None, archive: Path | None = None, only: Sequence[str] = ()
) -> list[Scene]:
    """Return the scenes of places that training did not see.

    Args:
        places: listing of a training.
        data: folder of the listing's paths.
        archive: of a training, in place of reading the listing's imagery.
        only: places in place of those that the listing holds out.
    """
    listing = read_listing(places, data)
    if archive is not None:
        return read_archive(archive, only=only or listing.held_out)
    held = set(only or listing.held_out)
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Path(folder), [scene for scene in scenes_of(listing) if scene.info.place in held])
        return read_archive(Path(folder))


def _by_gdal(ground: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    return inverse_distance(ground, known, (0.0,) * len(ground))


def _model(enhancer: Enhancer) -> tuple[SceneNetworks, SceneDesign, float]:
    if enhancer.scene is None or enhancer.card.scene is None:
        raise InvalidModelInput("These weights are of the first edition; `unveil evaluate product` judges them.")
    return enhancer.scene, enhancer.card.scene, enhancer.card.eta


def _recalibrated(enhancer: Enhancer, scores: Sequence[KindScore], path: Path) -> Enhancer:
    """Write the weights again with the widths that the scores ask for, and the table with the model's factors."""
    _, design, _ = _model(enhancer)
    again = Enhancer(replace(enhancer.card, scene=with_widths(design, scores)))
    again.load_state_dict(enhancer.state_dict())
    # Weights that were trained again lie beside the table of those before: of it the pixels of other dates are kept.
    tables = (calibration_path(path), calibration_path(checkpoint.shipped_weights()))
    known = next((load_table(table) for table in tables if table.is_file()), None)
    checkpoint.save(again, path)
    if known is not None:
        _, recalibrated, _ = _model(again)
        gaps = [score for score in scores if score.kind is not PixelKind.OTHER_DATES]
        factors = dict(known.factors) | {
            Origin.MODEL: band_factors(gaps, recalibrated.widths),
            Origin.SURROUNDINGS: _factors_around(gaps),
        }
        fitted_on = f"{known.fitted_on.split('; the model')[0]}; the model's pixels: {_in_words(gaps)}"
        table = replace(known, weights_sha256=checkpoint.sha256_of(path), factors=factors, fitted_on=fitted_on)
        table.save(calibration_path(path))
    return again


def _factors_around(scores: Sequence[KindScore]) -> tuple[float, ...]:
    """Return per band how many deviations of the ground around hold 90 % of its interpolation's errors."""
    random, ratios = np.random.default_rng(1), []
    for score in scores:
        if score.kind is PixelKind.NO_CLEAR_GROUND:
            continue
        error, value, spread = (layer[random.integers(0, len(layer), 600)] for layer in score.around)
        ratios.append(np.abs(error) / np.hypot(spread, repeatability(value)))
    joined = np.concatenate(ratios)
    return tuple(conformal_factor(joined[:, band]) for band in range(joined.shape[1]))


def _in_words(scores: Sequence[KindScore]) -> str:
    places = sorted({score.place for score in scores})
    return f"{len(scores)} groups of pixels of {len(places)} places never trained on: {', '.join(places)}"


def page_of(scores: Sequence[KindScore], record: ValidationRecord, enhancer: Enhancer) -> Page:
    """Return the page and its figures."""
    parts = [_ABOUT, "## Fillers by kind of pixel (MAE / PSNR)", _fillers(record)]
    parts += ["## Real pairs, cloudy pixels (PSNR)", _fillers_of([s for s in scores if s.real])]
    parts += ["## DE over its own reference, W, fine detail", _over_reference(scores)]
    parts += [_ABOUT_KEPT, _kept(scores)]
    parts += ["## 90 % intervals", _intervals(scores, enhancer)]
    figures = [
        {name: value for name, value in asdict(score).items() if name not in ("log_deviation", "error", "around")}
        for score in scores
    ]
    return Page("Places the model never saw", tuple(parts), figures)


def _fillers(record: ValidationRecord) -> str:
    used = [name for name in Filler if any(kind.fillers.get(name) for kind in record.kinds.values())]
    rows = []
    for kind, found in record.kinds.items():
        cells = [
            "–" if (figures := found.fillers.get(name)) is None else f"{figures.mae:.4f} / {figures.psnr_db:.2f}"
            for name in used
        ]
        rows.append((kind, found.places, found.cases, *cells, found.best))
    return table(("pixels", "places", "cases", *used, "best"), rows)


def _fillers_of(scores: Sequence[KindScore]) -> str:
    rows = [
        (score.place, score.kind, score.pixels, *(f"{score.fillers[name].psnr_db:.2f}" for name in _SHOWN))
        for score in scores
    ]
    return table(("place", "pixels", "number", *_SHOWN), rows)


def _over_reference(scores: Sequence[KindScore]) -> str:
    rows = []
    for kind in (None, *PixelKind):
        own = [score for score in scores if kind is None or score.kind is kind]
        if len(own) < 2:
            continue
        gain = np.array([s.fillers[Filler.DE].psnr_db - s.fillers[Filler.REFERENCE].psnr_db for s in own])
        constants = np.array([s.w_constants for s in own])
        best = int(constants.mean(axis=0).argmax())
        constant = np.array([s.fillers[Filler.DE].psnr_db for s in own]) - constants[:, best]
        drop = np.mean([s.w_mean_degraded - s.w_mean for s in own])
        detail = [np.mean([s.detail[i] for s in own]) for i in range(2)]
        rows.append(
            (
                kind or "all",
                len(own),
                _with_interval(gain),
                f"{_with_interval(constant)} of {CONSTANTS[best]:g}",
                f"{np.mean([s.w_mean for s in own]):.2f}, {drop:+.2f}",
                f"{detail[0]:.2f}, {detail[1]:.2f}",
            )
        )
    head = ("pixels", "cases", "DE - reference, dB", "DE - best constant W, dB", "W, on a worse reference", "detail")
    return table(head, rows)


def _kept(scores: Sequence[KindScore]) -> str:
    """Return what is gained by drawing estimates to the level of the scene, where no other date helps."""
    rows = []
    for place in sorted({score.place for score in scores}):
        own = [s for s in scores if s.place == place and s.kind is not PixelKind.OTHER_DATES and not s.real]
        if own:
            gain = np.array([score.fillers[Filler.DE].psnr_db - score.all_kept for score in own])
            rows.append((place, len(own), _with_interval(gain)))
    return table(("place", "cases", "gain, dB"), rows)


def _with_interval(values: NDArray[np.float64]) -> str:
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def _intervals(scores: Sequence[KindScore], enhancer: Enhancer) -> str:
    _, design, _ = _model(enhancer)
    kinds = [(kind, [s for s in scores if s.kind is kind]) for kind in PixelKind]
    rows = [(f"all {kind}", f"{coverage(own, design.widths):.1%}", "") for kind, own in kinds if own]
    crossed = crossed_coverage(scores)
    rows += [
        (place, f"{coverage([s for s in scores if s.place == place], design.widths):.1%}", f"{share:.1%}")
        for place, share in crossed.items()
    ]
    rows.append(("mean over places", "", f"{np.mean(list(crossed.values())):.1%}"))
    return table(("where", "within the interval", "widths fitted on the other places"), rows)


def _options() -> argparse.Namespace:
    found = parser("places", __doc__.splitlines()[0])
    found.add_argument("--weights", type=Path, default=checkpoint.shipped_weights(), help="weights file")
    found.add_argument("--places", type=Path, default=LISTING, help="listing; its held-out places are measured")
    found.add_argument("--data", type=Path, help="folder of the listing's paths")
    found.add_argument("--archive", type=Path, help="archive of a training, in place of reading the listing's imagery")
    found.add_argument("--held-out", nargs="*", help="places to measure in place of the listing's")
    found.add_argument("--cases", type=int, default=10, help="of each place and kind of cover")
    found.add_argument("--record", action="store_true", help="write the validation record beside the weights")
    found.add_argument("--widths", action="store_true", help="recalibrate the weights' deviations first")
    return found.parse_args()


if __name__ == "__main__":
    main(_options())
