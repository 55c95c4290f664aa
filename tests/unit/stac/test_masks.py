"""Masks: growth, gaps and edges of a swath, and several masks combined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_dilation

from stac.errors import InvalidInput
from stac.masks.classes import PixelClass, beside_nodata, is_hidden, mark_missing
from stac.masks.combination import MaskRule, Opinion, combine, dilate, disk, grow

MASKS = hnp.arrays(np.uint8, (12, 15), elements=st.sampled_from([int(c) for c in PixelClass]))
REACH = st.floats(0, 700)


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


N, CLR, THIN, CLD, SHD, SNW, DEF = (int(c) for c in PixelClass)
ALL_KINDS = frozenset(PixelClass)
CLOUD_ONLY = frozenset({PixelClass.CLOUD})
OPINIONS = hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from([int(c) for c in PixelClass]))


def voted(rule: MaskRule, *votes: int, sees: tuple[frozenset[PixelClass], ...] | None = None) -> int:
    kinds = sees or (ALL_KINDS,) * len(votes)
    opinions = [Opinion(np.array([[vote]], np.uint8), kind) for vote, kind in zip(votes, kinds, strict=True)]
    return int(combine(opinions, rule)[0, 0])


@pytest.mark.parametrize(
    ("votes", "by_any", "by_all", "by_majority", "by_first"),
    [
        ((CLR, CLR, CLR), CLR, CLR, CLR, CLR),
        ((CLD, CLR, CLR), CLD, CLR, CLR, CLD),
        ((CLD, CLD, CLR), CLD, CLR, CLD, CLD),
        ((CLD, CLD, CLD), CLD, CLD, CLD, CLD),
        ((CLR, SHD, SHD), SHD, CLR, SHD, CLR),
        # cloud and thin cloud are one question
        ((THIN, THIN, THIN), THIN, THIN, THIN, THIN),
        ((THIN, THIN, CLD), CLD, CLD, CLD, THIN),
        ((THIN, CLR, THIN), THIN, CLR, THIN, THIN),
        # hidden, whatever hides it
        ((SHD, CLD, THIN), CLD, CLD, CLD, SHD),
        ((SHD, CLD, CLR), CLD, CLR, CLD, SHD),
        ((SNW, SNW, CLR), SNW, CLR, SNW, SNW),
        ((SNW, CLD, SNW), CLD, CLR, SNW, SNW),
        ((DEF, CLR, CLR), DEF, CLR, CLR, DEF),
        # nodata wins; the first mask that knows answers
        ((N, CLD, CLR), N, N, N, CLD),
        ((CLR, N, CLD), N, N, N, CLR),
        ((N, N, N), N, N, N, N),
    ],
)
def test_votes(votes: tuple[int, ...], by_any: int, by_all: int, by_majority: int, by_first: int) -> None:
    found = [voted(rule, *votes) for rule in (MaskRule.ANY, MaskRule.ALL, MaskRule.MAJORITY, MaskRule.FIRST)]
    assert found == [by_any, by_all, by_majority, by_first]


@pytest.mark.parametrize("rule", [MaskRule.ANY, MaskRule.ALL, MaskRule.MAJORITY])
def test_a_mask_has_no_vote_on_what_it_does_not_know(rule: MaskRule) -> None:
    sees = (ALL_KINDS, CLOUD_ONLY)
    assert voted(rule, SHD, CLR, sees=sees) == SHD
    assert voted(rule, SNW, CLR, sees=sees) == SNW
    assert voted(rule, THIN, CLD, sees=sees) == THIN, "only the first can tell how thick it is"
    assert voted(rule, CLD, CLR, sees=sees) == (CLD if rule is MaskRule.ANY else CLR)


def test_no_mask_is_refused() -> None:
    with pytest.raises(InvalidInput, match="name at least one"):
        combine([], MaskRule.ANY)


@given(st.lists(OPINIONS, min_size=1, max_size=4), st.sampled_from(MaskRule))
def test_equal_masks_make_the_same_mask(masks: list[np.ndarray], rule: MaskRule) -> None:
    same = [Opinion(masks[0], ALL_KINDS)] * len(masks)
    assert np.array_equal(combine(same, rule), masks[0])


@given(st.lists(OPINIONS, min_size=2, max_size=4))
def test_stricter_rules_hide_less(masks: list[np.ndarray]) -> None:
    opinions = [Opinion(mask, ALL_KINDS) for mask in masks]
    every, most, one = (is_hidden(combine(opinions, r)) for r in (MaskRule.ALL, MaskRule.MAJORITY, MaskRule.ANY))
    assert (every <= most).all()
    assert (most <= one).all()
