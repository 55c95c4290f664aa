"""Reading the dates of one cell into memory: digital numbers and masks on one pixel grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pystac
from numpy.typing import NDArray
from rasterio.enums import Resampling

from stac.errors import InvalidInput, StacError
from stac.grid.assets import find_asset
from stac.grid.cell import Cell
from stac.io.signing import Access
from stac.load.mask_reading import near_clouds, plan_mask
from stac.load.reading import Layer, at_once, look_at, read_asset
from stac.load.resampling import Interpolation, worst_class
from stac.load.scale_check import RadiometryCheck, check_scene
from stac.masks.classes import RIM, PixelClass, beside_nodata, mark_missing
from stac.masks.combination import MaskKind, MaskRule, dilate, without_mixed
from stac.masks.temporal import FEWEST_LOOKS, hide, reach_of, suspicious
from stac.reflectance import PRODUCT_NODATA, rescale_dn, to_reflectance
from stac.search.acquisitions import Acquisition
from stac.search.source import one_item

#: Dates in flight; each holds connections to its source.
_DATES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a stack is read."""

    #: Reach of cloud dilation, metres.
    cloud_dilation_m: float = 120.0
    #: Reach of shadow dilation, metres.
    shadow_dilation_m: float = 120.0
    #: Every how many pixels one is read, along both axes; the stack's cell is as much coarser.
    overview: int = 1
    #: How reflectance is drawn when a file is on another grid that is not finer.
    interpolation: Interpolation = Interpolation.BILINEAR
    #: What happens to a scene whose pixels contradict its scale or offset.
    radiometry_check: RadiometryCheck = RadiometryCheck.REFUSE
    #: Masks that are combined; none takes the one that comes with a scene.
    masks: tuple[MaskKind, ...] = ()
    #: How they are combined.
    mask_rule: MaskRule = MaskRule.ANY
    #: Whether looks that no other date agrees with are hidden (`stac.masks.temporal`).
    temporal: bool = False
    #: How remote bytes are reached: signing, S3 and time-outs.
    access: Access = field(default_factory=Access)

    def reach(self, cell: Cell) -> int:
        """Return how far clouds and shadows outside a cell reach into it, pixels."""
        return math.floor(max(self.cloud_dilation_m, self.shadow_dilation_m, 0) / cell.gsd_m + 1e-9)

    def overview_of(self, cell: Cell, most_pixels: int = 4_000_000) -> ReadOptions:
        """Return how a whole cell is read thinned, so that each date has at most so many pixels.

        Every k-th pixel is drawn, from the overviews of a file where it has them; pixels at the file's edge whose k
        by k block is not complete are nodata. Clouds are grown on the thinned mask.
        """
        return replace(self, overview=overview_factor(cell, most_pixels))


@dataclass(frozen=True, slots=True)
class Stack:
    """All dates of a cell. Arrays share their last two axes `(y, x)`, the cell's pixels."""

    #: Product digital numbers `(time, band, y, x)`: reflectance / 1e-4, 0 where nodata.
    dn: NDArray[np.uint16]
    #: `PixelClass` values `(time, y, x)` after dilation.
    classes: NDArray[np.uint8]
    #: One id for each date: the scene's where it is one, else that of the acquisition.
    item_ids: tuple[str, ...]
    #: Days since 1970-01-01 `(time,)`.
    days: NDArray[np.int32]
    bands: tuple[str, ...]
    cell: Cell
    #: Why items were left out, one sentence each.
    dropped: tuple[str, ...] = ()
    #: Ids of the scenes of each date; left out they are the dates' own ids.
    sources: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        """Fill in what was left out."""
        if not self.sources:
            object.__setattr__(self, "sources", tuple((item_id,) for item_id in self.item_ids))

    def reflectance(self, index: int) -> NDArray[np.float32]:
        """Return surface reflectance `(band, y, x)` of one date, NaN where nodata."""
        return to_reflectance(self.dn[index])

    def index_of(self, item_id: str) -> int:
        """Return the position of an item.

        Raises:
            InvalidInput: the stack does not hold it.
        """
        if item_id not in self.item_ids:
            raise InvalidInput(f"Item {item_id} is not in the stack of cell {self.cell.id}; it holds {self.item_ids}.")
        return self.item_ids.index(item_id)

    def window(self, rows: slice, columns: slice) -> Stack:
        """Return a window as a view; rows and columns count from the stack's first pixel."""
        dn, classes = self.dn[:, :, rows, columns], self.classes[:, rows, columns]
        return replace(self, dn=dn, classes=classes, cell=self.cell.window(rows, columns))

    def without(self, item_ids: Collection[str]) -> Stack:
        """Return the stack without some items; a view where it has none of them."""
        if not set(item_ids) & set(self.item_ids):
            return self
        keep = [i for i, item_id in enumerate(self.item_ids) if item_id not in item_ids]
        ids, sources = tuple(self.item_ids[i] for i in keep), tuple(self.sources[i] for i in keep)
        dn, classes, days = self.dn[keep], self.classes[keep], self.days[keep]
        return replace(self, dn=dn, classes=classes, days=days, item_ids=ids, sources=sources)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one date of a stack is written."""

    #: Product digital numbers `(band, y, x)`.
    dn: NDArray[np.uint16]
    #: `PixelClass` values `(y, x)`.
    classes: NDArray[np.uint8]

    def like(self) -> Slot:
        """Return memory for another scene of the same date."""
        return Slot(np.empty_like(self.dn), np.empty_like(self.classes))


def read_stack(
    dates: Sequence[pystac.Item | Acquisition],
    cell: Cell,
    bands: Sequence[str],
    options: ReadOptions | None = None,
    *,
    required: Collection[str] | None = None,
) -> Stack:
    """Read all dates of a cell.

    A date of several scenes is put together pixel by pixel, digital numbers and classes alike: from the first scene
    that has data there. A cloud grows within its scene.

    Args:
        dates: the scenes, or acquisitions of several, one date each.
        cell: where; scenes on another grid are resampled to it (`stac.load.resampling` says how).
        bands: common names, in the order of the result.
        options: dilation, resampling and time-outs.
        required: ids of dates that must be readable; others are dropped with their reason when they are
            not. None requires all.

    Raises:
        InvalidItem: a required scene lacks an asset, or lies elsewhere than it says.
        UnreadableAsset: pixels of a required scene cannot be read after retries.
        InvalidInput: no date is left.
    """
    options = options or ReadOptions()
    if options.temporal:
        return _read_together(dates, cell, bands, options, required)
    cell = cell.thinned(options.overview)
    # Pixels are read to where they stay: every copy of a stack costs about as much as decoding it.
    dn = np.empty((len(dates), len(bands), *cell.geobox.shape), np.uint16)
    classes = np.empty((len(dates), *cell.geobox.shape), np.uint8)
    slots = [Slot(*arrays) for arrays in zip(dn, classes, strict=True)]
    found = _read_dates(dates, slots, partial(_read_date, cell=cell, bands=bands, options=options), required)
    read = [acquisition for acquisition in found if isinstance(acquisition, Acquisition)]
    dropped = tuple(str(error) for error in found if isinstance(error, StacError))
    if not read:
        raise InvalidInput(f"No scene of cell {cell.id} could be read: {' '.join(dropped)}")
    if dropped:
        kept = [index for index, one in enumerate(found) if isinstance(one, Acquisition)]
        dn, classes = dn[kept], classes[kept]
    if (foreign := cell.foreign()) is not None:
        dn[:, :, foreign], classes[:, foreign] = PRODUCT_NODATA, PixelClass.NODATA
    return Stack(
        dn=dn,
        classes=classes,
        item_ids=tuple(acquisition.id for acquisition in read),
        days=np.array([acquisition.day for acquisition in read], dtype=np.int32),
        bands=tuple(bands),
        cell=cell,
        dropped=dropped,
        sources=tuple(acquisition.item_ids for acquisition in read),
    )


def overview_factor(cell: Cell, most_pixels: int) -> int:
    """Return the smallest factor by which a cell must be thinned to hold at most so many pixels."""
    factor = max(1, math.isqrt(cell.pixels // max(most_pixels, 1)))
    while factor < max(cell.geobox.shape) and cell.thinned(factor).pixels > most_pixels:
        factor += 1
    return factor


def _read_dates(
    dates: Sequence[pystac.Item | Acquisition],
    slots: Sequence[Slot],
    read: Callable[[pystac.Item | Acquisition, Slot], Acquisition],
    required: Collection[str] | None,
) -> list[Acquisition | StacError]:
    """Fill in all dates; return each acquisition, or why a date that is not required could not be read."""
    found: list[Acquisition | StacError] = []
    # The masks of one date are made while the pixels of the next arrive.
    with ThreadPoolExecutor(_DATES_AT_ONCE, thread_name_prefix="date") as pool:
        waiting = [pool.submit(read, date, slot) for date, slot in zip(dates, slots, strict=True)]
        for date, future in zip(dates, waiting, strict=True):
            try:
                found.append(future.result())
            except StacError as error:
                if required is None or date.id in required:
                    pool.shutdown(cancel_futures=True)
                    raise
                found.append(error)
    return found


def _read_date(
    date: pystac.Item | Acquisition, slot: Slot, cell: Cell, bands: Sequence[str], options: ReadOptions
) -> Acquisition:
    """Fill in product DN and dilated classes of one date, each pixel from the first scene with data."""
    acquisition = _acquisition(date)
    first, *others = acquisition.items
    _read_item(first, cell, bands, options, slot)
    for item in others:
        missing = (slot.classes == PixelClass.NODATA) | (slot.dn == PRODUCT_NODATA).any(axis=0)
        if not missing.any():
            break
        more = slot.like()
        _read_item(item, cell, bands, options, more)
        whole = (more.classes != PixelClass.NODATA) & (more.dn != PRODUCT_NODATA).all(axis=0)
        gained = missing & (whole | (slot.classes == PixelClass.NODATA))
        np.copyto(slot.dn, more.dn, where=gained)
        np.copyto(slot.classes, more.classes, where=gained)
    return acquisition


def _read_together(
    dates: Sequence[pystac.Item | Acquisition],
    cell: Cell,
    bands: Sequence[str],
    options: ReadOptions,
    required: Collection[str] | None,
) -> Stack:
    """Read a cell and hide the looks that no other date agrees with, before clouds are grown.

    Where a date has several scenes, a cloud of one grows into the others, too.
    """
    thin = cell.thinned(options.overview)
    reach = max(options.reach(thin), reach_of(thin.gsd_m))
    around = Cell(cell.id, cell.geobox.pad(reach * options.overview), cell.owned)
    plain = replace(options, temporal=False, cloud_dilation_m=0.0, shadow_dilation_m=0.0)
    stack = read_stack(dates, around, bands, plain, required=required)
    height, width = thin.geobox.shape
    inside = np.s_[..., reach : reach + height, reach : reach + width]
    found = _disagreeing(stack, dates, options)

    def grown(date: int) -> NDArray[np.uint8]:
        every = dilate(stack.classes[date], thin.gsd_m, options.cloud_dilation_m, options.shadow_dilation_m)
        return hide(every, found[date], thin.gsd_m)[inside]

    with ThreadPoolExecutor(_DATES_AT_ONCE, thread_name_prefix="grow") as pool:
        masks = np.stack(list(pool.map(grown, range(len(found)))))
    return replace(stack, dn=stack.dn[inside], classes=masks, cell=thin)


def _disagreeing(stack: Stack, dates: Sequence[pystac.Item | Acquisition], options: ReadOptions) -> NDArray[np.uint8]:
    """Return what the temporal check finds `(time, y, x)`, with what the clouds of each date make likely."""
    if len(np.unique(stack.days)) < FEWEST_LOOKS:
        return np.zeros_like(stack.classes)
    taken = {one.id: one for one in map(_acquisition, dates)}
    look = partial(near_clouds, cell=stack.cell, masks=options.masks, rule=options.mask_rule, access=options.access)
    with ThreadPoolExecutor(_DATES_AT_ONCE, thread_name_prefix="near") as pool:
        near = np.stack(list(pool.map(look, (taken[name] for name in stack.item_ids))))
    return suspicious(stack.dn, stack.classes, stack.days, stack.bands, near)


def _acquisition(date: pystac.Item | Acquisition) -> Acquisition:
    return date if isinstance(date, Acquisition) else Acquisition.of([date])


def _read_item(item: pystac.Item, cell: Cell, bands: Sequence[str], options: ReadOptions, slot: Slot) -> None:
    """Fill in product DN and dilated classes of one scene.

    Raises:
        InvalidItem: whatever is odd about it.
    """
    with one_item(item.id):
        _read_layers(item, cell, bands, options, slot)


def _read_layers(item: pystac.Item, cell: Cell, bands: Sequence[str], options: ReadOptions, slot: Slot) -> None:
    drawn = options.interpolation.method if options.overview == 1 else Resampling.nearest
    layers = _layers(item, bands, drawn, options)
    mask = plan_mask(item, options.masks, options.mask_rule, drawn, options.access)
    check_scene(item, layers, options.radiometry_check, options.access)
    scalings = [layer.scaling for layer in layers if layer.scaling is not None]
    # Where pixels are mixed, what is mixed in from beside the cell must be known, too.
    kernel = max(layer.reach(cell) for layer in layers)
    drawn_cell = Cell(cell.id, cell.geobox.pad(kernel)) if kernel else cell
    # A cloud outside the cell reaches into it, so its surroundings are read as far as clouds grow.
    reach = max(options.reach(cell), kernel, RIM)
    # An overview draws single pixels.
    finer = mask.finer_than(cell) if options.overview == 1 else 1
    around = Cell(cell.id, cell.geobox.pad(reach)).refined(finer)
    requests = [layer.request for layer in (*layers, *mask.layers)]
    cells = [*[drawn_cell] * len(layers), *[around] * len(mask.layers)]
    places = [*slot.dn, *[None] * len(mask.layers)]
    wanted = zip(requests, cells, places, strict=True)
    found = at_once(lambda asked: read_asset(asked[0], options.access, *asked[1:]), wanted)
    height, width = slot.classes.shape
    inside = np.s_[reach : reach + height, reach : reach + width]
    classes = worst_class(mask.classes(found[len(layers) :]), finer)
    own = np.s_[kernel : kernel + height, kernel : kernel + width]
    drawn_part = np.s_[reach - kernel : reach + height + kernel, reach - kernel : reach + width + kernel]
    beside = beside_nodata(classes)[drawn_part]
    seen = classes[drawn_part]
    some, every = np.zeros(seen.shape, bool), np.ones(seen.shape, bool)
    for place, pixels, scaling in zip(slot.dn, found, scalings, strict=False):
        product = rescale_dn(pixels, scaling)
        gap = product == PRODUCT_NODATA
        some |= gap
        every &= gap
        if product is not place:
            place[...] = product[own]
    mark_missing(seen, some, every, beside)
    dilated = dilate(classes, cell.gsd_m, options.cloud_dilation_m, options.shadow_dilation_m)
    slot.classes[...] = (without_mixed(classes, dilated, kernel) if kernel else dilated)[inside]


def _layers(item: pystac.Item, bands: Sequence[str], drawn: Resampling, options: ReadOptions) -> list[Layer]:
    """Look at the bands of a scene."""
    return at_once(lambda band: look_at(item, band, find_asset(item, band), drawn, options.access), bands)
