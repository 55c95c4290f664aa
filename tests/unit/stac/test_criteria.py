from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import shapely

from stac.embedded.criteria import Criteria, Record, SortKey, pick_fields, select
from stac.errors import InvalidQuery


def record(item_id: str, day: int, west: float = 10, **properties: Any) -> Record:
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": item_id,
        "collection": "c",
        "geometry": {},
        "assets": {},
        "links": [],
        "properties": {"datetime": f"2023-08-{day:02d}T00:00:00Z", **properties},
    }
    return Record(document, datetime(2023, 8, day, tzinfo=UTC), shapely.box(west, 40, west + 1, 41))


RECORDS = [
    record("a", 1, cloud=10, name="alpha"),
    record("b", 2, 20, cloud=50),
    record("c", 3, 179.5, cloud=90),
    record("d", 4, -179.9),
]


def ids(**criteria: Any) -> list[str]:
    return [str(found.document["id"]) for found in select(RECORDS, Criteria(**criteria))]


def test_newest_first_by_default() -> None:
    assert ids() == ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"cloud": {"lt": 50}}, ["a"]),
        ({"cloud": {"gte": 50, "lt": 90}}, ["b"]),
        ({"properties.cloud": {"in": [10, 90]}}, ["c", "a"]),
        ({"cloud": {"neq": 10}}, ["c", "b"]),
        ({"name": {"startsWith": "al"}}, ["a"]),
        ({"name": {"contains": "ph"}}, ["a"]),
        ({"id": {"eq": "b"}}, ["b"]),
        ({"cloud": {"lt": "text"}}, []),
        ({"unknown": {"eq": 1}}, []),
    ],
)
def test_property_conditions(condition: dict[str, Any], expected: list[str]) -> None:
    assert ids(query=condition) == expected


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="like"):
        ids(query={"cloud": {"like": 1}})


def test_boxes_also_across_the_antimeridian() -> None:
    assert ids(bbox=[9, 39, 12, 42]) == ["a"]
    assert ids(bbox=[9, 39, 0, 12, 42, 100]) == ["a"]
    assert ids(bbox=[179, 39, -179, 42]) == ["d", "c"]
    with pytest.raises(InvalidQuery):
        ids(bbox=[9, 42, 12, 39])
    with pytest.raises(InvalidQuery):
        ids(bbox=[1, 2, 3])
    with pytest.raises(InvalidQuery, match="not both"):
        ids(bbox=[9, 39, 12, 42], intersects=shapely.Point(10, 40))


def test_sorting() -> None:
    assert ids(sort=[SortKey.parse("+properties.cloud")]) == ["d", "a", "b", "c"]
    assert ids(sort=[SortKey.parse("-cloud")]) == ["c", "b", "a", "d"]
    assert ids(sort=[SortKey.parse(" datetime")]) == ["a", "b", "c", "d"]


def test_fields() -> None:
    document = RECORDS[0].document
    assert pick_fields(document, [], []) == document
    slim = pick_fields(document, ["properties.cloud"], ["geometry"])
    assert slim == {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "a",
        "collection": "c",
        "properties": {"cloud": 10},
    }
    without = pick_fields(document, [], ["assets", "properties.name", "id"])
    assert "assets" not in without and "name" not in without["properties"] and without["id"] == "a"
