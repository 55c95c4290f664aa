"""Votes of several masks, and ground that is called cloud on every date."""

from __future__ import annotations

import numpy as np
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stac.errors import InvalidInput
from stac.grid.cell import cell_of
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.masks.classes import PixelClass, is_hidden
from stac.masks.combination import MaskRule, Opinion, combine
from stac.masks.scene import persistent_bright, without_persistent_bright

N, CLR, THIN, CLD, SHD, SNW, DEF = (int(c) for c in PixelClass)
ALL_KINDS = frozenset(PixelClass)
CLOUD_ONLY = frozenset({PixelClass.CLOUD})
BANDS = ("blue", "green", "red", "nir")
MASKS = hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from([int(c) for c in PixelClass]))


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


@given(st.lists(MASKS, min_size=1, max_size=4), st.sampled_from(MaskRule))
def test_equal_masks_make_the_same_mask(masks: list[np.ndarray], rule: MaskRule) -> None:
    same = [Opinion(masks[0], ALL_KINDS)] * len(masks)
    assert np.array_equal(combine(same, rule), masks[0])


@given(st.lists(MASKS, min_size=2, max_size=4))
def test_stricter_rules_hide_less(masks: list[np.ndarray]) -> None:
    opinions = [Opinion(mask, ALL_KINDS) for mask in masks]
    every, most, one = (is_hidden(combine(opinions, r)) for r in (MaskRule.ALL, MaskRule.MAJORITY, MaskRule.ANY))
    assert (every <= most).all()
    assert (most <= one).all()


# --- ground called cloud on every date ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(sample_items: list[pystac.Item]) -> Stack:
    """Five real dates of one tile, 69 % to 0.2 % cloud, masks as delivered."""
    chosen = [item for item in sample_items if "33TWL" in item.id]
    return read_stack(chosen, cell_of(chosen[0], "blue"), BANDS, ReadOptions(0, 0))


def test_no_true_cloud_of_the_sample_is_taken_for_ground(stack: Stack) -> None:
    """26 pixels are called cloud on four of five dates; their values vary far too much."""
    assert not persistent_bright(stack.dn, stack.classes, stack.days).any()


def test_a_mask_that_calls_everything_cloud_is_corrected_on_stable_ground_only(stack: Stack) -> None:
    everything = np.where(stack.classes == N, N, CLD).astype(np.uint8)
    found = persistent_bright(stack.dn, everything, stack.days)
    assert found.any()
    truly = (stack.classes == CLD).any(axis=0)
    assert (found & truly).sum() < 1e-3 * truly.sum(), "under a true cloud the values change"


def roof(reflectance: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dn = np.rint(np.array(reflectance)[:, None, None, None] * 1e4).astype(np.uint16).repeat(4, axis=1)
    return dn, np.full((len(reflectance), 1, 1), CLD, np.uint8), np.arange(0, 3 * len(reflectance), 3, dtype=np.int32)


def test_a_roof_is_ground() -> None:
    dn, classes, days = roof([0.50, 0.52, 0.49, 0.51, 0.48])
    classes[2] = CLR
    assert without_persistent_bright(dn, classes, days).ravel().tolist() == [CLR] * 5


@pytest.mark.parametrize("reflectance", [[0.5, 0.52, 0.49, 0.7, 0.5], [0.5, 0.51, 0.5], [0.5, 0.42, 0.5, 0.5]])
def test_what_changes_or_is_seen_too_rarely_stays_cloud(reflectance: list[float]) -> None:
    dn, classes, days = roof(reflectance)
    assert not persistent_bright(dn, classes, days).any()


def test_scenes_of_one_day_count_once() -> None:
    dn, classes, days = roof([0.5] * 5)
    assert persistent_bright(dn, classes, days).all()
    days[:3] = days[0]
    assert not persistent_bright(dn, classes, days).any()


def test_one_band_that_changes_is_enough_to_stay_cloud() -> None:
    dn, classes, days = roof([0.5] * 5)
    dn[1, 3] = 7000
    assert not persistent_bright(dn, classes, days).any()


def test_dates_without_data_do_not_count() -> None:
    dn, classes, days = roof([0.5] * 5)
    dn[0], classes[0] = 0, N
    found = without_persistent_bright(dn, classes, days)
    assert found.ravel().tolist() == [N, CLR, CLR, CLR, CLR]
    dn[1, 2] = 0
    assert not persistent_bright(dn, classes, days).any(), "three days are left"


def test_the_rule_looks_the_same_through_a_window(twl: list[pystac.Item]) -> None:
    """Ground behind the edge of a window is judged like ground inside, so what it casts in is the same."""
    options = ReadOptions(persistent_bright=True)
    whole, part = cell_of(twl[0], "blue"), cell_of(twl[0], "blue", (15.4, 45.6, 15.6, 45.8))
    row, column = (int(n) for n in part.id.rsplit("-r", 1)[1].split("h")[0].split("c"))
    wide, small = (read_stack(twl, cell, ("blue", "nir"), options) for cell in (whole, part))
    rows, columns = (slice(start, start + n) for start, n in zip((row, column), part.geobox.shape, strict=True))
    assert np.array_equal(small.classes, wide.classes[:, rows, columns])
    assert np.array_equal(small.dn, wide.dn[:, :, rows, columns])
