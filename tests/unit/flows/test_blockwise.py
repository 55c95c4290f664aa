"""A cell restored block by block: the bytes of the whole, and a stopped run repeats one block at most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pystac
import pytest
import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.inference.sampling import Sampling
from de_model.presets import Preset
from de_model.validation import UNVALIDATED, Filler, PixelKind
from flows.processing import blocks as blockwise
from flows.processing.blocks import Done, Effort, Progress, Reader, WriteBehind, no_progress, restore_cell
from flows.processing.restore import Prepared, prepare, restore_date
from flows.settings.restoring import RestorationOptions
from stac.composite.methods import CompositeMethod
from stac.errors import UnreadableAsset
from stac.grid.cell import Cell, cell_of
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_hidden
from stac.product.block_store import BlockStore
from stac.product.layers import INTERPOLATED_WEIGHT, ProductLayers, Provenance
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

BANDS = ("blue", "green", "red", "nir")
SAMPLING = Sampling(samples=1, steps=1, tile=32, overlap=8)
SIDE = 40


def nobody(_layers: ProductLayers) -> None:
    """Take what nobody looks at."""


@pytest.fixture(scope="module")
def items() -> list[pystac.Item]:
    found = open_source(str(sample_catalog())).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    return sorted((item for item in found if "33TWM" in item.id), key=lambda item: "20230818" not in item.id)


@pytest.fixture(scope="module")
def cell(items: list[pystac.Item]) -> Cell:
    return cell_of(items[0], "blue", (15.40, 46.48, 15.55, 46.60))


@pytest.fixture(scope="module")
def read(items: list[pystac.Item]) -> Reader:
    return lambda window: read_stack(items, window, BANDS)


@pytest.fixture(scope="module")
def whole(read: Reader, cell: Cell) -> Stack:
    return read(cell)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    torch.manual_seed(0)
    return Enhancer(ModelCard(Preset.TINY, BANDS, 120.0)).eval().requires_grad_(False)


def blocks(
    read: Reader,
    prepared: Prepared,
    enhancer: Enhancer,
    store: BlockStore,
    side: int,
    progress: Progress = no_progress,
    done: Done = nobody,
) -> Effort:
    return restore_cell(read, prepared, enhancer, RestorationOptions(SAMPLING), store, side, progress, done)


#: Gaps of every kind are filled by the model, by the ground around, or some by each.
MIXED = {PixelKind.THIN_CLOUD: Filler.REFERENCE, PixelKind.GAP_NEAR: Filler.NORMALISED_CONVOLUTION}
GROUND = dict(UNVALIDATED) | {PixelKind.GAP_NEAR: Filler.FILLNODATA, PixelKind.GAP_FAR: Filler.FILLNODATA}
FILLERS = [(composite, {}) for composite in CompositeMethod] + [
    (CompositeMethod.FUSED, UNVALIDATED),
    (CompositeMethod.NONE, MIXED),
    (CompositeMethod.FUSED, GROUND),
]


@pytest.mark.parametrize(("composite", "fillers"), FILLERS)
def test_blocks_are_the_whole_cell_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Stack,
    read: Reader,
    cell: Cell,
    enhancer: Enhancer,
    composite: CompositeMethod,
    fillers: Mapping[PixelKind, Filler],
) -> None:
    monkeypatch.setattr(blockwise, "_REGION_PX", 2 * SIDE)
    options = RestorationOptions(SAMPLING, composite, fillers=fillers)
    expected, store = restore_date(whole, 0, enhancer, options).layers, BlockStore(tmp_path / "b", cell, BANDS, "x")
    found: list[ProductLayers] = []
    effort = restore_cell(
        read, prepare(whole, 0, cell, options), enhancer, options, store, SIDE, no_progress, found.append
    )
    assert effort.blocks == len(found) > 4 and (effort.tiles > 0) == (fillers not in (UNVALIDATED, GROUND))
    around = expected.reference_weight == INTERPOLATED_WEIGHT
    assert around.any() == bool(fillers) and (expected.provenance[around] == Provenance.REFERENCE_FILLED).all()
    for layers in found:
        column, row = (round(v) for v in cell.geobox.wld2pix(layers.geobox.affine.c, layers.geobox.affine.f))
        height, width = layers.provenance.shape
        part = expected.window(slice(row, row + height), slice(column, column + width))
        for name in ("data", "provenance", "source_date", "reference_weight", "uncertainty"):
            np.testing.assert_array_equal(getattr(layers, name), getattr(part, name), err_msg=name)
    assert len(np.unique(expected.provenance)) > 2


def test_pixels_of_the_reference_alone_are_called_so(whole: Stack, enhancer: Enhancer) -> None:
    """The diffusion ran beside them, but made none of them."""
    fillers = dict.fromkeys(PixelKind, Filler.REFERENCE)
    options = RestorationOptions(SAMPLING, CompositeMethod.NONE, fillers=fillers)
    layers = restore_date(whole, 0, enhancer, options).layers
    hidden = is_hidden(whole.classes[0]) & (whole.classes[0] != PixelClass.THIN_CLOUD)
    assert hidden.any() and (layers.provenance[hidden] == Provenance.REFERENCE_FILLED).all()
    assert (layers.reference_weight[hidden] > 0.99).all()
    assert (layers.reference_weight[hidden] < INTERPOLATED_WEIGHT).all(), "that is the mark of interpolated pixels"


def test_a_stopped_run_goes_on_with_what_is_missing(
    tmp_path: Path, whole: Stack, read: Reader, cell: Cell, enhancer: Enhancer
) -> None:
    prepared = prepare(whole, 0, cell, RestorationOptions(SAMPLING))
    undisturbed = BlockStore(tmp_path / "u", cell, BANDS, "x")
    total = blocks(read, prepared, enhancer, undisturbed, SIDE).blocks

    def stop(what: str, _done: int, _total: int) -> None:
        if what.startswith("block 3 "):
            raise KeyboardInterrupt

    store = BlockStore(tmp_path / "s", cell, BANDS, "x")
    with pytest.raises(KeyboardInterrupt):
        blocks(read, prepared, enhancer, store, SIDE, stop)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "s").glob("*.block")}
    again = BlockStore(tmp_path / "s", cell, BANDS, "x")
    handed: list[ProductLayers] = []
    effort = blocks(read, prepared, enhancer, again, SIDE, done=handed.append)
    assert 0 < len(kept) < total and effort.blocks == total - len(kept)
    assert len({layers.geobox for layers in handed}) == len(handed) == total, "those that were there, too"
    files = {p.name: p.read_bytes() for p in (tmp_path / "s").glob("*.block")}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "u").glob("*.block")}
    assert kept.items() <= files.items()
    assert blocks(read, prepared, enhancer, again, SIDE).tiles == 0


def test_an_error_ends_the_cell_in_its_turn_and_no_more_than_one_region_is_read_ahead(
    monkeypatch: pytest.MonkeyPatch, whole: Stack, read: Reader, cell: Cell, enhancer: Enhancer
) -> None:
    monkeypatch.setattr(blockwise, "_REGION_PX", SIDE)
    handed, before = list[ProductLayers](), list[int]()

    def cut_short(window: Cell) -> Stack:
        before.append(len(handed))
        if len(before) == 4:
            raise UnreadableAsset("cut short")
        return read(window)

    options = RestorationOptions(SAMPLING)
    with pytest.raises(UnreadableAsset, match="cut short"):
        restore_cell(
            cut_short, prepare(whole, 0, cell, options), enhancer, options, None, SIDE, no_progress, handed.append
        )
    assert len(before) == 4 and len(handed) == 3
    assert all(done >= number - 1 for number, done in enumerate(before)), "memory holds no third region"


@pytest.mark.parametrize("more", [True, False])
def test_an_error_behind_reaches_the_caller(more: bool) -> None:
    def full(thing: int) -> None:
        raise OSError(f"no room for {thing}")

    with pytest.raises(OSError, match="no room for 0"), WriteBehind(full) as behind:
        behind(0)
        if more:
            behind(1)
            pytest.fail("the error of the first was lost")
