"""What is kept between runs: the last units, and the pairs since the last training."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pystac
import pytest

from flows.drift import shelf
from flows.drift.histogram import Histogram
from flows.drift.pairs import NewPairs, add_pairs, announce, candidate_pairs, trained_pairs
from flows.drift.statistics import UnitStatistics
from flows.errors import InvalidBaseline
from flows.retraining import training_set
from flows.retraining.training_set import PairEntry, TrainingSet


def unit(name: str) -> UnitStatistics:
    return UnitStatistics(name, {"sky": Histogram((1, 0, 2, 0, 0, 0))})


def test_the_last_units_of_a_model_are_found_latest_first(tmp_path: Path) -> None:
    for moment, (name, model) in enumerate([("a", "m"), ("b", "m"), ("c", "other"), ("d", "m")]):
        shelf.keep(tmp_path, name, model, unit(name))
        os.utime(tmp_path / "drift" / "units" / f"{name}.json", (moment, moment))
    assert [found.name for found in shelf.last(tmp_path, 2, "m")] == ["d", "b"]
    assert shelf.last(tmp_path, 9, "m")[-1] == unit("a")
    assert [found.name for found in shelf.of_units(tmp_path, ["c", "missing"])] == ["c"]
    assert shelf.last(tmp_path / "nowhere", 5, "m") == ()


def test_a_unit_made_again_counts_once_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "KEPT", 2)
    for moment, name in enumerate("aabc"):
        shelf.keep(tmp_path, name, "m", unit(name))
        os.utime(tmp_path / "drift" / "units" / f"{name}.json", (moment, moment))
    assert [found.name for found in shelf.last(tmp_path, 9, "m")] == ["c", "b"]


def test_broken_statistics_are_named(tmp_path: Path) -> None:
    shelf.keep(tmp_path, "a", "m", unit("a"))
    (tmp_path / "drift" / "units" / "a.json").write_text("{")
    with pytest.raises(InvalidBaseline, match=r"a\.json"):
        shelf.last(tmp_path, 1, "m")


def scene(day: int, cover: float | None, square: str = "MGRS-33TWM") -> pystac.Item:
    moment = datetime(2023, 8, day, 10, tzinfo=UTC)
    properties = {"grid:code": square} | ({} if cover is None else {"eo:cloud_cover": cover})
    return pystac.Item(f"S{day}{square[-1]}", None, None, moment, properties)


def test_pairs_are_of_one_square_and_near_in_time() -> None:
    scenes = [scene(1, 50), scene(3, 2), scene(20, 1), scene(4, 99), scene(5, None), scene(2, 3, "MGRS-33TWL")]
    assert candidate_pairs(scenes, 10) == {"S1M <- S3M"}
    assert candidate_pairs(scenes, 30) == {"S1M <- S3M", "S1M <- S20M"}


def test_pairs_are_counted_once_told_once_and_forgotten_when_trained_on(tmp_path: Path) -> None:
    assert add_pairs(tmp_path, {"a <- b", "c <- b"}, set()) == NewPairs(("a <- b", "c <- b"), 0)
    found = add_pairs(tmp_path, {"a <- b", "d <- b"}, set())
    assert len(found.names) == 3 and found.announced == 0
    announce(tmp_path, found)
    assert add_pairs(tmp_path, {"d <- b"}, set()).announced == 3
    assert add_pairs(tmp_path, {"e <- b"}, {"a <- b", "c <- b", "d <- b"}) == NewPairs(("e <- b",), 1)
    (tmp_path / "drift" / "pairs.json").write_text("broken")
    assert add_pairs(tmp_path, {"f <- b"}, set()) == NewPairs(("f <- b",), 0)


def test_a_training_set_moves_the_watermark(tmp_path: Path) -> None:
    assert trained_pairs(tmp_path, None) == set()
    entries = (PairEntry("a <- b", "0" * 64),)
    training_set.write(TrainingSet(1, "2026-11-27", ("MGRS-33TWM",), entries), tmp_path / "retraining")
    assert trained_pairs(tmp_path, None) == {"a <- b"}
