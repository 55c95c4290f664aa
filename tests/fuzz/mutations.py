"""Values that a document can hold, and documents with some of their values changed."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: What people and programs write where something else is expected.
ODD = (
    None, True, {}, [], "", " ", 0, -1, 2**63, 10**30, 1e308, -0.0, "0001-01-01/9999-12-31", "9999-12-31", "..", "/",
    "s3://", "http://[", "a://b:c@d:e", "nan", "sample", [[]], [None], {"": None}, "\x00", "é" * 300, "-1,-1,1,1",
)  # fmt: skip
#: The same examples every time; a fixture's folder is written again and again.
FIXED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


def nested(*scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what draws scalars, and lists and dictionaries of them.

    Each is a copy: a document is changed in place, and what later examples draw must not change with it.
    """
    return st.recursive(
        st.one_of(*scalars),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
        max_leaves=6,
    ).map(copy.deepcopy)


def values(*odd: Any) -> st.SearchStrategy[Any]:
    """Return what draws any value, these among them."""
    numbers = st.one_of(st.none(), st.booleans(), st.integers(-(10**18), 10**18), st.floats())
    return nested(numbers, st.text(max_size=12), st.sampled_from(odd))


VALUES = nested(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


def mutated(data: st.DataObject, document: Any) -> Any:
    """Return a document with one to three of its parts replaced, removed or added, at any depth."""
    for _ in range(data.draw(st.integers(1, 3))):
        document = _changed(data, document)
    return document


def _changed(data: st.DataObject, part: Any) -> Any:
    inside = isinstance(part, (dict, list)) and len(part) > 0
    if not inside or data.draw(st.integers(0, 9)) == 0:
        return data.draw(VALUES)
    keys = list(part) if isinstance(part, dict) else list(range(len(part)))
    key = data.draw(st.sampled_from(keys))
    match data.draw(st.integers(0, 5)):
        case 0:
            del part[key]
        case 1 if isinstance(part, dict):
            part[data.draw(st.text(max_size=8))] = data.draw(VALUES)
        case 1:
            part.append(data.draw(VALUES))
        case _:
            part[key] = _changed(data, part[key])
    return part
