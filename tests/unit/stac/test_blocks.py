"""Blocks are kept whole or not at all, and only for the work they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stac.errors import UnreadableAsset
from stac.grid.cell import Cell
from stac.product.layers import ProductLayers
from stac.product.writer import Block, BlockStore, blocks_of


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 128))
def test_blocks_cover_every_pixel_once(height: int, width: int, side: int) -> None:
    count = np.zeros((height, width), int)
    found = blocks_of(slice(0, height), slice(0, width), side)
    for block in found:
        count[block.rows, block.columns] += 1
        assert max(block.rows.stop - block.rows.start, block.columns.stop - block.columns.start) <= side
    assert (count == 1).all() and len({block.name for block in found}) == len(found)


@pytest.fixture
def cell(layers: ProductLayers) -> Cell:
    return Cell("MGRS-33TWM", layers.geobox)


BLOCK = Block(slice(8, 24), slice(0, 16))


def test_a_block_comes_back_bit_for_bit(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store, part = BlockStore(tmp_path / "w", cell, layers.bands, "a"), layers.window(BLOCK.rows, BLOCK.columns)
    assert not store.holds(BLOCK)
    store.put(BLOCK, part)
    again = BlockStore(tmp_path / "w", cell, layers.bands, "a")
    assert again.holds(BLOCK)
    found = again.get(BLOCK)
    for name in ("data", "provenance", "source_date", "reference_weight", "uncertainty"):
        assert getattr(found, name).tobytes() == np.ascontiguousarray(getattr(part, name)).tobytes()
    assert found.geobox == part.geobox and found.bands == layers.bands


def test_a_damaged_block_is_made_again(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store = BlockStore(tmp_path / "w", cell, layers.bands, "a")
    path = tmp_path / "w" / BLOCK.name
    for damage in (lambda content: content[:-7], lambda content: content[:99] + b"x" + content[100:]):
        store.put(BLOCK, layers.window(BLOCK.rows, BLOCK.columns))
        path.write_bytes(damage(path.read_bytes()))
        assert not store.holds(BLOCK) and not path.exists()
    with pytest.raises(UnreadableAsset, match="run again"):
        store.get(BLOCK)


def test_blocks_of_other_work_are_not_kept(tmp_path: Path, layers: ProductLayers, cell: Cell) -> None:
    store = BlockStore(tmp_path / "w", cell, layers.bands, "a")
    store.put(BLOCK, layers.window(BLOCK.rows, BLOCK.columns))
    store.remember({"dates": ["x"]})
    assert BlockStore(tmp_path / "w", cell, layers.bands, "a").remembered() == {"dates": ["x"]}
    other = BlockStore(tmp_path / "w", cell, layers.bands, "b")
    assert not other.holds(BLOCK) and other.remembered() is None
    other.discard()
    assert not (tmp_path / "w").exists()
