from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_dilation

from stac.errors import InvalidInput, InvalidItem
from stac.masks.classes import PixelClass, beside_nodata, is_hidden, mark_missing
from stac.masks.combination import dilate, disk, grow
from stac.masks.scene import classify_scl

MASKS = hnp.arrays(np.uint8, (12, 15), elements=st.sampled_from([int(c) for c in PixelClass]))
REACH = st.floats(0, 700)


def test_scene_classes() -> None:
    expected = {
        PixelClass.NODATA: [0],
        PixelClass.DEFECTIVE: [1, 12, 255],
        PixelClass.CLEAR: [2, 4, 5, 6, 7],
        PixelClass.SHADOW: [3],
        PixelClass.CLOUD: [8, 9],
        PixelClass.THIN_CLOUD: [10],
        PixelClass.SNOW: [11],
    }
    values = np.array([*range(12), 12, 255], np.uint8)
    found = dict(zip(values.tolist(), classify_scl(values).tolist(), strict=True))
    for pixel_class, known in expected.items():
        assert {found[value] for value in known} == {pixel_class}


def test_another_raster_is_not_a_scene_classification() -> None:
    with pytest.raises(InvalidItem, match="values up to 100"):
        classify_scl(np.arange(0, 101, dtype=np.uint8))


def test_a_scene_classification_of_floats_is_refused() -> None:
    with pytest.raises(InvalidItem, match="float32"):
        classify_scl(np.zeros((2, 2), np.float32))  # type: ignore[arg-type]


def test_a_disk_is_round_and_in_metres() -> None:
    assert disk(120, 120).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert disk(119, 120).shape == (1, 1)
    assert disk(50, 10).shape == (11, 11)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 25), st.integers(1, 25))), st.floats(0, 150))
def test_growing_is_a_dilation_by_the_disk(mask: np.ndarray, radius: float) -> None:
    assert np.array_equal(grow(mask, radius, 10), binary_dilation(mask, disk(radius, 10)))


def test_cloud_grows_and_wins_over_shadow() -> None:
    row = np.array([[3, 1, 4, 1, 1, 0, 5]], np.uint8)
    assert dilate(row, 10, 10, 20).tolist() == [[3, 3, 4, 4, 4, 0, 5]]


@given(MASKS, REACH, REACH)
def test_dilation_only_hides(classes: np.ndarray, cloud_m: float, shadow_m: float) -> None:
    grown = dilate(classes, 120, cloud_m, shadow_m)
    assert np.array_equal(grown == PixelClass.NODATA, classes == PixelClass.NODATA)
    hidden = is_hidden(classes)
    assert np.array_equal(grown[hidden], classes[hidden]), "never obscured -> clear, never another kind"
    changed = grown != classes
    assert np.isin(classes[changed], (PixelClass.CLEAR, PixelClass.SNOW)).all()
    assert np.isin(grown[changed], (PixelClass.CLOUD, PixelClass.SHADOW)).all()


@given(MASKS)
def test_no_reach_changes_nothing(classes: np.ndarray) -> None:
    assert np.array_equal(dilate(classes, 120, 0, 0), classes)


@given(MASKS, REACH, REACH)
def test_a_longer_reach_hides_no_less(classes: np.ndarray, one: float, other: float) -> None:
    less, more = (is_hidden(dilate(classes, 120, m, m)) for m in sorted((one, other)))
    assert (less <= more).all()


@pytest.mark.parametrize(("gsd", "cloud", "shadow"), [(0, 1, 1), (10, -1, 1), (10, 1, -1)])
def test_negative_distances_are_refused(gsd: float, cloud: float, shadow: float) -> None:
    with pytest.raises(InvalidInput):
        dilate(np.ones((2, 2), np.uint8), gsd, cloud, shadow)


def test_missing_values_are_gaps_inside_the_swath_and_nodata_at_its_edge() -> None:
    mask = np.full((12, 12), PixelClass.CLEAR, np.uint8)
    mask[:, :3] = PixelClass.NODATA
    some, every = np.zeros((2, 12, 12), bool)
    some[:, :4] = every[:, :4] = True  # the bands end one pixel inside of the mask's swath
    some[6, 8] = True  # one band is clipped
    some[9, 7:10] = True  # a line of one band is lost
    mask[11, 7:9] = PixelClass.SHADOW
    some[11, 7:10] = every[11, 7:10] = (
        True  # every band is clipped in shadow; and a pixel that the file's mask leaves out
    )
    mark_missing(mask, some, every, beside_nodata(mask))
    assert (mask[:, :4] == PixelClass.NODATA).all()
    gaps = np.argwhere(mask == PixelClass.DEFECTIVE).tolist()
    assert gaps == [[6, 8], [9, 7], [9, 8], [9, 9]] and mask[11, 9] == PixelClass.NODATA
    assert (mask[11, 7:9] == PixelClass.SHADOW).all(), "hidden as what it is, and grown as such"
    assert (np.delete(mask[0], range(4)) == PixelClass.CLEAR).all()
