"""The finished blocks of a work unit on disk, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from stac.grid.cell import Cell
from stac.io.files import write_bytes, write_json, writing
from stac.product.layers import ARRAYS, ProductLayers

_FORMAT = 2
_IDENTITY = "blocks.json"
_MEMORY = "memory.json"


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of a cell: at most so many pixels a side, counted from the cell's first pixel."""

    rows: slice
    columns: slice

    @property
    def name(self) -> str:
        """Name of the block's file."""
        return f"r{self.rows.start:06d}c{self.columns.start:06d}.block"

    def within(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Return the block's rows and columns counted from a window of the cell that holds it."""
        top, left = rows.start, columns.start
        return (
            slice(self.rows.start - top, self.rows.stop - top),
            slice(self.columns.start - left, self.columns.stop - left),
        )


def blocks_of(rows: slice, columns: slice, side: int) -> list[Block]:
    """Return the blocks of a window, row by row, the last ones smaller.

    Args:
        rows: rows of the window in its cell.
        columns: columns likewise.
        side: largest side of a block, pixels.
    """
    return [Block(r, c) for r in _spans(rows, side) for c in _spans(columns, side)]


def _spans(extent: slice, side: int) -> Iterator[slice]:
    for start in range(extent.start, extent.stop, side):
        yield slice(start, min(start + side, extent.stop))


class BlockStore:
    """The finished blocks of one work unit.

    A block is there whole or not at all, and is believed only if the checksums of its arrays agree, which NPZ has; so a
    run that was killed at any moment goes on with the blocks that are missing. Blocks of other work, or of another
    size, are not kept. What cannot be written raises `DiskFull` or `NotWritable`, and nothing of it is left.
    """

    def __init__(self, folder: Path, cell: Cell, bands: tuple[str, ...], identity: str) -> None:
        """Open or create the store.

        Args:
            folder: of this work unit alone.
            cell: the whole cell.
            bands: common names in the order of `data`.
            identity: what the blocks depend on, their size included.
        """
        self.folder, self._cell, self._bands = folder, cell, bands
        wanted = {"format": _FORMAT, "identity": identity}
        if _read(folder / _IDENTITY) != wanted:
            with writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            write_json(folder / _IDENTITY, wanted)

    def put(self, block: Block, layers: ProductLayers) -> None:
        """Keep a block."""
        buffer = BytesIO()
        np.savez(buffer, **{name: getattr(layers, name) for name in ARRAYS})
        write_bytes(self.folder / block.name, buffer.getvalue())

    def get(self, block: Block) -> ProductLayers | None:
        """Return a block's layers; None where it is not there, or was damaged and is removed, to be made again."""
        path = self.folder / block.name
        if not path.is_file():
            return None
        content = BytesIO(path.read_bytes())
        try:
            with ZipFile(content) as archive:
                # Of a member that is not read to its end no checksum is looked at.
                damaged = archive.testzip()
            if damaged is not None:
                raise BadZipFile(damaged)
            content.seek(0)
            with np.load(content, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in ARRAYS}
        except (EOFError, ValueError, KeyError, RuntimeError, BadZipFile):
            path.unlink()
            return None
        return ProductLayers(**found, geobox=self._cell.geobox[block.rows, block.columns], bands=self._bands)

    def save_record(self, document: Mapping[str, Any]) -> None:
        """Keep a JSON document beside the blocks: what they were decided on, for the run that goes on with them."""
        write_json(self.folder / _MEMORY, document)

    def saved_record(self) -> dict[str, Any] | None:
        """Return the document that was kept, None where there is none."""
        found = _read(self.folder / _MEMORY)
        return found if isinstance(found, dict) else None

    def discard(self) -> None:
        """Remove all blocks."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
