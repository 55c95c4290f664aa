"""Data sets on disk: layouts, values, splits that never move, and what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from de_model.data.datasets import FACTS, REPEATED_TEST_PAIRS, Dataset, Split, hashed_split, split_of
from de_model.data.folders import Problem, Severity
from de_model.data.imagefile import content_hash
from de_model.data.pairs import PairData, PatchSampler, ScenePair
from de_model.data.readers import FilePair, Report, check_folder, open_dataset
from de_model.errors import DeModelError, InvalidData
from de_model.radiometry import to_unit

SIZE = 48


def picture(seed: int, bands: int = 3, size: int = SIZE) -> NDArray[np.uint8]:
    """Smooth random ground `(y, x, band)`, or `(y, x)` for one band; another seed looks different."""
    random = np.random.default_rng([77, seed])
    coarse = random.integers(40, 160, (6, 6, bands), np.uint8)
    whole = np.asarray(
        np.stack(
            [Image.fromarray(coarse[..., b]).resize((size, size), Image.Resampling.BICUBIC) for b in range(bands)], -1
        )
    )
    return whole[..., 0] if bands == 1 else whole


def clouded(ground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same ground with its upper half under a bright veil."""
    result = ground.copy()
    half = len(ground) // 2
    result[:half] = 120 + result[:half] // 2
    return result


def save(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_pairs(folder: Path, numbers: Iterable[int], *, mask: bool = False, first_seed: int = 0) -> None:
    """`cloud/` and `label/`, and `mask/` as in RICE2."""
    for number in numbers:
        ground = picture(first_seed + number)
        save(folder / "cloud" / f"{number}.png", clouded(ground))
        save(folder / "label" / f"{number}.png", ground)
        if mask:
            hidden = np.zeros(ground.shape, np.uint8)
            hidden[: SIZE // 2], hidden[SIZE // 2 : SIZE // 2 + 4] = 255, 128
            save(folder / "mask" / f"{number}.png", hidden)


def write_nir(folder: Path, numbers: Iterable[int], first_seed: int = 0) -> None:
    """`cloud/` and `label/` of near infrared: grey stored in three channels."""
    for number in numbers:
        grey = picture(5000 + first_seed + number, 1)
        save(folder / "label" / f"{number}.png", np.repeat(grey[..., None], 3, -1))
        save(folder / "cloud" / f"{number}.png", np.repeat(clouded(grey)[..., None], 3, -1))


def write_cuhk(folder: Path, name: str, *, archive: bool, train: int = 4, test: int = 2, first_seed: int = 0) -> None:
    """CUHK-CR with near infrared, as in its archive or as DE's loader reads it."""
    for split, count, seed in (("train", train, first_seed), ("test", test, first_seed + 500)):
        numbers = range(200, 200 + count)
        write_pairs(folder / name / split, numbers, first_seed=seed)
        nir = folder / "nir" / name / split if archive else folder / name / split / "nir"
        write_nir(nir, numbers, first_seed=seed)


def problems(report: Report, severity: Severity = Severity.ERROR) -> list[Problem]:
    return [f.problem for f in report.findings if f.severity is severity]


def whole(pair: FilePair) -> ScenePair:
    height, width = pair.shape
    return pair.window(slice(0, height), slice(0, width))


def test_rice1_is_read_as_the_paper_feeds_it(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE1", range(12))
    pairs = open_dataset(tmp_path / "RICE1")
    assert [pair.name for pair in pairs][:3] == ["RICE1/0", "RICE1/1", "RICE1/2"]
    assert pairs[-1].name == "RICE1/11"
    assert pairs[0].files.dataset is Dataset.RICE1 and pairs[0].bands == ("red", "green", "blue")
    read = whole(pairs[3])
    stored = np.asarray(Image.open(tmp_path / "RICE1/label/3.png")).transpose(2, 0, 1)
    import torch

    assert torch.allclose(to_unit(torch.from_numpy(read.clear)), torch.from_numpy(stored / np.float32(255)), atol=1e-7)
    assert read.valid.all()
    assert read.obscured[: SIZE // 2 - 2].all() and not read.obscured[SIZE // 2 + 3 :].any()


def test_rice2_takes_cloud_and_shadow_from_its_mask(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE2", range(3), mask=True)
    (pair, *_) = open_dataset(tmp_path)
    assert pair.gsd_m == 30
    assert whole(pair).obscured.sum() == (SIZE // 2 + 4) * SIZE


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("top", ["C-CUHK - 副本", "cloud/label", "label/nir/cloud"])
def test_cuhk_is_read_in_both_layouts_below_any_folder(tmp_path: Path, archive: bool, top: str) -> None:
    write_cuhk(tmp_path / top, "CUHK-CR1", archive=archive)
    write_cuhk(tmp_path / top, "CUHK-CR2", archive=archive, first_seed=1000)
    pairs = open_dataset(tmp_path / top / "CUHK-CR1", Split.TEST)
    assert [pair.name for pair in pairs] == ["CUHK-CR1/test/200", "CUHK-CR1/test/201"]
    assert pairs[0].bands == ("red", "green", "blue", "nir") and pairs[0].gsd_m == 0.5
    nir = np.asarray(Image.open(pairs[0].files.nir_clear))[..., 0]
    assert np.allclose(np.sqrt(whole(pairs[0]).clear[3]) * 255, nir, atol=1e-3)
    assert len(open_dataset(tmp_path / top / "CUHK-CR2", Split.TRAIN)) == 4
    with pytest.raises(InvalidData, match="holds CUHK-CR1, CUHK-CR2; give the folder of one"):
        open_dataset(tmp_path / top if "nir" in top else tmp_path)


def test_split_layout_serves_every_name(tmp_path: Path) -> None:
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        write_pairs(tmp_path / "RICE1" / split, numbers)
    assert len(open_dataset(tmp_path, split=Split.TRAIN)) == 5
    assert len(open_dataset(tmp_path, split=Split.TEST)) == 2
    assert len(open_dataset(tmp_path)) == 7
    with pytest.raises(InvalidData, match="no val pair of RICE1"):
        open_dataset(tmp_path, split=Split.VAL)


def test_bands_are_chosen_by_name(tmp_path: Path) -> None:
    write_cuhk(tmp_path, "CUHK-CR1", archive=True)
    every, some = open_dataset(tmp_path), open_dataset(tmp_path, bands=("nir", "red"))
    assert some[0].channels == 2
    assert np.array_equal(whole(some[0]).clear, whole(every[0]).clear[[3, 0]])
    with pytest.raises(InvalidData, match="no band thermal; it has red"):
        open_dataset(tmp_path, bands=("thermal",))


def test_a_plain_folder_may_hold_16_bit_tiff(tmp_path: Path) -> None:
    for view, value in (("cloud", 6000), ("label", 1500)):
        (tmp_path / "mine" / view).mkdir(parents=True)
        pixels = np.full((SIZE, SIZE, 3), value, np.uint16)
        tifffile.imwrite(tmp_path / "mine" / view / "a.tif", pixels, photometric="rgb")
    (pair,) = open_dataset(tmp_path)
    assert pair.bands == ("red", "green", "blue") and np.allclose(whole(pair).clear, 0.15)


def test_patches_come_from_files_and_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    write_cuhk(tmp_path, "CUHK-CR2", archive=True)
    first, second = (PatchSampler(open_dataset(tmp_path, split=Split.TRAIN), 32, 1, 3) for _ in range(2))
    a, b = first.batch(5, 6), second.batch(5, 6)
    assert a.cloudy.shape == (6, 4, 32, 32)
    assert a.cloudy.equal(b.cloudy) and not a.cloudy.equal(first.batch(6, 6).cloudy)


def test_a_window_is_the_same_part_of_the_whole(tmp_path: Path) -> None:
    write_pairs(tmp_path, range(1))
    (pair,) = open_dataset(tmp_path)
    everything = whole(pair)
    for rows, columns in ((slice(0, 20), slice(28, 48)), (slice(15, 40), slice(3, 28)), (slice(0, 48), slice(0, 48))):
        part = pair.window(rows, columns)
        assert np.array_equal(part.cloudy, everything.cloudy[:, rows, columns])
        assert np.array_equal(part.obscured, everything.obscured[rows, columns])


def test_fingerprint_sees_pixels_bands_and_weights(tmp_path: Path) -> None:
    write_pairs(tmp_path, range(3))
    pairs = open_dataset(tmp_path)
    prints = {
        PairData(pairs).fingerprint,
        PairData(open_dataset(tmp_path, bands=("green",))).fingerprint,
        PairData(pairs[1:]).fingerprint,
    }
    assert len(prints) == 3 and PairData(open_dataset(tmp_path)).fingerprint in prints
    save(tmp_path / "label" / "0.png", picture(99))
    assert PairData(open_dataset(tmp_path)).fingerprint not in prints


def test_a_good_folder_has_no_finding_but_its_size(tmp_path: Path) -> None:
    write_cuhk(tmp_path, "CUHK-CR1", archive=True)
    seen: list[tuple[int, int]] = []
    report = check_folder(tmp_path, on_pair=lambda done, total: seen.append((done, total)))
    assert report.usable and set(problems(report, Severity.WARNING)) == {Problem.PAIR_COUNT}
    assert sum(count.pairs for count in report.counts) == 6
    assert seen[-1] == (6, 6)


def test_unknown_layout_names_what_is_known_and_what_was_found(tmp_path: Path) -> None:
    for name in ("images/a.png", "targets/a.png"):
        save(tmp_path / name, picture(0))
    report = check_folder(tmp_path)
    assert problems(report) == [Problem.UNKNOWN_LAYOUT]
    message = report.findings[0].message
    assert "{cloud,label}" in message and "images/, targets/" in message
    with pytest.raises(InvalidData, match="no known layout"):
        open_dataset(tmp_path)
    with pytest.raises(InvalidData, match="is not a folder"):
        open_dataset(tmp_path / "absent")


def test_empty_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "RICE1/cloud").mkdir(parents=True)
    (tmp_path / "RICE1/label").mkdir()
    report = check_folder(tmp_path)
    assert problems(report) == [Problem.EMPTY_FOLDER] * 2
    assert "RICE1/label holds no picture" in report.findings[1].message
    with pytest.raises(InvalidData, match=r"cloud holds no picture .* \(and 1 more"):
        open_dataset(tmp_path)


def test_unpaired_files_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE2", range(4), mask=True)
    (tmp_path / "RICE2/label/1.png").unlink()
    (tmp_path / "RICE2/mask/2.png").unlink()
    report = check_folder(tmp_path)
    text = " ".join(f.message for f in report.findings)
    assert problems(report) == [Problem.UNPAIRED] * 2
    assert "cloud/1.png has no counterpart 1 in" in text and "cloud/2.png has no counterpart 2 in" in text
    with pytest.raises(InvalidData, match=r"cloud/1\.png has no counterpart"):
        open_dataset(tmp_path)


def test_missing_nir_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "CUHK-CR1/train", range(3))
    write_nir(tmp_path / "nir/CUHK-CR1/train", range(2))
    assert "2.png has no counterpart 2 in" in check_folder(tmp_path).findings[0].message
    write_pairs(tmp_path / "CUHK-CR1/test", range(3))
    assert "near infrared for some splits and none for test" in check_folder(tmp_path).findings[0].message


def test_names_that_differ_in_the_suffix_alone_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, range(2))
    save(tmp_path / "cloud" / "1.jpg", picture(1))
    assert problems(check_folder(tmp_path)) == [Problem.AMBIGUOUS]


def damage(folder: Path, kind: str) -> None:
    """Spoil the second pair of a RICE1 folder."""
    path = folder / "cloud" / "1.png"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not found")
    elif kind == "grey":
        save(path, picture(1, 1))
    elif kind == "alpha":
        Image.open(path).convert("RGBA").save(path)
    elif kind == "palette":
        Image.open(path).convert("P").save(path)
    elif kind == "16 bit":
        Image.fromarray(picture(1, 1).astype(np.uint16) * 200).save(path)
    elif kind == "16 bit tiff":
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), picture(1).astype(np.uint16) * 200, photometric="rgb")
    elif kind == "smaller":
        save(path, picture(1, size=SIZE - 8))


@pytest.mark.parametrize(
    ("kind", "problem", "words"),
    [
        ("truncated", Problem.UNREADABLE, "cannot be read"),
        ("empty", Problem.UNREADABLE, "cannot be read"),
        ("text", Problem.UNREADABLE, "cannot be read"),
        ("grey", Problem.BAND_COUNT, "has 1 bands, RICE1 has 3"),
        ("alpha", Problem.BAND_COUNT, "has 4 bands, RICE1 has 3"),
        ("palette", Problem.UNREADABLE, "mode P"),
        ("16 bit", Problem.SAMPLE_TYPE, "16-bit samples, 8-bit ones are expected"),
        ("16 bit tiff", Problem.SAMPLE_TYPE, "has uint16 samples, RICE1 has uint8"),
        ("smaller", Problem.SIZE, r"differ in size: .*40 x 40.*48 x 48"),
    ],
)
def test_bad_pictures_are_named_by_checker_and_reader_alike(
    tmp_path: Path, kind: str, problem: Problem, words: str
) -> None:
    write_pairs(tmp_path / "RICE1", range(3))
    damage(tmp_path / "RICE1", kind)
    report = check_folder(tmp_path)
    assert problem in problems(report) and not report.usable
    sentences = [f.message for f in report.findings if f.problem is problem]
    with pytest.raises(InvalidData, match=words) as raised:
        whole(open_dataset(tmp_path)[1])
    assert str(raised.value).split(" (and ")[0] == sentences[0]
    assert "1.png" in sentences[0] or "1.tif" in sentences[0]


def test_lzw_is_reported_not_guessed(tmp_path: Path) -> None:
    write_pairs(tmp_path / "mine", range(1))
    (tmp_path / "mine/cloud/0.png").unlink()
    Image.fromarray(picture(0)).save(tmp_path / "mine/cloud/0.tif", compression="tiff_lzw")
    with pytest.raises(InvalidData, match="compressed with LZW"):
        whole(open_dataset(tmp_path)[0])


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE1", range(2))
    (tmp_path / "RICE1/cloud/._0.png").write_bytes(b"resource fork")
    (tmp_path / "RICE1/cloud/Thumbs.db").write_bytes(b"x")
    assert check_folder(tmp_path).usable


def test_names_alone_are_checked_without_opening_a_picture(tmp_path: Path) -> None:
    write_pairs(tmp_path / "RICE1", range(2))
    damage(tmp_path / "RICE1", "text")
    assert check_folder(tmp_path, pixels=False).usable


def test_invalid_data_is_invalid_input() -> None:
    from flows.errors import exit_status

    assert issubclass(InvalidData, DeModelError) and exit_status(InvalidData("x")) == 2
    assert set(FACTS) == set(Dataset)


def test_the_command_prints_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from flows.cli import app

    write_pairs(tmp_path / "RICE1", range(2))
    assert not app(["data", "check", str(tmp_path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["usable"] is True
    shutil.rmtree(tmp_path / "RICE1/label")
    assert app(["data", "check", str(tmp_path), "--json"], standalone_mode=False) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0]["problem"] == "empty folder"


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
