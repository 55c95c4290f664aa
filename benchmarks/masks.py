"""Masks against clouds that people labelled, shadows that were moved, ground that changed, and dates that are clear.

    python -m benchmarks.masks --series CATALOG --labels FOLDER --out docs/results

`CATALOG` is a year of one place; `FOLDER` holds chips of the same bands as `NAME.tif` with `NAME_label.tif` beside
(1 is cloud). A labelled cloud is laid on a clear date of the series whose mask knows nothing of it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import label

from benchmarks.report import Page, parser, publish, table
from stac.grid.cell import cell_of
from stac.load.mask_reading import near_of
from stac.load.scale_check import RadiometryCheck
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.masks.classes import PixelClass, among, is_observed
from stac.masks.temporal import hide, suspicious
from stac.search.acquisitions import Acquisition, group_passes
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

BoolArray = NDArray[np.bool_]
_BANDS = ("blue", "green", "red", "nir")
#: A date is clear from this share on; dates that a unit sees lie within so many days of each other.
_CLEAR, _DAYS = 0.95, 45
#: Spectra that ground changes to, product DN: bare soil after a harvest, turbid and clear flood water, a burn scar.
_CHANGES = {
    "harvest (bare soil)": (1300, 1450, 1800, 2600),
    "flood, turbid": (1000, 1000, 850, 600),
    "burn scar": (700, 720, 800, 1100),
}
#: Masks that are not grown.
_AS_THEY_COME = ReadOptions(0, 0, radiometry_check=RadiometryCheck.OFF)
_PATCH = (slice(100, 160), slice(60, 120))
#: Pixels that lie together from here on; single ones depart in the thinned sample between any two dates.
_PATCH_PX = 4
_LEFT = ("bright, as cloud", "dark in all bands, as shadow", "dark in near infrared, as shadow or change")


@dataclass(frozen=True, slots=True)
class Score:
    """Pixels that a mask found."""

    right: int = 0
    found: int = 0
    there: int = 0

    def plus(self, found: BoolArray, there: BoolArray, judged: BoolArray) -> Score:
        """Add a mask `(y, x)`; pixels that are not judged do not count."""
        found, there = found & judged, there & judged
        return Score(
            self.right + int((found & there).sum()), self.found + int(found.sum()), self.there + int(there.sum())
        )

    @property
    def cells(self) -> tuple[str, str]:
        """Recall and precision for a table."""
        return f"{self.right / max(self.there, 1):.3f}", f"{self.right / max(self.found, 1):.3f}"


def series(
    catalog: Path,
    collection: str,
    interval: str,
    square: str = "",
    options: ReadOptions = _AS_THEY_COME,
) -> Stack:
    """Return all dates of a place; with the masks as they come, not grown, when no options are given."""
    items = open_source(str(catalog)).search(Query.parse(collection, None, interval))
    chosen = [item for item in items if square in item.id]
    return read_stack(group_passes(chosen), cell_of(chosen[0], _BANDS[0]), _BANDS, options)


def around(stack: Stack, date: int, days: int = _DAYS) -> tuple[Stack, int]:
    """Return the dates within so many days of one, and its position among them."""
    near = np.flatnonzero(np.abs(stack.days - stack.days[date]) <= days)
    kept = stack.without([name for i, name in enumerate(stack.item_ids) if i not in near])
    return kept, int(np.flatnonzero(near == date)[0])


def clear_dates(stack: Stack) -> list[int]:
    """Return the dates that are clear."""
    return [i for i, classes in enumerate(stack.classes) if is_observed(classes).mean() >= _CLEAR]


def temporal(stack: Stack, date: int, *, grown: bool = False, near: NDArray[np.uint8] | None = None) -> BoolArray:
    """Return what the temporal check hides on a date `(y, x)`; `near` is what known clouds of that date make likely."""
    likely = np.zeros_like(stack.classes)
    if near is not None:
        likely[date] = near
    found = suspicious(stack.dn, stack.classes, stack.days, stack.bands, likely)[date]
    if not grown:
        return found > 0
    hidden: BoolArray = is_observed(stack.classes[date]) & ~is_observed(
        hide(stack.classes[date], found, stack.cell.gsd_m)
    )
    return hidden


def brightness(stack: Stack, date: int) -> BoolArray:
    """Return what is brighter in blue than 0.2: the simplest mask."""
    bright: BoolArray = stack.dn[date, 0] > 2000
    return bright


def labelled(folder: Path, shape: tuple[int, int]) -> Iterator[tuple[str, NDArray[np.uint16], BoolArray]]:
    """Yield name, product DN `(band, y, x)` and cloud `(y, x)` of a part of every chip of which 30 % are cloud."""
    for path in sorted(folder.glob("*_label.tif")):
        with rasterio.open(path) as source:
            cloud = source.read(1) > 0
        with rasterio.open(path.with_name(path.name.replace("_label", ""))) as source:
            dn = source.read()
        height, width = shape
        corners = [
            (y, x) for y in range(0, len(cloud) - height + 1, 64) for x in range(0, cloud.shape[1] - width + 1, 64)
        ]
        y, x = max(corners, key=lambda at: -abs(0.3 - cloud[at[0] : at[0] + height, at[1] : at[1] + width].mean()))
        part = np.s_[y : y + height, x : x + width]
        yield path.name.removesuffix("_label.tif"), dn[:, *part], cloud[part]


def cloud_rows(stack: Stack, folder: Path) -> list[list[str]]:
    """Return recall and precision of labelled clouds that were laid on clear dates."""
    scores: dict[str, Score] = {}
    shape = (int(stack.classes.shape[1]), int(stack.classes.shape[2]))
    for name, dn, cloud in labelled(folder, shape):
        for date in clear_dates(stack)[::3]:
            near, at = around(stack, date)
            moved = near.dn.copy()
            moved[at][:, cloud] = dn[:, cloud]
            laid = replace(near, dn=moved)
            judged = is_observed(near.classes[at])
            for mask, found in (
                ("blue above 0.2", brightness(laid, at)),
                ("temporal", temporal(laid, at)),
                ("temporal, grown", temporal(laid, at, grown=True)),
            ):
                for key in (f"{mask}|all chips", f"{mask}|{name}"):
                    scores[key] = scores.get(key, Score()).plus(found, cloud, judged)
    return [[*key.split("|"), *score.cells] for key, score in sorted(scores.items())]


def passes(catalog: Path, collection: str, interval: str, square: str = "") -> dict[str, Acquisition]:
    """Return the dates of a place by id."""
    items = open_source(str(catalog)).search(Query.parse(collection, None, interval))
    return {one.id: one for one in group_passes([item for item in items if square in item.id])}


def lost_rows(stack: Stack, dates: Mapping[str, Acquisition]) -> list[list[str]]:
    """Return the share of clear pixels of clear dates that the temporal check takes, by date."""
    rows = []
    for date in clear_dates(stack):
        shares = []
        for days in (15, _DAYS, 366):
            near, at = around(stack, date, days)
            seen = is_observed(near.classes[at])
            cloud = among(near.classes[at], (PixelClass.CLOUD, PixelClass.THIN_CLOUD))
            likely = near_of(cloud, near.cell, dates[near.item_ids[at]])
            shares.append((temporal(near, at, grown=True, near=likely) & seen).sum() / seen.sum())
        day = str(np.datetime64(int(stack.days[date]), "D"))
        rows.append([day, *(f"{100 * share:.2f} %" for share in shares)])
    return rows


def change_rows(stack: Stack) -> list[list[str]]:
    """Return the share of a changed patch that is hidden: on the first date of the change, and after it."""
    rows = []
    clear = [i for i in clear_dates(stack) if 90 < (stack.days[i] - stack.days[0]) < 300]
    for name, spectrum in _CHANGES.items():
        hidden: dict[str, list[float]] = {"first": [], "later": [], "last date of all": [], "once": []}
        for place, date in enumerate(clear[1:-1], 1):
            changed = stack.dn.copy()
            rough = changed[date][:, *_PATCH] / np.median(changed[date][:, *_PATCH], axis=(1, 2), keepdims=True)
            patch = (np.array(spectrum)[:, None, None] * rough).astype(np.uint16)
            for later in range(date, len(changed)):
                changed[later][:, *_PATCH] = patch
            lasting = replace(stack, dn=changed)
            hidden["first"].append(_in_patch(*around(lasting, date)))
            hidden["later"].append(_in_patch(*around(lasting, clear[place + 1])))
            until = lasting.without(lasting.item_ids[date + 1 :])
            hidden["last date of all"].append(_in_patch(*around(until, date)))
            once = stack.dn.copy()
            once[date][:, *_PATCH] = patch
            hidden["once"].append(_in_patch(*around(replace(stack, dn=once), date)))
        rows.append([name, *(f"{100 * np.mean(shares):.1f} %" for shares in hidden.values())])
    return rows


def _in_patch(stack: Stack, date: int) -> float:
    seen = is_observed(stack.classes[date])[_PATCH]
    return float((temporal(stack, date, grown=True)[_PATCH] & seen).sum() / max(seen.sum(), 1))


def shadow_rows(collection: str, interval: str) -> list[list[str]]:
    """Return recall of real shadows of the sample, moved with their clouds onto clear ground of other dates."""
    alone, known = Score(), Score()
    for square in ("33TWM", "33TWL"):
        stack = series(sample_catalog(), collection, interval, square)
        dates = passes(sample_catalog(), collection, interval, square)
        median = np.median(np.where(is_observed(stack.classes)[:, None], stack.dn, 0), axis=0)
        for giver, taker, shift in ((0, 2, 60), (3, 2, 60), (4, 2, 60), (3, 1, 120)):
            shadow = (stack.classes[giver] == PixelClass.SHADOW) & (median > 200).all(axis=0)
            if not shadow.any():
                continue
            ratio = np.where(shadow, stack.dn[giver] / np.maximum(median, 1), 1).clip(0, 1)
            cloud = ~is_observed(stack.classes[giver]) & ~shadow
            ratio, there, cloud = (np.roll(each, shift, axis=-1) for each in (ratio, shadow, cloud))
            dn = stack.dn.copy()
            dn[taker] = (dn[taker] * ratio).astype(np.uint16)
            judged = is_observed(stack.classes[taker]) & (median[3] > 1200) & ~cloud
            laid, near = replace(stack, dn=dn), near_of(cloud, stack.cell, dates[stack.item_ids[giver]])
            alone = alone.plus(temporal(laid, taker), there, judged)
            known = known.plus(temporal(laid, taker, near=near), there, judged)
    return [["temporal, clouds not known", *alone.cells], ["temporal, clouds known", *known.cells]]


def residual_rows(places: Mapping[str, tuple[Path, str, str, str]]) -> list[list[str]]:
    """Return how many pixels that are called clear look like cloud or shadow, without the temporal check and with it.

    Both are compared with one yardstick: the median of the looks of other dates that the check leaves.

    Args:
        places: catalog, collection, interval and part of the items' ids, by name.
    """
    rows: list[list[str]] = []
    for name, place in places.items():
        options = ReadOptions(radiometry_check=RadiometryCheck.OFF)
        before, after = (series(*place, replace(options, temporal=temporal)) for temporal in (False, True))
        # By kind and check: all, and those in patches on dates with cloud.
        counts, patches = np.zeros((3, 2), np.int64), np.zeros((3, 2), np.int64)
        cloudy = set(range(len(after.days))) - set(clear_dates(before))
        for date in range(len(after.days)):
            for at, departs in enumerate(_departures(after, date)):
                found = [departs & is_observed(stack.classes[date]) for stack in (before, after)]
                counts[at] += [int(each.sum()) for each in found]
                patches[at] += [_in_patches(each) if date in cloudy else 0 for each in found]
        for kind, both in zip(_LEFT, zip(counts, patches, strict=True), strict=True):
            cells = [(str(was), str(left), f"{left / was:.2f}" if was else "–") for was, left in both]
            rows.append([name, kind, *cells[0], *cells[1]])
    return rows


def _departures(stack: Stack, date: int) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Return where `(y, x)` a date is brighter, darker in all bands, or in near infrared than the dates around it."""
    trusted = is_observed(stack.classes)
    near = [i for i, away in enumerate(np.abs(stack.days - stack.days[date])) if i != date and away <= _DAYS]
    known = trusted[near].sum(axis=0) >= 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels that no other date saw
        middle = np.nanmedian(np.where(trusted[near, None], stack.dn[near], np.nan), axis=0)
    bright = known & (stack.dn[date, 0] > middle[0] + 300)
    dark = known & (stack.dn[date, 3] < 0.65 * middle[3]) & (middle[3] > 1200)
    return bright, dark & (stack.dn[date, 1:3] < 0.9 * middle[1:3]).all(axis=0), dark


def _in_patches(mask: BoolArray) -> int:
    """Return how many pixels belong to patches of `_PATCH_PX` and more."""
    labels, _ = label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return int(sizes[sizes >= _PATCH_PX].sum())


def page(options: argparse.Namespace) -> Page:
    """Measure everything and return the page."""
    stack = series(options.series / "catalog.json", options.collection, "2018-01-01/2018-12-31")
    clouds = cloud_rows(stack, options.labels)
    dates = passes(options.series / "catalog.json", options.collection, "2018-01-01/2018-12-31")
    lost, changes = lost_rows(stack, dates), change_rows(stack)
    shadows = shadow_rows(SAMPLE_COLLECTION, SAMPLE_INTERVAL)
    year = (options.series / "catalog.json", options.collection, "2018-01-01/2018-12-31", "")
    sample = (sample_catalog(), SAMPLE_COLLECTION, SAMPLE_INTERVAL)
    residual = residual_rows(
        {"sample, 33TWM": (*sample, "33TWM"), "sample, 33TWL": (*sample, "33TWL"), "year at 10 m": year}
    )
    about = (
        "Clouds labelled by people on five chips, laid on clear dates of a year of one place at 10 m; the mask of that "
        f"date knows nothing of them, the other dates of {_DAYS} days around have their own masks. The chips have four "
        "bands, so s2cloudless, which needs ten, cannot be run on them; the masks of the series are its masks."
    )
    lasting = (
        "Change of the ground in a patch: share of it that is hidden. A change that the next clear look sees, too, is "
        "kept; one that is there once differs from a cloud or a shadow by its colour alone."
    )
    moved = (
        "Real shadows of the 120 m sample, moved with their clouds onto ground that was clear (near infrared above "
        "0.12). Clouds that a mask knows make shadows likely where the sun can throw them."
    )
    left = (
        "What is left: pixels called clear, clouds and shadows grown as in a run, that are brighter in blue by 0.03 or "
        f"darker in near infrared by 35 % (in green and red by 10 %, too: change, such as a harvest, seldom is) than "
        f"the median of other dates within {_DAYS} days, where two at least saw the ground. Patches are of {_PATCH_PX} "
        "pixels and more: in imagery that was thinned, single ones depart from date to date without any cloud. What "
        f"departs on dates that are clear ({_CLEAR:.0%}) is ground, as was seen by looking: fields after harvest, "
        "shadows of trees in a low sun."
    )
    parts = (
        about,
        table(("mask", "chips", "recall", "precision"), clouds),
        "Clear pixels that the check takes from dates that are clear, with dates within so many days.",
        table(("date", "15 days", f"{_DAYS} days", "366 days"), lost),
        "2018-09-03 is the shadow of a cloud beyond the edge, which the masks of the series do not know.",
        lasting,
        table(("change", "on its first date", "later", "on the last date of all", "there once"), changes),
        moved,
        table(("mask", "recall", "precision"), shadows),
        left,
        table(
            (
                "place",
                "pixels",
                "without the check",
                "with it",
                "share left",
                "in patches, without",
                "with it",
                "share",
            ),
            residual,
        ),
    )
    record = {"residual": residual, "clouds": clouds, "lost": lost, "changes": changes, "shadows": shadows}
    return Page("Masks", parts, record)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    command = parser("masks", "Masks against labelled clouds, moved shadows, changed ground and clear dates.")
    command.add_argument("--series", type=Path, required=True, help="folder with catalog.json: a year of one place")
    command.add_argument("--labels", type=Path, required=True, help="folder of labelled chips")
    command.add_argument("--collection", default="sentinel-2-l2a", help="of the series")
    options = command.parse_args(arguments)
    publish("masks", page(options), options)


if __name__ == "__main__":
    main()
