"""Checking what is published, without a network: core schemas, our own rules, files and links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pystac
from pystac.errors import STACError, STACValidationError
from pystac.validation import JsonSchemaSTACValidator

from stac.catalog import STAC_VERSION
from stac.errors import InvalidProduct, StacError
from stac.items import COG_TYPE, EXTENSIONS, file_info
from stac.raster import check_cog

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Fields of STAC 1.0 that STAC Browser ignores in 1.1 items, and that must therefore not appear.
_LEGACY = ("eo:bands", "raster:bands", "proj:epsg")
_REQUIRED_ASSETS = (
    "visual", "data", "provenance", "source_date", "reference_weight", "uncertainty",
    "thumbnail", "quicklook", "report", "metadata",
)  # fmt: skip
_REQUIRED_PROPERTIES = (
    "datetime", "created", "proj:code", "processing:level", "processing:software",
    "unveil:work_id", "unveil:target", "unveil:model", "unveil:seed", "unveil:areas", "unveil:quality",
)  # fmt: skip


def check_id(item_id: str) -> str:
    """Return an id that is safe as a file name.

    Raises:
        InvalidProduct: it is not.
    """
    if not _ID.fullmatch(item_id) or ".." in item_id:
        raise InvalidProduct(f"Item id {item_id!r} cannot be a folder name; use letters, digits, and . _ - only.")
    return item_id


def validate_item(document: Mapping[str, Any]) -> None:
    """Check an item against the STAC core schemas and the rules of our products.

    The official extension schemas need the network; what we write of each extension is checked by rules here.

    Raises:
        InvalidProduct: naming the item and the first thing that is wrong.
    """
    item_id = check_id(str(document.get("id")))
    _validate_core(document, pystac.STACObjectType.ITEM, item_id)
    for problem in _item_problems(document):
        raise InvalidProduct(f"Item {item_id}: {problem}.")


def _validate_core(document: Mapping[str, Any], kind: pystac.STACObjectType, name: str) -> None:
    # A version that pystac does not know has no schema, and everything would pass.
    if document.get("stac_version") != STAC_VERSION:
        raise InvalidProduct(
            f"{kind.value.title()} {name} is of STAC {document.get('stac_version')}, not {STAC_VERSION}."
        )
    try:
        JsonSchemaSTACValidator().validate_core(dict(document), kind, STAC_VERSION)
    except (STACError, STACValidationError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InvalidProduct(f"{kind.value.title()} {name} breaks the STAC schema: {reason}.") from error


def _item_problems(document: Mapping[str, Any]) -> Iterator[str]:
    text = json.dumps(document)
    yield from (f"it holds {name}, a field of STAC 1.0" for name in _LEGACY if f'"{name}"' in text)
    unknown = sorted(set(document.get("stac_extensions", [])) - set(EXTENSIONS))
    yield from (f"extension {uri} is not known here" for uri in unknown)
    properties, assets = document["properties"], document["assets"]
    yield from (f"property {name} is missing" for name in _REQUIRED_PROPERTIES if properties.get(name) is None)
    yield from (f"asset {name} is missing" for name in _REQUIRED_ASSETS if name not in assets)
    for key, asset in assets.items():
        yield from _asset_problems(key, asset)
    untitled = [link["rel"] for link in document["links"] if not link.get("title")]
    yield from (f"its {rel} link has no title" for rel in untitled)


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


def validate_catalog(root: Path) -> list[str]:
    """Walk a catalog from its root; return everything that is wrong, nothing when all is well."""
    problems: list[str] = []
    try:
        catalog = read_document(root / "catalog.json")
        _validate_core(catalog, pystac.STACObjectType.CATALOG, "root")
        for item_path in _items_below(root / "catalog.json", catalog):
            problems += item_problems(item_path)
    except StacError as error:
        problems.append(str(error))
    return problems


def _items_below(path: Path, document: Mapping[str, Any]) -> Iterator[Path]:
    """Walk collections and catalogs at any depth, check each, and yield the items they link to."""
    for below in _linked(path, document, "child"):
        node = read_document(below)
        is_collection = node.get("type") == "Collection"
        kind = pystac.STACObjectType.COLLECTION if is_collection else pystac.STACObjectType.CATALOG
        _validate_core(node, kind, str(node.get("id")))
        yield from _items_below(below, node)
    yield from _linked(path, document, "item")


def item_problems(path: Path) -> list[str]:
    """Return everything that is wrong with a published item and its files, nothing when all is well."""
    try:
        document = read_document(path)
        validate_item(document)
    except StacError as error:
        return [str(error)]
    return [p for key, asset in document["assets"].items() for p in _file_problems(path, key, asset)]


def _file_problems(item_path: Path, key: str, asset: Mapping[str, Any]) -> Iterator[str]:
    path = item_path.parent / str(asset["href"])
    if not path.is_file():
        yield f"{item_path}: asset {key} is missing ({path})"
        return
    if file_info(path) != {name: asset.get(name) for name in ("file:size", "file:checksum")}:
        yield f"{item_path}: asset {key} differs from its checksum"
    if asset.get("type") == COG_TYPE:
        try:
            check_cog(path)
        except StacError as error:
            yield str(error)


def _linked(path: Path, document: Mapping[str, Any], rel: str) -> Iterator[Path]:
    for link in document.get("links", []):
        if link.get("rel") == rel:
            yield path.parent / str(link["href"])


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a published file.

    Raises:
        InvalidProduct: there is none, naming the file.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidProduct(
            f"{path} cannot be read as JSON ({error}); restore the file, or remove its folder and run again."
        ) from error
    if not isinstance(document, dict):
        raise InvalidProduct(f"{path} is no JSON object; restore the file, or remove its folder and run again.")
    return document
