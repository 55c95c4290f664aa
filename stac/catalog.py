"""The documents above the items: the collection of products and the root catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stac.items import COG_TYPE, EXTENSIONS

STAC_VERSION = "1.1.0"
_PROCESSOR = {
    "name": "Unveil",
    "description": "Clouds removed with Diffusion Enhancement; every restored pixel marked.",
    "roles": ["processor"],
    "processing:software": {"unveil-eo": ""},
}
_CATALOG_TITLE = "Cloud-free mosaics"
#: Products that failed the quality gate are kept apart.
REVIEW_COLLECTION = "unveil-review"
_TITLE, _REVIEW_TITLE = "Cloud-free acquisitions", "Needs review"
_DESCRIPTION = (
    "One item per restored acquisition and grid cell. Observed pixels are bit-identical to the source; every other "
    "pixel has its class in `provenance`."
)
_REVIEW_DESCRIPTION = (
    "Restored acquisitions that failed the quality gate; `unveil:gate_reasons` of an item and its report say why. "
    "Look at them before use."
)


def collection_title(collection_id: str) -> str:
    """Return what people call a collection of products."""
    return _REVIEW_TITLE if collection_id == REVIEW_COLLECTION else _TITLE


def root_document(collections: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the root catalog that links to collections, given as (id, title)."""
    children = [
        {"rel": "child", "href": f"./{name}/collection.json", "type": "application/json", "title": title}
        for name, title in sorted(collections)
    ]
    root = {"rel": "root", "href": "./catalog.json", "type": "application/json", "title": _CATALOG_TITLE}
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "unveil",
        "title": _CATALOG_TITLE,
        "description": "Satellite acquisitions with their clouds removed. Every product says for every pixel where it "
        "comes from.",
        "links": [root, *children],
    }


def collection_document(
    collection_id: str, items: Iterable[Mapping[str, Any]], source: Mapping[str, Any] | None, version: str
) -> dict[str, Any]:
    """Return the collection of products.

    Args:
        collection_id: its id and the name of its folder.
        items: documents of all items that are published, at least one.
        source: the source collection, for licence, providers and keywords.
        version: of this software.
    """
    documents = sorted(items, key=lambda i: (str(i["properties"]["datetime"]), str(i["id"])))
    source = source or {}
    title = collection_title(collection_id)
    up = {"href": "../catalog.json", "type": "application/json", "title": _CATALOG_TITLE}
    links = [{"rel": "root", **up}, {"rel": "parent", **up}, *_licence_links(source, documents[0])]
    links += [
        {
            "rel": "item",
            "href": f"./{item['id']}/{item['id']}.json",
            "type": "application/geo+json",
            "title": str(item["properties"].get("title", item["id"])),
        }
        for item in documents
    ]
    latest = documents[-1]
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [e for e in EXTENSIONS if "/classification/" not in e],
        "id": collection_id,
        "title": title,
        "description": _REVIEW_DESCRIPTION if collection_id == REVIEW_COLLECTION else _DESCRIPTION,
        "keywords": sorted({"cloud-free", "mosaic", "cloud removal", *source.get("keywords", [])}),
        "license": source.get("license") if source.get("license") not in (None, "proprietary") else "other",
        "providers": [*source.get("providers", []), _PROCESSOR | {"processing:software": {"unveil-eo": version}}],
        "extent": _extent(documents),
        "summaries": _summaries(documents),
        "item_assets": _item_assets(documents[-1]),
        "assets": {
            "thumbnail": {
                "href": f"./{latest['id']}/{latest['assets']['thumbnail']['href'].removeprefix('./')}",
                "type": "image/png",
                "title": "Latest product",
                "roles": ["thumbnail"],
            }
        },
        "links": links,
    }


def _licence_links(source: Mapping[str, Any], item: Mapping[str, Any]) -> list[dict[str, Any]]:
    for document in (source, item):
        if found := [dict(link) for link in document.get("links", []) if link.get("rel") == "license"]:
            return found
    return []


def _extent(documents: list[Mapping[str, Any]]) -> dict[str, Any]:
    boxes = [item["bbox"] for item in documents]
    west, south = (min(box[i] for box in boxes) for i in (0, 1))
    east, north = (max(box[i] for box in boxes) for i in (2, 3))
    if any(box[0] > box[2] for box in boxes):
        west, east = -180.0, 180.0
    times = sorted(str(item["properties"]["datetime"]) for item in documents)
    return {"spatial": {"bbox": [[west, south, east, north]]}, "temporal": {"interval": [[times[0], times[-1]]]}}


def _summaries(documents: list[Mapping[str, Any]]) -> dict[str, Any]:
    def values(name: str) -> list[Any]:
        return sorted({item["properties"][name] for item in documents if item["properties"].get(name) is not None})

    found = {name: values(name) for name in ("platform", "constellation", "grid:code", "proj:code", "gsd")}
    return {name: choice for name, choice in found.items() if choice}


def _item_assets(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every item's assets have in common."""
    kept = ("title", "description", "type", "roles")
    return {
        key: {name: asset[name] for name in kept if asset.get(name)}
        | ({"nodata": asset["nodata"]} if asset["type"] == COG_TYPE else {})
        for key, asset in item["assets"].items()
    }
