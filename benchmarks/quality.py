"""How good restoration is, beside every trivial way to fill: one page from real clouds with a known truth.

On the sample (120 m) alone, or with `--data FOLDER` on the 10 m sets, too, which are not shipped.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from benchmarks.report import Page, parser, publish, table
from de_model import checkpoint
from de_model.calibration import trained_on
from de_model.card import ModelCard
from de_model.metrics.bootstrap import Interval, difference_interval
from de_model.validation import Filler, PixelKind
from flows.cli.console import progress_bar
from flows.models.evaluation import OF_DATES, Case, Protocol, cases_of, evaluate, transplanted_cases
from flows.models.evaluation_figures import TRIVIAL_IN_GAPS, CaseResult, ErrorSums, Evaluation
from flows.models.evaluation_report import metrics_of, tables
from flows.planning.search import SceneSet, cloudy_and_clear, stacks_of
from flows.processing.model import in_products
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass
from stac.masks.combination import grow
from stac.reflectance import to_product_dn

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_BANDS = ("blue", "green", "red", "nir")
_CODES = ("B02", "B03", "B04", "B08")
#: Cells of the sample that the shipped weights were not trained on.
_SAMPLE = ("MGRS-33TWL",)
#: Side of what is restored without other dates, pixels, and growth of clouds as in products, metres.
_SIDE, _GROWTH_M = 256, 120
#: Pairs whose clear half is clear, by the table of the data set.
_SOUND = ("sound", "nearly clear")

_EXPLANATION = """\
*Gain* is PSNR of the model minus that of the best trivial filler of the same group, paired by case; interval: 95 %,
paired bootstrap over cases. Trivial fillers of gaps: the scene's median clear colour, normalised convolution of the
known ground, GDAL fillnodata. Places that the model was trained on are left out. With
other dates: nearest date copied, its linear match (reduced major axis), the mean of
the nearest two matches. Truth was withheld from everything. PSNR is for a peak reflectance of 1."""

_HEAD = ("group", "places", "cases", "judged", "MAE", "PSNR, dB (deviation)", "best trivial", "gain, dB", "must reach")


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one kind, and what they must reach."""

    name: str
    cases: tuple[Case, ...]
    #: What is judged, and the kinds it is compared with.
    own: Filler
    trivial: tuple[Filler, ...]
    goal: str


def main() -> None:
    """Measure and publish the page."""
    options = _options()
    path = options.weights or checkpoint.shipped_weights()
    with progress_bar():
        card = checkpoint.read_card(path)
        groups = [group for group in _groups(options.data, options.cases, card) if group.cases]
        found = {group.name: evaluate(path, group.cases, in_products) for group in groups}
    rows = [_row(group, found[group.name]) for group in groups]
    parts = [_EXPLANATION, table(_HEAD, rows), "## DE over its own reference", _over_reference(groups, found)]
    for group in groups:
        parts += [f"## {group.name}", tables(found[group.name])]
    record = {group.name: metrics_of(found[group.name]) for group in groups}
    model = f"Model {path.name}, SHA-256 {checkpoint.sha256_of(path)[:12]}."
    publish("quality", Page("How good restoration is", (model, *parts), record), options)


def _options() -> argparse.Namespace:
    found = parser("quality", "Restoration beside every trivial way to fill.")
    found.add_argument("--data", type=Path, help="folder with the 10 m sets; the sample alone when left out")
    found.add_argument("--weights", type=Path, help="weights file; the shipped one")
    found.add_argument("--cases", type=int, help="cases of a group at most")
    return found.parse_args()


def _groups(data: Path | None, most: int | None, card: ModelCard) -> Iterator[Group]:
    gaps = "normalised convolution + 0.7 dB"
    if data is not None:
        pairs = tuple(islice(_unseen(_pairs(data / "sen12mscr-10m"), card), most))
        yield Group("Real pairs at 10 m", pairs, Filler.DE, TRIVIAL_IN_GAPS, "best trivial + 1.0 dB")
        holes = tuple(islice(_unseen(_holes(data), card), most))
        yield Group("Gaps at 10 m", holes, Filler.DE, TRIVIAL_IN_GAPS, gaps)
        series = SceneSet(
            cells=("MGRS-33TUG",), source=str(data / "sabina-10m/catalog"), datetime="2018-01-01/2018-12-31"
        )
        yield _dated("Other dates at 10 m", series, most, card)
    sample = [case for case in cases_of(stacks_of(SceneSet(cells=_SAMPLE)), _SIDE) if len(case.stack.days) == 1]
    yield Group("Gaps at 120 m", tuple(sample[:most]), Filler.DE, TRIVIAL_IN_GAPS, "not below")
    yield _dated("Other dates at 120 m", SceneSet(cells=_SAMPLE), most, card)


def _unseen(cases: Iterable[Case], card: ModelCard) -> Iterator[Case]:
    """Yield the cases of places that the model was not trained on."""
    return (case for case in cases if not trained_on(card, [case.place.split(" ")[0]]))


def _dated(name: str, scenes: SceneSet, most: int | None, card: ModelCard) -> Group:
    cases = [case for stack in stacks_of(scenes) for case in transplanted_cases(stack, *cloudy_and_clear(stack))]
    return Group(
        name,
        tuple(islice(_unseen(cases, card), most)),
        Filler.COMPOSITE,
        OF_DATES[:-1],
        "MAE 0.95 of the best, never above 1.00",
    )


def _pairs(folder: Path) -> Iterator[Case]:
    """Yield the sound cloudy/clear pairs of SEN12MS-CR that are cloudy in part."""
    with (folder / "pairs.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file) if row["verdict"] in _SOUND]
    for name in names:
        cloudy, geobox = _read(folder / f"{name}_cloudy.tif")
        truth, _ = _read(folder / f"{name}_clear.tif")
        hidden, covered = (_mask(folder / f"{name}_{half}_cloudmask.tif", geobox) for half in ("cloudy", "clear"))
        if 0.01 < hidden.mean() < 0.95:
            yield _alone(name, cloudy, truth, hidden, hidden & ~covered, geobox)


def _holes(data: Path) -> Iterator[Case]:
    """Yield clear scenes of several places under the clouds of others, whose own ground is the truth."""
    masks = [
        (path.name, ~_mask(path, None)) for path in sorted((data / "sen12mscr-10m").glob("*_cloudy_cloudmask.tif"))
    ]
    shapes = [(name, known) for name, known in masks if 0.1 < 1 - known.mean() < 0.7]
    scenes = sorted((data / "terramind-10m").glob("*.tif"))
    for number, path in enumerate(scenes):
        truth, geobox = _read(path)
        for step in range(2):
            name, known = shapes[(2 * number + step) % len(shapes)]
            hidden = ~known[: truth.shape[1], : truth.shape[2]]
            cloudy = np.where(hidden, np.float32(0.6), truth)
            yield _alone(f"{path.stem} under {name[:20]}", cloudy, truth, hidden, hidden, geobox)


def _alone(
    name: str, cloudy: FloatArray, truth: FloatArray, hidden: BoolArray, where: BoolArray, geobox: GeoBox
) -> Case:
    classes = np.where(hidden, PixelClass.CLOUD, PixelClass.CLEAR).astype(np.uint8)
    dn = np.maximum(to_product_dn(cloudy), 1)
    stack = Stack(dn[None], classes[None], (name,), np.zeros(1, np.int32), _BANDS, Cell(name, geobox))
    return Case(Protocol.REAL_PAIRS, name, "the clear half", stack, 0, truth, where)


def _read(path: Path) -> tuple[FloatArray, GeoBox]:
    """Return reflectance `(band, y, x)` of the four bands, and the grid."""
    with rasterio.open(path) as source:
        names = source.descriptions
        bands = [names.index(code) + 1 for code in _CODES] if _CODES[-1] in names else [2, 3, 4, 8]
        pixels = source.read(bands).astype(np.float32)
        geobox = GeoBox(source.shape, source.transform, source.crs or "EPSG:32633")
    return pixels / 1e4, geobox


def _mask(path: Path, geobox: GeoBox | None) -> BoolArray:
    """Return the cloud mask of a file, grown as in products where its grid is given."""
    with rasterio.open(path) as source:
        cloud = np.asarray(source.read(1) > 0)
    return cloud if geobox is None else grow(cloud, _GROWTH_M, abs(float(geobox.resolution.x)))


def _errors(group: Group, case: CaseResult) -> Mapping[Filler, ErrorSums]:
    return case.errors.get(PixelKind.OTHER_DATES, {}) if group.own is Filler.COMPOSITE else case.gaps


def _row(group: Group, found: Evaluation) -> tuple[str, ...]:
    cases = [errors for case in found.cases if (errors := _errors(group, case))]
    own = np.array([errors[group.own].psnr for errors in cases])
    means = {f: np.mean([errors[f].psnr for errors in cases]) for f in group.trivial if all(f in e for e in cases)}
    mae = f"{np.mean([errors[group.own].mae for errors in cases]):.4f}" if cases else "–"
    judged = (group.name, str(len(found.places)), str(len(cases)), str(group.own), mae)
    if not means:
        return (*judged, "–", "–", "–", group.goal)
    best = max(means, key=lambda filler: means[filler])
    gain = difference_interval(own, [errors[best].psnr for errors in cases])
    trivial = f"{best}, MAE {np.mean([errors[best].mae for errors in cases]):.4f}, {means[best]:.2f} dB"
    return (*judged, f"{own.mean():.2f} ({own.std():.2f})", trivial, _signed(gain), group.goal)


def _signed(gain: Interval) -> str:
    return f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


def _over_reference(groups: Sequence[Group], found: Mapping[str, Evaluation]) -> str:
    rows = []
    for group in groups:
        cases = [case.gaps for case in found[group.name].cases if Filler.REFERENCE in case.gaps]
        if cases:
            own, reference, smooth = (
                [c[filler].psnr for c in cases] for filler in (Filler.DE, Filler.REFERENCE, Filler.BLURRED_REFERENCE)
            )
            gain = difference_interval(own, reference)
            blur = difference_interval(own, smooth)
            rows.append((group.name, len(cases), _signed(gain), _signed(blur)))
    return table(("group", "cases", "DE over the reference, dB", "over the blurred reference, dB"), rows)


if __name__ == "__main__":
    main()
