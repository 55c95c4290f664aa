"""Mosaics against dates that were withheld, and the steps at the borders of cells, tiles and swaths.

    python -m benchmarks.mosaics --series CATALOG --out docs/results

`CATALOG` is a year of one place. Each of its clear dates is withheld in turn, and the mosaic of the dates around it is
compared with it. Borders are looked at on the sample: two tiles, two orbits; whole tiles overlap, those that ship are
cut.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Page, parser, publish, table
from flows.planning.region import overview_cell
from stac.composite.period import Method, PeriodComposite, mosaic_stack
from stac.composite.radiometry import choose_reference, fit_radiometry
from stac.composite.temporal import geomedian_clear, median_clear
from stac.composite.view_angle import relative_orbit, towards_nadir
from stac.grid.cell import cell_of
from stac.load.scale_check import RadiometryCheck
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.search.acquisitions import group_passes
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
_BANDS = ("blue", "green", "red", "nir")
#: A withheld date is as clear as this where it has data; dates of its mosaic lie within so many days of it.
_CLEAR, _DAYS = 0.9, 31
#: Side of the cells whose borders are looked at, pixels.
_CELL = 128
#: Northing of the upper edge of the sample's southern tile, metres.
_TILE_TOP_M = 5_100_000
_READING = ReadOptions(radiometry_check=RadiometryCheck.OFF, temporal=True)
_SIMPLE = "clearest date, holes from the next, as they are"


def best_available(stack: Stack) -> FloatArray:
    """Return the clearest date, completed by the next clearest and so on, as they are."""
    clear = is_observed(stack.classes)
    image = np.full(stack.dn.shape[1:], np.nan, np.float32)
    empty = np.ones(image.shape[1:], bool)
    for date in np.argsort(-clear.sum(axis=(1, 2)), kind="stable"):
        here = empty & clear[date]
        image[:, here] = stack.reflectance(int(date))[:, here]
        empty &= ~here
    return image


def _with_nothing_first(stack: Stack) -> Stack:
    """Return a stack whose first date saw nothing, for composites that leave one date out."""
    nothing = replace(stack, dn=np.zeros_like(stack.dn[:1]), classes=np.zeros_like(stack.classes[:1]))
    return Stack(
        np.concatenate([nothing.dn, stack.dn]),
        np.concatenate([nothing.classes, stack.classes]),
        ("nothing", *stack.item_ids),
        np.concatenate([stack.days[:1], stack.days]),
        stack.bands,
        stack.cell,
    )


def ours(stack: Stack, method: Method) -> FloatArray:
    """Return a mosaic as the flow makes it, before gaps are restored."""
    radiometry = fit_radiometry(stack)
    begun = mosaic_stack(stack, radiometry.reference, method)
    found = PeriodComposite(method, radiometry).apply(begun, 0)
    observed = is_observed(begun.classes[0])
    image: FloatArray = np.where(observed, begun.reflectance(0), found.reflectance)
    return image


def _by(method: Method) -> Callable[[Stack], FloatArray]:
    return lambda stack: ours(stack, method)


METHODS: Mapping[str, Callable[[Stack], FloatArray]] = {
    _SIMPLE: best_available,
    "median, as they are": lambda stack: median_clear(_with_nothing_first(stack), 0).reflectance,
    "geomedian, as they are": lambda stack: geomedian_clear(_with_nothing_first(stack), 0).reflectance,
    **{f"unveil {method}": _by(method) for method in Method if method is not Method.QUANTILE},
}


def read(catalog: Path, collection: str, interval: str) -> Stack:
    """Return all dates of a source on one grid."""
    items = open_source(str(catalog)).search(Query.parse(collection, None, interval))
    squares = {item.id.split("_")[1]: item for item in items}
    cell = overview_cell([cell_of(item, _BANDS[0]) for item in squares.values()])
    return read_stack(group_passes(items), cell, _BANDS, _READING)


def withheld(stack: Stack, monthly: bool = False) -> Iterator[tuple[str, Stack, FloatArray, BoolArray]]:
    """Yield day, the other dates around, the withheld date, and where `(y, x)` it is clear and others are, too.

    Args:
        stack: all dates of a place.
        monthly: the other dates are those of its calendar month instead of `_DAYS` before and after.
    """
    months = stack.days.astype("datetime64[D]").astype("datetime64[M]")
    for date, classes in enumerate(stack.classes):
        if is_observed(classes).sum() < _CLEAR * (classes != PixelClass.NODATA).sum():
            continue
        around = months == months[date] if monthly else np.abs(stack.days - stack.days[date]) <= _DAYS
        near = [int(i) for i in np.flatnonzero(around) if i != date]
        others = stack.without([name for i, name in enumerate(stack.item_ids) if i not in near])
        seen = is_observed(others.classes).any(axis=0) if near else np.zeros(classes.shape, bool)
        if seen.any():
            judged = is_observed(classes) & seen
            yield str(np.datetime64(int(stack.days[date]), "D")), others, stack.reflectance(date), judged


def error_rows(stack: Stack) -> list[list[str]]:
    """Return mean absolute errors against withheld dates: every other one, the rest, all, and without offsets."""
    plain: dict[str, list[float]] = {name: [] for name in METHODS}
    level: dict[str, list[float]] = {name: [] for name in METHODS}
    for _, others, truth, judged in withheld(stack):
        for name, method in METHODS.items():
            off = (method(others) - truth)[:, judged]
            plain[name].append(float(np.abs(off).mean()))
            level[name].append(float(np.abs(off - np.median(off, axis=1, keepdims=True)).mean()))
    return [
        [name, *(f"{np.mean(part):.4f}" for part in (all_[::2], all_[1::2], all_, level[name])), str(len(all_))]
        for name, all_ in plain.items()
    ]


def monthly_rows(stack: Stack) -> list[list[str]]:
    """Return the error of each method for the month of every withheld date: mosaics of its other dates."""
    return [
        [
            day,
            str(len(others.days)),
            f"{judged.mean():.0%}",
            *(f"{np.abs(method(others) - truth)[:, judged].mean():.4f}" for method in METHODS.values()),
        ]
        for day, others, truth, judged in withheld(stack, monthly=True)
    ]


def border_rows(stack: Stack) -> list[list[str]]:
    """Return steps across borders as a share of those beside them, by kind of border and method."""
    kinds = borders(stack)
    rows = []
    for name in (_SIMPLE, "median, as they are", "unveil best", "unveil median"):
        image = METHODS[name](stack)
        rows.append([name, *(f"{step_ratio(image, where):.3f}" for where in kinds.values())])
    return rows


def borders(stack: Stack) -> dict[str, BoolArray]:
    """Return where `(y, x - 1)` a border lies between a pixel and the one to its right."""
    height, width = stack.classes.shape[1:]
    cells = np.zeros((height, width - 1), bool)
    cells[:, _CELL - 1 :: _CELL] = True
    swaths = np.zeros_like(cells)
    for classes in stack.classes:
        data = classes != PixelClass.NODATA
        swaths |= data[:, 1:] != data[:, :-1]
    reference = is_observed(stack.classes[stack.item_ids.index(choose_reference(stack))])
    return {"cells": cells, "swaths": swaths, "clouds of the reference": reference[:, 1:] != reference[:, :-1]}


def step_ratio(image: FloatArray, where: BoolArray) -> float:
    """Return the mean step across borders / the mean step two pixels further on either side."""
    steps = np.abs(np.diff(image, axis=2)).mean(axis=0)
    beside = np.full((2, *steps.shape), np.nan, np.float32)
    beside[0, :, 2:], beside[1, :, :-2] = steps[:, :-2], steps[:, 2:]
    usable = where & np.isfinite(steps) & np.isfinite(beside).all(axis=0)
    return float(steps[usable].mean() / beside[:, usable].mean()) if usable.sum() > 30 else float("nan")


def tile_rows(stack: Stack) -> list[list[str]]:
    """Return the same across the upper edge of the southern tile, where one row is drawn from one tile, one not."""
    edge = round((float(stack.cell.geobox.affine.f) - _TILE_TOP_M) / stack.cell.gsd_m)
    where = np.zeros((stack.classes.shape[2], stack.classes.shape[1] - 1), bool)
    where[:, edge - 1] = True
    rows = []
    for name in (_SIMPLE, "median, as they are", "unveil best", "unveil median"):
        image = METHODS[name](stack).transpose(0, 2, 1)
        rows.append([name, f"{step_ratio(image, where):.3f}"])
    return rows


def orbit_rows(stack: Stack, catalog: Path) -> list[list[str]]:
    """Return how the medians of two orbits differ where both saw the ground, as they are and from straight above."""
    items = open_source(str(catalog)).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    dates = {date.id: date for date in group_passes(items)}
    orbits = np.array([relative_orbit(dates[name].items[0]) for name in stack.item_ids])
    shares = [towards_nadir(dates[name], stack.cell, _BANDS) for name in stack.item_ids]
    rows = []
    for name, corrected in (("as they are", False), ("from straight above", True)):
        looks = []
        for date, share in enumerate(shares):
            factor = 1 + share.at(stack.cell) if corrected and share is not None else np.float32(1)
            clear = is_observed(stack.classes[date])
            looks.append(np.where(clear, stack.reflectance(date) * factor, np.nan))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # pixels that no date of an orbit saw
            first, other = (np.nanmedian(np.stack(looks)[orbits == orbit], axis=0) for orbit in np.unique(orbits))
        both = np.isfinite(first).all(axis=0) & np.isfinite(other).all(axis=0)
        ratio, error = np.median((other / first)[:, both], axis=1), np.abs(other - first)[:, both].mean()
        rows.append([name, *(f"{value:.3f}" for value in ratio), f"{error:.4f}"])
    return rows


def page(options: argparse.Namespace) -> Page:
    """Measure everything and return the page."""
    year = read(options.series / "catalog.json", options.collection, options.interval)
    sample = read(options.tiles, SAMPLE_COLLECTION, SAMPLE_INTERVAL)
    errors, of_sample, months = error_rows(year), error_rows(sample), monthly_rows(year) + monthly_rows(sample)
    steps, tiles, orbits = border_rows(sample), tile_rows(sample), orbit_rows(sample, options.tiles)
    against = (
        f"Each clear date of a year of one place at 10 m is withheld; the mosaic of dates within {_DAYS} days around "
        "is compared with it where both know the ground. Mean absolute error, reflectance, over bands: of every other "
        "date, from the first on, of the rest, of all, and of all without one offset per band. The level of Unveil's "
        "median is one of five rules that were compared on these dates and on those of the sample: none is held out "
        "from that choice, and the two halves disagree."
    )
    columns = ("mosaic", "every other date", "the rest", "all", "all, without offset", "dates")
    monthly = (
        "Monthly mosaics of that year and of the sample, beside the trivial ones: of the other dates of the calendar "
        "month of a withheld date. Months without another date that is clear somewhere are left out."
    )
    at_borders = (
        "Steps between neighbouring pixels across borders / those two pixels beside, on the sample (two tiles, two "
        f"orbits, five dates): cells of {_CELL} pixels, edges of swaths, edges of what the reference saw."
    )
    at_angles = (
        "The view angle (`nbar`): medians of the clear looks of the two orbits of the sample, which see it from "
        "opposite sides; ratio of one to the other where both saw the ground, by band. The rest in the visible is haze."
    )
    parts = (
        against,
        table(columns, errors),
        "The same for the clear dates of the sample at 120 m.",
        table((columns[0], *columns[3:]), [[row[0], *row[3:]] for row in of_sample]),
        monthly,
        table(("withheld", "other dates", "judged", *METHODS), months),
        at_borders,
        table(("mosaic", "cells", "swaths", "clouds of the reference"), steps),
        "The same across the upper edge of the southern tile.",
        table(("mosaic", "tiles"), tiles),
        at_angles,
        table(("reflectance", *_BANDS, "mean absolute difference"), orbits),
    )
    record = {"errors": errors, "sample": of_sample, "months": months, "steps": steps, "tiles": tiles, "orbits": orbits}
    return Page("Mosaics", parts, record)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    command = parser("mosaics", "Mosaics against withheld dates, and steps at borders.")
    command.add_argument("--series", type=Path, required=True, help="folder with catalog.json: a year of one place")
    command.add_argument("--collection", default="sentinel-2-l2a", help="of the series")
    command.add_argument("--interval", default="2018-01-01/2018-12-31", help="of the series")
    command.add_argument(
        "--tiles", type=Path, default=sample_catalog(), help="catalog.json of the sample, thinned or whole"
    )
    options = command.parse_args(arguments)
    publish("mosaics", page(options), options)


if __name__ == "__main__":
    main()
