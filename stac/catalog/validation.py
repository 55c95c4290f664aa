"""What a document and the files of a product must be like: official schemas, our own rules, checksums, COGs.

These rules hold before publishing and when a whole catalog is checked (`stac.catalog.check`). Nothing needs a network:
an extension whose schema does not come with the package is an error, as what cannot be checked is not published.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError, best_match
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable

from stac.catalog.tree import STAC_VERSION
from stac.errors import InvalidProduct, StacError
from stac.io.s3 import Location
from stac.product.assets import COG_TYPE, file_info
from stac.product.cog import cog_problem
from stac.product.fields import ItemKind, required
from stac.product.item import MODEL_EXTENSIONS, PRODUCT_EXTENSIONS
from stac.product.region_item import REGION_EXTENSIONS

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Of the part of a product's id that is its scene's: file systems take 255 bytes, and more is added.
_LONGEST = 120
_RESTORE = "restore the file, or remove its folder and run again."
#: What people call a document, and its schema, by its type.
_KINDS = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}
_REQUIRED_ASSETS = (
    "visual", "data", "provenance", "source_date", "reference_weight", "uncertainty",
    "thumbnail", "quicklook", "report", "metadata",
)  # fmt: skip
_REQUIRED_MODEL_ASSETS = ("weights", "card")
_REQUIRED_REGION_ASSETS = ("overview", "thumbnail", "mosaicjson", "radiometry")
#: Folder of the extension schemas, laid out like their addresses.
SCHEMAS = Path(__file__).parents[1] / "schemas"
_ADDRESS = "https://stac-extensions.github.io/"
_CORE = "https://schemas.stacspec.org/v{version}/{kind}-spec/json-schema/{kind}.json"
_LONGEST_REASON = 300


def check_id(item_id: str) -> str:
    """Return an id that is safe as a file name.

    Raises:
        InvalidProduct: it is not.
    """
    if not _is_safe(item_id):
        raise InvalidProduct(f"Item id {item_id!r} cannot be a folder name; use letters, digits, and . _ - only.")
    return item_id


def safe_id(name: str) -> str:
    """Return an id as it is where it is safe as a file name; else one that is, and differs for different ids.

    Args:
        name: id of an archive, which may hold slashes, colons, blanks, accents, or begin with a dot.
    """
    if _is_safe(name) and len(name) <= _LONGEST:
        return name
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9_.-]+", "-", ascii_)).strip("._-")
    return f"{plain[:_LONGEST] or 'scene'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _is_safe(name: str) -> bool:
    return _ID.fullmatch(name) is not None and ".." not in name


def validate_item(document: Mapping[str, Any]) -> None:
    """Check an item against the official schemas of STAC and its extensions, and against our rules of its kind.

    Raises:
        InvalidProduct: naming the item and the first thing that is wrong; it is neither product nor model.
    """
    item_id = check_id(str(document.get("id")))
    validate_document(document)
    if document["type"] != "Feature":
        raise InvalidProduct(f"{item_id} is of type {document['type']!r}, not an item.")
    for problem in rule_problems(document):
        raise InvalidProduct(f"Item {item_id}: {problem}.")


def validate_document(document: Mapping[str, Any]) -> None:
    """Check an item, collection or catalog, whoever wrote it, against the STAC schemas.

    Raises:
        InvalidProduct: naming the document and what is wrong.
    """
    name, word = document.get("id"), _KINDS.get(str(document.get("type")), "document").capitalize()
    # The schema of another version would need the network.
    if document.get("stac_version") != STAC_VERSION:
        raise InvalidProduct(f"{word} {name} is of STAC {document.get('stac_version')}, not {STAC_VERSION}.")
    if problem := schema_problem(document):
        raise InvalidProduct(f"{word} {name}: {problem}.")


def rule_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an item that keeps the schemas lacks of what all of its kind have, without a full stop."""
    if not _is_safe(document["id"]):
        yield "its id cannot be a folder name"
    if "mlm:name" in document["properties"]:
        yield from _missing(document, MODEL_EXTENSIONS, required(ItemKind.MODEL), _REQUIRED_MODEL_ASSETS)
    elif "unveil:cells" in document["properties"]:
        yield from _missing(document, REGION_EXTENSIONS, required(ItemKind.REGION), _REQUIRED_REGION_ASSETS)
    elif any(name.startswith("unveil:") for name in document["properties"]):
        yield from _missing(document, PRODUCT_EXTENSIONS, required(ItemKind.PRODUCT), _REQUIRED_ASSETS)
    else:
        yield "it is neither a product nor a model of Unveil"
    for key, asset in document["assets"].items():
        yield from _asset_problems(key, asset)
    untitled = [link["rel"] for link in document["links"] if not link.get("title")]
    yield from (f"its {rel} link has no title" for rel in untitled)


def _missing(
    document: Mapping[str, Any], extensions: Iterable[str], properties: Iterable[str], assets: Iterable[str]
) -> Iterator[str]:
    declared = set(document.get("stac_extensions", []))
    yield from (f"extension {uri} is not declared" for uri in extensions if uri not in declared)
    values = document["properties"]
    # A projection without a code has a definition instead.
    values = {**values, "proj:code": values.get("proj:code") or values.get("proj:wkt2")}
    # A mosaic has the ends of its period instead of an instant.
    values["datetime"] = values.get("datetime") or (values.get("end_datetime") and values.get("start_datetime"))
    yield from (f"property {name} is missing" for name in properties if values.get(name) is None)
    yield from (f"asset {name} is missing" for name in assets if name not in document["assets"])


def _asset_problems(key: str, asset: Mapping[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"1220[0-9a-f]{64}", str(asset.get("file:checksum"))) or not asset.get("file:size"):
        yield f"asset {key} has no size or SHA2-256 checksum"
    href = str(asset["href"])
    if not href.startswith("./") or ".." in href:
        yield f"asset {key} lies outside the item's folder ({href})"
    if asset.get("type") == COG_TYPE:
        yield from (f"asset {key} has no {name}" for name in ("proj:shape", "proj:transform") if not asset.get(name))
        for band in asset.get("bands") or [{}]:
            if not {"name", "data_type", "nodata", "statistics"} <= band.keys():
                yield f"asset {key} has a band without name, data_type, nodata or statistics"


def item_problems(path: Path) -> list[str]:
    """Return everything that is wrong with a published item and its files, nothing when all is well."""
    try:
        document = read_document(path)
        validate_item(document)
    except StacError as error:
        return [str(error)]
    return [f"{path}: {problem}" for problem in file_problems(path.parent, document)]


def file_problems(folder: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the files of an item, without a full stop: presence, size, checksum, layout of COGs."""
    for key, asset in document["assets"].items():
        path = folder / str(asset["href"])
        if not path.is_file():
            yield f"asset {key} is missing ({path})"
            continue
        if file_info(path) != {name: asset.get(name) for name in ("file:size", "file:checksum")}:
            yield f"asset {key} differs from its checksum"
        if (asset.get("type") == COG_TYPE or path.suffix == ".tif") and (problem := cog_problem(path)):
            yield f"asset {key} ({path}) {problem}"


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a published file.

    Raises:
        InvalidProduct: there is none, naming the file.
    """
    try:
        return parse_document(path, path.read_bytes())
    except OSError as error:
        raise InvalidProduct(f"{path} cannot be read ({error}); {_RESTORE}") from error


def parse_document(place: Location, content: bytes) -> dict[str, Any]:
    """Return the JSON object in the bytes of a published file.

    Raises:
        InvalidProduct: there is none, naming the place.
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        raise InvalidProduct(f"{place} cannot be read as JSON ({error}); {_RESTORE}") from error
    if not isinstance(document, dict):
        raise InvalidProduct(f"{place} is not a JSON object; {_RESTORE}")
    return document


def schema_paths() -> dict[str, Path]:
    """Return the file of every extension schema that comes with the package, by address."""
    return {f"{_ADDRESS}{path.relative_to(SCHEMAS).as_posix()}": path for path in sorted(SCHEMAS.glob("*/*/*.json"))}


def schema_problem(document: Mapping[str, Any]) -> str | None:
    """Return the first thing in an item, collection or catalog that breaks a schema, None when all is well.

    Checked are the schema of its kind and those of all extensions it declares. The sentence has no full stop.
    """
    kind = _KINDS.get(str(document.get("type")))
    if kind is None:
        return f"it breaks the STAC schema: its type is {document.get('type')!r}"
    # Through JSON: what is validated is what is written, so tuples are arrays.
    plain = json.loads(json.dumps(document))
    if reason := _broken(_CORE.format(version=STAC_VERSION, kind=kind), plain):
        return f"it breaks the STAC schema: {reason}"
    for uri in plain.get("stac_extensions") or []:
        if uri not in _schemas():
            return f"extension {uri} is not known here"
        if reason := _broken(uri, plain):
            name = uri.removeprefix(_ADDRESS).removesuffix("/schema.json")
            return f"it breaks the schema of extension {name}: {reason}"
    return None


def _broken(uri: str, document: Mapping[str, Any]) -> str:
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
