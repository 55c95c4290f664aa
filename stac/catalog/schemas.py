"""Documents against the official schemas of STAC and its extensions, without a network.

An extension whose schema does not come with the package is an error: what cannot be checked is not published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError, best_match
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable

from stac.catalog.tree import STAC_VERSION

#: Folder of the extension schemas, laid out like their addresses.
SCHEMAS = Path(__file__).parents[1] / "schemas"
_ADDRESS = "https://stac-extensions.github.io/"
_CORE = "https://schemas.stacspec.org/v{version}/{kind}-spec/json-schema/{kind}.json"
_KINDS = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}
_LONGEST_REASON = 300


def schema_paths() -> dict[str, Path]:
    """Return the file of every extension schema that comes with the package, by address."""
    return {f"{_ADDRESS}{path.relative_to(SCHEMAS).as_posix()}": path for path in sorted(SCHEMAS.glob("*/*/*.json"))}


def schema_problem(document: Mapping[str, Any]) -> str | None:
    """Return the first thing in an item, collection or catalog that breaks a schema, None when all is well.

    Checked are the schema of its kind and those of all extensions it declares.
    """
    return next(_problems(document), None)


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what breaks the schemas: one sentence without a full stop for every schema."""
    kind = _KINDS.get(str(document.get("type")))
    if kind is None:
        yield f"it breaks the STAC schema: its type is {document.get('type')!r}"
        return
    # Through JSON: what is validated is what is written, so tuples are arrays.
    plain = json.loads(json.dumps(document))
    if reason := _reason(_CORE.format(version=STAC_VERSION, kind=kind), plain):
        yield f"it breaks the STAC schema: {reason}"
    for uri in plain.get("stac_extensions") or []:
        if uri not in _schemas():
            yield f"extension {uri} is not known here"
        elif reason := _reason(uri, plain):
            yield f"it breaks the schema of extension {_name(uri)}: {reason}"


def _reason(uri: str, document: Mapping[str, Any]) -> str:
    """Return what a schema finds wrong, empty when nothing."""
    try:
        found = best_match(_validator(uri).iter_errors(document))
    except Unresolvable as error:
        return f"it needs a schema that is not known here ({error.ref})"
    return "" if found is None else _sentence(found)


def _sentence(error: ValidationError) -> str:
    place = "/".join(str(part) for part in error.absolute_path)
    reason = " ".join(error.message.split())
    if len(reason) > _LONGEST_REASON:
        # The message begins with the value that is wrong, which may be a whole document.
        reason = f"... {reason[-_LONGEST_REASON:]}"
    return f"{place}: {reason}" if place else reason


def _name(uri: str) -> str:
    return uri.removeprefix(_ADDRESS).removesuffix("/schema.json")


@lru_cache(maxsize=1)
def _schemas() -> dict[str, dict[str, Any]]:
    """Return every known schema by address."""
    extensions = {uri: json.loads(path.read_text("utf-8")) for uri, path in schema_paths().items()}
    return get_local_schema_cache() | extensions


@lru_cache(maxsize=1)
def _registry() -> Registry[Any]:
    """Return the schemas for references between them; an unknown one is never fetched."""
    return Registry().with_resources((uri, Resource.from_contents(schema)) for uri, schema in _schemas().items())


@lru_cache(maxsize=64)
def _validator(uri: str) -> Draft7Validator:
    schema = _schemas()[uri]
    return Draft7Validator(schema, registry=_registry(), format_checker=Draft7Validator.FORMAT_CHECKER)
