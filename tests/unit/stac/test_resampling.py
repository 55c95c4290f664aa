"""Scenes on other grids: what is drawn, that windows do not change it, and files that lie elsewhere than told."""

from __future__ import annotations

import numpy as np
import pystac
import pytest
import rasterio

from stac.errors import InvalidItem
from stac.grid.cell import cell_of
from stac.grid.fixed import GridSpec
from stac.load.resampling import Interpolation, worst_class
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass

AS_IS = ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0)
INSIDE = (15.6, 45.75, 15.61, 45.76)


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_a_window_of_a_warped_cell_has_the_pixels_of_the_whole(
    twl: list[pystac.Item], interpolation: Interpolation
) -> None:
    (cell,) = GridSpec(100, 400, crs=3035).cells(INSIDE)
    options = ReadOptions(0, 0, interpolation=interpolation)
    whole = read_stack(twl[:1], cell, ("blue",), options)
    assert (whole.dn > 0).mean() > 0.5
    for rows, columns in ((slice(0, 100), slice(0, 400)), (slice(131, 333), slice(77, 299))):
        part = read_stack(twl[:1], cell.window(rows, columns), ("blue",), options)
        assert np.array_equal(part.dn, whole.dn[:, :, rows, columns])
        assert np.array_equal(part.classes, whole.classes[:, rows, columns])


def test_bilinear_and_cubic_differ(twl: list[pystac.Item]) -> None:
    (cell,) = GridSpec(60, 128).cells(INSIDE)
    linear, cubic = (
        read_stack(twl[:1], cell, ("blue",), ReadOptions(0, 0, interpolation=how)).dn for how in Interpolation
    )
    assert (linear != cubic).mean() > 0.5 and np.abs(linear.astype(int) - cubic).mean() < 100


def test_a_coarser_grid_gets_means_and_the_worst_class(twl: list[pystac.Item]) -> None:
    """Cells of 360 m that hold 3 by 3 pixels each."""
    spec = GridSpec(360, 64, origin_m=(517620 % 360, 5100000 % 360))
    (cell,) = spec.cells(INSIDE)
    stack = read_stack(twl[:1], cell, ("blue",), AS_IS)
    fine = read_stack(twl[:1], cell.refined(3), ("blue",), AS_IS)
    blocks = fine.dn[0, 0].reshape(64, 3, 64, 3).astype(float)
    full = (blocks > 0).all(axis=(1, 3)) & (stack.dn[0, 0] > 0)
    assert full.mean() > 0.5
    assert np.abs(stack.dn[0, 0] - blocks.mean(axis=(1, 3)))[full].max() <= 0.51
    classes = fine.classes[0].reshape(64, 3, 64, 3)
    cloudy = (classes == PixelClass.CLOUD).any(axis=(1, 3)) & full
    assert cloudy.any() and (stack.classes[0][cloudy] == PixelClass.CLOUD).all()
    clear = (classes == PixelClass.CLEAR).all(axis=(1, 3))
    assert clear.any() and (stack.classes[0][clear] == PixelClass.CLEAR).all()


def test_the_worst_class_wins_without_ties() -> None:
    n, c, t, k, s, w, d = (int(p) for p in PixelClass)
    blocks = np.array([[c, c, n, n, n, n, w, w], [c, k, n, c, c, c, w, c]], np.uint8)
    assert worst_class(blocks, 2).tolist() == [[k, n, c, w]]
    assert worst_class(np.array([[s, t], [c, c]], np.uint8), 2).tolist() == [[t]]
    assert worst_class(np.array([[s, n], [n, n]], np.uint8), 2).tolist() == [[s]]
    assert worst_class(np.array([[d, c], [c, n]], np.uint8), 2).tolist() == [[d]]
    assert worst_class(np.array([[d, s], [c, n]], np.uint8), 2).tolist() == [[s]]
    assert worst_class(blocks, 1) is blocks


@pytest.mark.parametrize(
    ("field", "value", "both"),
    [
        ("proj:shape", [480, 767], r"\[480, 767\].*\[480, 768\]"),
        ("proj:transform", [120, 0, 517740, 0, -120, 5100000], r"\[120, 0, 517740.*517620"),
        ("proj:transform", [10, 0, 517620, 0, -10, 5100000], r"\[10, 0.*\[120.0"),
        ("proj:code", "EPSG:32634", r"EPSG:32634.*EPSG:32633"),
    ],
)
def test_a_file_that_lies_elsewhere_than_reported_is_refused(
    twl: list[pystac.Item], field: str, value: object, both: str
) -> None:
    cell = cell_of(twl[0], "blue", INSIDE)
    twl[0].assets["blue"].extra_fields[field] = value
    with pytest.raises(InvalidItem, match=rf"{twl[0].id}, asset blue: .*{field} {both}"):
        read_stack(twl[:1], cell, ("blue",))


def test_what_is_not_declared_is_not_compared(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue", INSIDE)
    expected = read_stack(twl[:1], cell, ("blue",)).dn
    for name in ("proj:shape", "proj:transform"):
        twl[0].assets["blue"].extra_fields.pop(name)
    assert np.array_equal(read_stack(twl[:1], cell, ("blue",)).dn, expected)
    with rasterio.open(twl[0].assets["blue"].href) as source:
        assert cell_of(twl[0], "blue").geobox.shape == source.shape
