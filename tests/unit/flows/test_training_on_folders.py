"""Training and ablations on data sets on disk, in the layout of CUHK-CR."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.ablations import cross_data
from benchmarks.ablations.setting import Setting
from de_model import checkpoint
from de_model.errors import InvalidData
from flows.cli import app
from flows.errors import InvalidSettings

_SIZE = 64


pytestmark = pytest.mark.usefixtures("one_thread")


def write_folder(folder: Path, pairs: int = 3) -> Path:
    """Write ground, and the same ground with half of it under a veil."""
    for place, split in enumerate(("train", "test")):
        for number in range(pairs):
            random = np.random.default_rng([place, number])
            coarse = Image.fromarray(random.integers(40, 160, (8, 8, 3), np.uint8))
            ground = np.asarray(coarse.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
            veiled = ground.copy()
            veiled[: _SIZE // 2] = 120 + veiled[: _SIZE // 2] // 2
            for view, picture in (("cloud", veiled), ("label", ground)):
                path = folder / split / view / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    return folder


def train_on(folder: Path, out: Path, *more: str) -> dict[str, object]:
    options = [
        "train",
        "--data",
        str(folder),
        "--out",
        str(out),
        "--preset",
        "tiny",
        "--effort",
        "0.02",
        "--batch",
        "2",
    ]
    done = CliRunner().invoke(app, [*options, "--no-mlflow", "--json", *more], catch_exceptions=False)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_a_data_set_is_trained_on_by_its_training_part(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "CUHK-CR1")
    document = train_on(folder, tmp_path / "model.safetensors")
    card = checkpoint.read_card(tmp_path / "model.safetensors")
    assert card.bands == ("red", "green", "blue") and card.gsd_m == 0.5
    assert card.trained_on == "CUHK-CR1, 3 pairs of its training part"
    assert document["pairs"] == [f"CUHK-CR1/train/{number}" for number in range(3)]


def test_pixels_of_unknown_size_must_be_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    with pytest.raises(InvalidSettings, match="--gsd METRES"):
        train_on(folder, tmp_path / "model.safetensors")
    train_on(folder, tmp_path / "model.safetensors", "--gsd", "3", "--stage", "reference")
    assert checkpoint.read_card(tmp_path / "model.safetensors").gsd_m == 3


def test_a_folder_and_cells_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="train on one of them"):
        train_on(write_folder(tmp_path / "CUHK-CR1"), tmp_path / "model.safetensors", "--cell", "MGRS-33TWM")


def test_nothing_to_train_on_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="give --cell"):
        CliRunner().invoke(app, ["train", "--out", str(tmp_path / "m.safetensors")], catch_exceptions=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="empty"):
        train_on(tmp_path / "empty", tmp_path / "model.safetensors")


def test_a_data_set_is_one_more_kind_of_the_cross_data_ablation(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "CUHK-CR2")
    findings = cross_data.run(Setting(tmp_path / "unused", windows=1, steps=1, data=folder))
    judged = {(row["trained_on"], row["judged_on"]) for row in findings.table.records()}
    assert len(judged) == 9 and ("real pairs", "CUHK-CR2") in judged
