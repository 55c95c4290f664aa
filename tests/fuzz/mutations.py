"""Values that a document can hold, and documents with some of their values changed."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

#: What people and programs write where something else is expected.
ODD = (
    None, True, {}, [], "", " ", 0, -1, 2**63, 10**30, 1e308, -0.0, "0001-01-01/9999-12-31", "9999-12-31", "..", "/",
    "s3://", "http://[", "a://b:c@d:e", "nan", "sample", [[]], [None], {"": None}, "\x00", "é" * 300, "-1,-1,1,1",
)  # fmt: skip
_SCALARS = st.one_of(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
#: Each is a copy: a document is changed in place, and what later examples draw must not change with it.
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
).map(copy.deepcopy)


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
