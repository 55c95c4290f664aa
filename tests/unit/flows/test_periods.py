"""Periods of the calendar."""

from __future__ import annotations

from datetime import date

import pytest

from flows.errors import InvalidSettings
from flows.planning.periods import periods_of
from stac.errors import InvalidQuery


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("2018", "2018-01-01", "2018-12-31"),
        ("2018-Q4", "2018-10-01", "2018-12-31"),
        ("2020-DJF", "2019-12-01", "2020-02-29"),
        ("2018-JJA", "2018-06-01", "2018-08-31"),
        ("2018-12", "2018-12-01", "2018-12-31"),
        ("2018-02-D3", "2018-02-21", "2018-02-28"),
        ("2018-02-D1", "2018-02-01", "2018-02-10"),
        ("2018-07-03/2018-07-20", "2018-07-03", "2018-07-20"),
    ],
)
def test_a_name_says_its_days(name: str, first: str, last: str) -> None:
    (found,) = periods_of(name, "2000-01-01")
    assert (found.first, found.last) == (date.fromisoformat(first), date.fromisoformat(last))
    assert periods_of(found.name, "2000-01-01") == [found]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dekad", ["2018-12-D3", "2019-01-D1", "2019-01-D2"]),
        ("month", ["2018-12", "2019-01"]),
        ("quarter", ["2018-Q4", "2019-Q1"]),
        ("season", ["2019-DJF"]),
        ("year", ["2018", "2019"]),
        ("dates", ["2018-12-25_2019-01-12"]),
    ],
)
def test_a_kind_divides_an_interval_into_whole_periods(kind: str, names: list[str]) -> None:
    assert [each.name for each in periods_of(kind, "2018-12-25/2019-01-12")] == names


def test_a_schedule_takes_the_periods_that_ended_last() -> None:
    found = periods_of("month", "2000-01-01", last=2, today=date(2026, 1, 31))
    assert [each.name for each in found] == ["2025-11", "2025-12"]


@pytest.mark.parametrize("name", ["July", "2018-13", "2018-7", "2018-07-20/2018-07-03", "2018-Q5", ""])
def test_what_is_not_a_period_is_said(name: str) -> None:
    with pytest.raises(InvalidSettings, match="Period"):
        periods_of(name, "2018-01-01")


def test_an_interval_of_thousands_of_periods_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="more than 1000"):
        periods_of("dekad", "0001-01-01/9999-01-01")
