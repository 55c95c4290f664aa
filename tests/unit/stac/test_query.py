from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stac.errors import InvalidQuery
from stac.search.query import Query

DATES = "2023-08-10/2023-08-20"


def test_dates_cover_their_whole_days() -> None:
    query = Query.parse("c", "15,45,16,46", DATES)
    assert query.bbox == (15.0, 45.0, 16.0, 46.0)
    assert query.interval == "2023-08-10T00:00:00Z/2023-08-21T00:00:00Z"
    assert query.contains(datetime(2023, 8, 20, 23, 59, 59, 500_000, tzinfo=UTC))
    assert not query.contains(datetime(2023, 8, 21, tzinfo=UTC))


def test_one_date_is_one_day() -> None:
    query = Query.parse("c", None, "2023-08-15")
    assert query.end - query.start == timedelta(days=1) - timedelta(microseconds=1)
    assert query.bbox is None


def test_instants_with_a_zone_are_converted() -> None:
    query = Query.parse("c", (1, 2, 3, 4), "2023-08-10T02:00:00+02:00/2023-08-10T12:00:00Z")
    assert query.interval == "2023-08-10T00:00:00Z/2023-08-10T12:00:00Z"


def test_an_interval_ends_where_dates_end() -> None:
    query = Query.parse("c", None, "0001-01-01/9999-12-31").widened(30)
    assert query.interval == "0001-01-01T00:00:00Z/9999-12-31T23:59:59Z"


@given(st.integers(0, 400))
def test_widening_moves_both_ends(days: int) -> None:
    query = Query.parse("c", None, DATES)
    wide = query.widened(days)
    assert (query.start - wide.start, wide.end - query.end) == (timedelta(days=days), timedelta(days=days))


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ((15, 45, 15, 46), "no area"),
        ((15, 46, 16, 46), "no area"),
        ((180, 45, -179, 46), "no area"),
        ((179, 45, -180, 46), "no area"),
        ((16, 45, 15, 46), "swap west and east"),
        ((15, 46, 16, 45), "no area"),
        ((-181, 45, 15, 46), "leaves the world"),
        ((15, 45, 16, 91), "leaves the world"),
        ((float("nan"), 45, 16, 46), "leaves the world"),
        ((15, 45, float("inf"), 46), "leaves the world"),
        ((15, 45, 16), "not four numbers"),
        ("15,45,16,north", "not four numbers"),
        ("", "not four numbers"),
    ],
)
def test_a_wrong_box_is_refused(bbox: object, reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        Query.parse("c", bbox, DATES)  # type: ignore[arg-type]


def test_a_box_across_the_antimeridian_has_two_parts() -> None:
    across = Query.parse("c", "178,66,-179,68", DATES)
    assert across.boxes == ((178.0, 66.0, 180.0, 68.0), (-180.0, 66.0, -179.0, 68.0))
    assert Query.parse("c", "15,45,16,46", DATES).boxes == ((15.0, 45.0, 16.0, 46.0),)
    assert Query.parse("c", None, DATES).boxes == (None,)


@pytest.mark.parametrize(
    ("interval", "reason"),
    [
        ("2023-08-20/2023-08-10", "ends before it begins"),
        ("2023-08-10T00:00:00", "no time zone"),
        ("2023-02-30", "not understood"),
        ("yesterday", "not understood"),
        ("", "not understood"),
        ("2023-08-10/..", "not understood"),
        ("2023-08-10/2023-08-11/2023-08-12", "not understood"),
    ],
)
def test_a_wrong_interval_is_refused(interval: str, reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        Query.parse("c", None, interval)


def test_an_empty_collection_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="collection is empty"):
        Query.parse(" ", None, DATES)


@given(st.text(max_size=30), st.text(max_size=30))
def test_text_never_fails_otherwise(bbox: str, interval: str) -> None:
    try:
        query = Query.parse("c", bbox, interval)
    except InvalidQuery:
        return
    assert query.bbox is not None
    assert query.start <= query.end
