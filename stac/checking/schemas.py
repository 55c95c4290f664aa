"""Documents against the STAC schemas and the rules of our products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stac.checking.report import Problem, ProblemKind
from stac.errors import InvalidProduct
from stac.validate import validate_document, validate_item

#: Items with this property are products of ours, and held to more than the schema.
_MARK = "unveil:work_id"


def schema_problem(place: str, document: Mapping[str, Any]) -> Problem | None:
    """Return what breaks the STAC schema, None when nothing does."""
    try:
        validate_document(document)
    except InvalidProduct as error:
        return Problem.at(ProblemKind.SCHEMA, place, str(error))
    return None


def rule_problem(place: str, item: Mapping[str, Any]) -> Problem | None:
    """Return what an item that keeps the schema lacks as a product of ours; None for other tools' items."""
    if _MARK not in item["properties"]:
        return None
    try:
        validate_item(item)
    except InvalidProduct as error:
        return Problem.at(ProblemKind.RULE, place, str(error))
    return None
