"""Splits that never move, and the same picture found in two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from de_model.data.check import check_folder
from de_model.data.datasets import REPEATED_TEST_PAIRS, Dataset, Split, hashed_split, split_of
from de_model.data.folders import Problem, Severity
from de_model.data.imagefile import content_hash
from de_model.data.readers import open_dataset
from tests.unit.de_model.data_folders import clouded, picture, save, write_cuhk, write_pairs


def test_rice_splits_have_the_documented_sizes_and_do_not_depend_on_order() -> None:
    for count, test in ((500, 100), (736, 147)):
        names = [str(n) for n in range(count)]
        split = hashed_split(names)
        assert sum(s is Split.TEST for s in split.values()) == test
        assert hashed_split(names[::-1]) == split


def test_the_rice_split_is_frozen() -> None:
    """These very names are tested on; a change would make results incomparable."""
    split = hashed_split([str(n) for n in range(500)])
    chosen = sorted((n for n, s in split.items() if s is Split.TEST), key=int)
    assert chosen[:8] == ["7", "8", "16", "23", "25", "30", "34", "39"]


def test_identical_pictures_stay_on_one_side() -> None:
    names = [str(n) for n in range(200)]
    groups = {name: f"group {int(name) % 60}" for name in names}
    # Linked in a chain: no content is common to all of a group.
    contents = {name: [name, str(int(name) - 60)] for name in names}
    split = hashed_split(names, contents)
    sides = {group: {split[n] for n in names if groups[n] == group} for group in groups.values()}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(s is Split.TEST for s in split.values()) == 40


def test_rice_readers_keep_identical_pictures_together(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE1", range(30))
    for number in range(0, 20, 2):  # the same clear picture, stored once more with other bytes
        save(tmp_path / "RICE1/label" / f"{number + 1}.png", picture(number), compress_level=1)
        save(tmp_path / "RICE1/cloud" / f"{number + 1}.png", clouded(picture(number)) // 2)
    train, test = ({p.files.name for p in open_dataset(tmp_path, split=s)} for s in (Split.TRAIN, Split.TEST))
    assert len(train) + len(test) == 30 and train.isdisjoint(test) and 5 <= len(test) <= 6
    assert all((str(n) in test) == (str(n + 1) in test) for n in range(0, 20, 2))


def test_cells_keep_their_split_and_shares_are_met() -> None:
    cells = [f"MGRS-{zone:02}{a}{b}{c}" for zone in range(1, 31) for a in "TUV" for b in "KLMNP" for c in "ABCDE"]
    splits = [split_of(cell) for cell in cells]
    assert splits == [split_of(cell) for cell in cells]
    for split, share in ((Split.TRAIN, 0.8), (Split.VAL, 0.1), (Split.TEST, 0.1)):
        assert abs(splits.count(split) / len(cells) - share) < 0.02
    wider = [split_of(cell, test_share=0.2) for cell in cells]
    assert all(w is Split.TEST for s, w in zip(splits, wider, strict=True) if s is Split.TEST)


def test_known_repeats_of_cuhk_are_left_out_of_its_test(tmp_path: Path) -> None:
    assert len(REPEATED_TEST_PAIRS[Dataset.CUHK_CR1]) == 36
    write_pairs(tmp_path / "CUHK-CR1/train", range(1, 3))
    write_pairs(tmp_path / "CUHK-CR1/test", [1, 3, 74, 90], first_seed=300)
    names = [p.files.name for p in open_dataset(tmp_path, split=Split.TEST)]
    assert names == ["3", "90"]


def test_a_re_encoded_copy_in_another_split_is_found(tmp_path: Path) -> None:
    write_cuhk(tmp_path, "CUHK-CR1", archive=False)
    write_cuhk(tmp_path, "CUHK-CR2", archive=False, first_seed=1000)
    source = tmp_path / "CUHK-CR2/train"
    for view in ("cloud", "label"):
        pixels = np.asarray(Image.open(source / view / "202.png"))
        copy = save(tmp_path / "CUHK-CR1/test" / view / "201.png", pixels, compress_level=0)
        assert copy.read_bytes() != (source / view / "202.png").read_bytes()
    report = check_folder(tmp_path)
    leaks = [f for f in report.findings if f.problem is Problem.LEAK]
    assert len(leaks) == 1 and leaks[0].severity is Severity.ERROR and not report.usable
    assert "CUHK-CR1/test/201, CUHK-CR2/train/202 hold the same cloudy and clear picture" in leaks[0].message


def test_a_repeat_that_the_readers_leave_out_is_a_warning(tmp_path: Path) -> None:
    write_pairs(tmp_path / "CUHK-CR1/train", [529])
    write_pairs(tmp_path / "CUHK-CR1/test", [1], first_seed=528)
    report = check_folder(tmp_path)
    assert report.usable
    assert any(f.problem is Problem.DUPLICATE and "1 of the test is known" in f.message for f in report.findings)


def test_copies_within_a_split_are_warnings(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE1", range(4))
    save(tmp_path / "RICE1/label/3.png", picture(1))
    report = check_folder(tmp_path)
    found = [f.message for f in report.findings if f.problem is Problem.DUPLICATE]
    assert report.usable and found == ["RICE1/1, RICE1/3 hold the same clear picture."]


def test_hashes_see_content_not_encoding() -> None:
    ground = picture(5).transpose(2, 0, 1)
    assert content_hash(ground) == content_hash(np.asfortranarray(ground)) != content_hash(ground[:, ::-1])
    assert content_hash(ground) != content_hash(ground.astype(np.uint16))
