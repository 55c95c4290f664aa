"""Restore a cell of any size block by block: memory stays bounded, and a killed run goes on where it stopped.

The next windows are prefetched by one thread, and finished layers are written behind by another.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from de_model.enhancer import Enhancer
from flows.processing.restore import Prepared, needed_window, restore_block
from flows.settings.restoring import RestorationOptions
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.product.block_store import Block, BlockStore, blocks_of
from stac.product.layers import ProductLayers

T = TypeVar("T")
#: Reads all dates of a window of the cell.
Reader = Callable[[Cell], Stack]
#: Takes the layers of a finished block.
Done = Callable[[ProductLayers], None]
#: Takes a block that was made, its dates and its layers.
Look = Callable[[Block, Stack, ProductLayers], None]
#: Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]
#: Scenes are read in windows of this many pixels a side: fewer requests than one for every block.
_REGION_PX = 2048


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Do nothing."""


@dataclass(slots=True)
class Effort:
    """What restoring took; blocks that were found done take nothing."""

    blocks: int = 0
    tiles: int = 0
    #: Of reading, and of these the ones in which nothing else was done.
    read_seconds: float = 0.0
    waited_seconds: float = 0.0
    restore_seconds: float = 0.0
    #: Of restoring, in the model.
    model_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Region:
    """The dates of some blocks and their surroundings."""

    stack: Stack
    #: Row and column of its first pixel in the cell.
    offset: tuple[int, int]
    #: That reading took.
    seconds: float

    def of(self, block: Block) -> Stack:
        """Return the dates of a block."""
        (rows, columns), (top, left) = (block.rows, block.columns), self.offset
        return self.stack.window(
            slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        )


def restore_cell(
    read: Reader,
    prepared: Prepared,
    enhancer: Enhancer,
    options: RestorationOptions,
    store: BlockStore | None,
    side: int,
    progress: Progress,
    done: Done,
    region_px: int | None = None,
    look: Look | None = None,
) -> Effort:
    """Hand over every block of a cell, and keep those that took the model; the next ones are read meanwhile.

    Args:
        read: reads the dates that `prepared` knows, on a window of the cell.
        prepared: what is known about the whole cell.
        enhancer: the model.
        options: composite and sampling.
        store: where blocks are kept; None keeps none.
        side: of a block, pixels.
        progress: called with what is done.
        done: takes the layers of every block once: first those that were there, then the others as they are made.
        region_px: side of the windows that are read at once, pixels; `_REGION_PX` when left out.
        look: called with every block that is made, its dates and its layers, before `done`.

    Raises:
        UnreadableAsset: pixels cannot be read after retries.
        DiskFull, NotWritable: the store cannot be written.
    """
    effort, every = Effort(), regions_of(prepared.cell, side, region_px)
    unfinished = [[block for block in blocks if not _is_kept(block, store, done)] for blocks in every]
    regions = [blocks for blocks in unfinished if blocks]
    total = sum(map(len, every))
    number = total - sum(map(len, regions))
    # Closed when a block fails, too: nothing more is read for a unit that has ended.
    with closing(prefetched(partial(_read, read, blocks, prepared.cell, options) for blocks in regions)) as readings:
        for blocks in regions:
            began = time.monotonic()
            region = next(readings)
            effort.waited_seconds += time.monotonic() - began
            effort.read_seconds += region.seconds
            for block in blocks:
                began = time.monotonic()
                on_tile = _tiles(progress, number, total)
                restored = restore_block(region.stack, region.offset, block, prepared, enhancer, options, on_tile)
                # A block that the model did not work on is sooner made again than kept.
                if restored.tiles and store is not None:
                    store.put(block, restored.layers)
                if look is not None:
                    look(block, region.of(block), restored.layers)
                effort.restore_seconds += time.monotonic() - began
                effort.blocks, effort.tiles, number = effort.blocks + 1, effort.tiles + restored.tiles, number + 1
                effort.model_seconds += restored.model_seconds
                done(restored.layers)
            # The one after the next begins to be read; memory holds no third.
            del region
    return effort


def _is_kept(block: Block, store: BlockStore | None, done: Done) -> bool:
    """Return whether a block was finished before, and hand it over."""
    found = None if store is None else store.get(block)
    if found is not None:
        done(found)
    return found is not None


def _read(read: Reader, blocks: Sequence[Block], cell: Cell, options: RestorationOptions) -> _Region:
    rows, columns = window_of(blocks, cell, options)
    began = time.monotonic()
    stack = read(cell.window(rows, columns))
    return _Region(stack, (rows.start, columns.start), time.monotonic() - began)


def regions_of(cell: Cell, side: int, region_px: int | None = None) -> list[list[Block]]:
    """Return the blocks of a cell in groups that are read at once.

    Args:
        cell: the whole cell.
        side: of a block, pixels.
        region_px: about the side of a group; whole blocks.
    """
    height, width = (int(n) for n in cell.geobox.shape)
    wide = max(1, (region_px or _REGION_PX) // side) * side
    regions = blocks_of(slice(0, height), slice(0, width), wide)
    return [blocks_of(region.rows, region.columns, side) for region in regions]


def window_of(blocks: Sequence[Block], cell: Cell, options: RestorationOptions) -> tuple[slice, slice]:
    """Return the rows and columns of a cell that must be read to restore some blocks."""
    # Only the model looks around a block; a region that is not widened lies on the tiles of its files.
    windows = (needed_window(b, cell, options.sampling) if options.use_model else (b.rows, b.columns) for b in blocks)
    rows, columns = zip(*windows, strict=True)
    return _hull(rows), _hull(columns)


def _hull(spans: tuple[slice, ...]) -> slice:
    return slice(min(span.start for span in spans), max(span.stop for span in spans))


def _tiles(progress: Progress, done: int, total: int) -> Callable[[int, int], None]:
    """Return the callback for the tiles of the engine."""
    what = "tiles" if total == 1 else f"block {done + 1} of {total}, tiles"
    return lambda tile, tiles: progress(what, tile, tiles)


def prefetched(works: Iterable[Callable[[], T]]) -> Generator[T]:
    """Yield the result of every work, in order; one more is at work or waiting than the caller holds.

    An error is raised where its result would have come. A caller that stops early waits for nothing: the work in hand
    ends by itself.
    """
    context = contextvars.copy_context()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        next_one: Future[T] | None = None
        for work in works:
            current, next_one = next_one, pool.submit(context.run, work)
            if current is not None:
                yield current.result()
        if next_one is not None:
            yield next_one.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class WriteBehind(Generic[T]):
    """Consumes things in order in a thread, one behind the caller; a context, at whose end all are consumed.

    An error is raised when the next thing is given, or at the end. Where the caller fails, only what is at work ends.
    """

    def __init__(self, use: Callable[[T], None]) -> None:
        self._use, self._context = use, contextvars.copy_context()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._at_work: Future[None] | None = None
        #: Spent on waiting for the thread, seconds.
        self.waited = 0.0

    def __call__(self, thing: T) -> None:
        """Give the next thing, as soon as the one before is consumed."""
        self._wait()
        self._at_work = self._pool.submit(self._context.run, self._use, thing)

    def __enter__(self) -> WriteBehind[T]:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None:
                self._wait()
        finally:
            self._pool.shutdown()

    def _wait(self) -> None:
        if self._at_work is not None:
            began = time.monotonic()
            self._at_work.result()
            self.waited += time.monotonic() - began
