"""Dates that lie beside each other, on ground that is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter, shift

from stac.composite.coregistration import find_shifts, read_registered
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed

BANDS = ("blue", "green", "red", "nir")
SIDE, PAD = 320, 40
GEOBOX = GeoBox((SIDE, SIDE), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")


def ground() -> np.ndarray:
    """Fields with borders, twice as large as needed."""
    random = np.random.default_rng(5)
    blocks = random.random((4, 60, 60)).repeat(8, axis=1).repeat(8, axis=2)[:, : SIDE + 2 * PAD, : SIDE + 2 * PAD]
    return gaussian_filter(1000 + 3000 * blocks, (0, 0.8, 0.8))


def world(*shifts: tuple[float, float]) -> Callable[[Cell], Stack]:
    """Return what reads a reference and dates that lie off by so much, brighter, with noise and a cloud each."""
    random, base = np.random.default_rng(6), ground()
    dates = [base, *(shift(base, (0, *by), order=3, mode="nearest") * 1.1 + 80 for by in shifts)]
    noisy = [np.rint(date + random.normal(0, 20, date.shape)).astype(np.uint16) for date in dates]
    classes = np.full((len(dates), *base.shape[1:]), PixelClass.CLEAR, np.uint8)
    for number in range(1, len(dates)):
        classes[number, 60 * number : 60 * number + 40, 80:150] = PixelClass.CLOUD

    def read(cell: Cell) -> Stack:
        column, row = (round(v) for v in GEOBOX.wld2pix(cell.geobox.affine.c, cell.geobox.affine.f))
        at = np.s_[
            ..., row + PAD : row + PAD + cell.geobox.shape[0], column + PAD : column + PAD + cell.geobox.shape[1]
        ]
        names = tuple(f"date{i}" for i in range(len(dates)))
        days = np.arange(len(dates), dtype=np.int32)
        return Stack(np.stack(noisy)[at], classes[at], names, days, BANDS, cell)

    return read


WHOLE = Cell("T", GEOBOX)


@pytest.mark.parametrize("by", [(0.0, 0.0), (0.8, -1.3), (-2.4, 0.6), (0.3, 0.3)])
def test_a_shift_is_found_to_a_tenth_of_a_pixel(by: tuple[float, float]) -> None:
    found = find_shifts(world(by)(WHOLE), 0)["date1"]
    assert (found.rows, found.columns) == (pytest.approx(by[0], abs=0.12), pytest.approx(by[1], abs=0.12))
    assert found.matters == (np.hypot(*by) > 0.5)


def test_dates_are_read_where_they_belong_and_the_reference_as_it_is() -> None:
    read = world((0.8, -1.3), (0.1, 0.1))
    plain = read(WHOLE)
    moved = read_registered(read, WHOLE, find_shifts(plain, 0))
    assert np.array_equal(moved.dn[[0, 2]], plain.dn[[0, 2]]), "what lies right stays bit for bit"
    seen = is_observed(moved.classes[1])

    def error(stack: Stack) -> float:
        difference = stack.dn[1].astype(float) - (stack.dn[0] * 1.1 + 80)
        return float(np.abs(difference[:, seen]).mean())

    assert error(moved) < 0.4 * error(plain)
    cloud = moved.classes[1] == PixelClass.CLOUD
    assert cloud.sum() == pytest.approx((plain.classes[1] == PixelClass.CLOUD).sum(), rel=0.05)


def test_a_window_is_read_as_the_whole() -> None:
    read = world((1.6, 0.7))
    shifts = find_shifts(read(WHOLE), 0)
    whole = read_registered(read, WHOLE, shifts)
    rows, columns = slice(33, 190), slice(20, 300)
    part = read_registered(read, WHOLE.window(rows, columns), shifts)
    assert np.array_equal(part.dn, whole.dn[:, :, rows, columns])
    assert np.array_equal(part.classes, whole.classes[:, rows, columns])


def test_other_ground_has_no_shift() -> None:
    stack = world((0.0, 0.0))(WHOLE)
    stack.dn[1] = np.random.default_rng(8).integers(500, 4000, stack.dn[1].shape)
    assert find_shifts(stack, 0) == {}
