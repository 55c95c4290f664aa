"""What is kept between runs: the statistics of the last units."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.drift import units as shelf
from flows.drift.statistics import Histogram, UnitStatistics
from flows.errors import InvalidBaseline


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
