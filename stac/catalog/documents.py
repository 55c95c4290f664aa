"""Documents of a catalog above its items: root, collections, and the nodes between."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from stac.catalog.tree import (
    CONTENTS,
    STAC_VERSION,
    SUMMARISED,
    Contents,
    Link,
    Node,
    all_links,
    contents_of,
    contents_of_item,
    foreign_links,
    total,
)
from stac.product.item import KEYWORDS, PROCESSOR, PUBLICATIONS, Extension, licence_links, licence_of, providers_of
from stac.product.model_item import MODELS_COLLECTION

#: Fields of an asset, and of its bands, that all items have in common.
_COMMON = ("title", "description", "type", "roles", "data_type", "nodata", "classification:classes")
_COMMON_OF_BAND = (
    "name", "data_type", "nodata", "unit", "eo:common_name", "eo:center_wavelength", "eo:full_width_half_max",
    "raster:scale", "raster:offset", "classification:classes",
)  # fmt: skip
_OF_BANDS = {"eo": Extension.EO, "raster": Extension.RASTER, "classification": Extension.CLASSIFICATION}
CATALOG_TITLE = "Cloud-free mosaics"
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
#: Extent of a collection whose items have none.
_EVERYWHERE = (-180.0, -90.0, 180.0, 90.0)
MOSAICS_COLLECTION = "unveil-mosaics"
_MOSAICS_DESCRIPTION = (
    "One item per grid cell and period, and one for each whole region. `count` says how many clear looks a pixel had; "
    "every pixel has its class in `provenance`."
)
_TEXTS = {
    MOSAICS_COLLECTION: ("Mosaics of periods", _MOSAICS_DESCRIPTION),
    REVIEW_COLLECTION: (_REVIEW_TITLE, _REVIEW_DESCRIPTION),
    MODELS_COLLECTION: ("Models", "One item per model version that made products of this catalog."),
}


def collection_fields(latest: Mapping[str, Any]) -> dict[str, Any]:
    """Return `stac_extensions`, `item_assets`, `renders` and `sci:publications` of a collection.

    Args:
        latest: document of its newest item.
    """
    assets = {key: _common(asset) for key, asset in latest["assets"].items()}
    fields: dict[str, Any] = {"item_assets": assets, "sci:publications": list(PUBLICATIONS)}
    if renders := latest["properties"].get("renders"):
        fields["renders"] = renders
    return {"stac_extensions": _extensions(assets, fields), **fields}


def _common(asset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an asset has in common with those of the same key of other items."""
    kept = {name: asset[name] for name in _COMMON if asset.get(name) is not None}
    if bands := asset.get("bands"):
        kept["bands"] = [{name: band[name] for name in _COMMON_OF_BAND if name in band} for band in bands]
    return kept


def _extensions(assets: Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
    """Return the extensions of which a collection holds a field: the schemas refuse the others."""
    of_bands = {name.partition(":")[0] for asset in assets.values() for band in asset.get("bands", []) for name in band}
    found = [Extension.PROCESSING, Extension.SCIENTIFIC]
    found += [extension for name, extension in _OF_BANDS.items() if name in of_bands]
    if "renders" in fields:
        found.append(Extension.RENDER)
    return [str(extension) for extension in found]


def collection_title(collection_id: str) -> str:
    """Return what people call a collection."""
    return _TEXTS.get(collection_id, (_TITLE, _DESCRIPTION))[0]


def node_document(collection_id: str, node: Node, items: Mapping[str, Link], others: Sequence[Link]) -> dict[str, Any]:
    """Return the document of a node between a collection and its items.

    Args:
        collection_id: the collection.
        node: which one.
        items: links to its own items by item id.
        others: all its other links, those upwards left out.
    """
    collection = {"href": "../../collection.json", "title": collection_title(collection_id)}
    up = {"href": "../catalog.json", "title": node.above.title} if node.above else collection
    children = [contents_of(link) for link in others if CONTENTS in link]
    below = total([*children, *(contents_of_item(link, item_id) for item_id, link in items.items())])
    root = {"href": f"{node.up}/../catalog.json", "type": "application/json", "title": CATALOG_TITLE}
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "-".join((collection_id, *node.path)),
        "title": node.title,
        "description": f"{collection['title']} of {node.title}.",
        CONTENTS: below.document,
        "links": [
            {"rel": "root", **root},
            {"rel": "parent", "type": "application/json", **up},
            *others,
            *sorted(
                items.values(), key=lambda link: (str(link.get("datetime") or link.get("start_datetime")), link["href"])
            ),
        ],
    }


def with_collections(root: Mapping[str, Any] | None, titles: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the root catalog with links to some collections; everything else in it stays as it is.

    Args:
        root: the catalog as it is, None where there is none.
        titles: of the collections by id; None where one is not to be linked.
    """
    root = root or empty_root()
    links = [link for link in all_links(root) if not any(_leads_to(link, name) for name in titles)]
    for name, title in titles.items():
        if title is None:
            continue
        href = f"./{name}/collection.json"
        # In the order of hrefs where the others are.
        behind = (i for i, link in enumerate(links) if link.get("rel") == "child" and str(link.get("href")) > href)
        child = {"rel": "child", "href": href, "type": "application/json", "title": title}
        links.insert(next(behind, len(links)), child)
    return {**root, "links": links}


def is_listed(root: Mapping[str, Any] | None, collection_id: str) -> bool:
    """Return whether a root catalog links to a collection."""
    return any(_leads_to(link, collection_id) for link in all_links(root))


def _leads_to(link: Mapping[str, Any], collection_id: str) -> bool:
    return (
        link.get("rel") == "child" and posixpath.normpath(str(link.get("href"))) == f"{collection_id}/collection.json"
    )


def empty_root() -> dict[str, Any]:
    """Return a root catalog that links to nothing yet."""
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "unveil",
        "title": CATALOG_TITLE,
        "description": "Satellite acquisitions with their clouds removed. Every product says for every pixel where it "
        "comes from.",
        "links": [{"rel": "root", "href": "./catalog.json", "type": "application/json", "title": CATALOG_TITLE}],
    }


def collection_document(
    collection_id: str,
    current: Mapping[str, Any] | None,
    children: Sequence[Link],
    source: Mapping[str, Any] | None,
    latest: Mapping[str, Any] | None,
    version: str,
) -> dict[str, Any]:
    """Return the collection of products; what others wrote into it stays.

    Args:
        collection_id: its id and the name of its folder.
        current: the collection as it is, None where there is none.
        children: links to its nodes, each with the sum of what lies below it.
        source: the source collection, for licence, providers, attribution and keywords.
        latest: document of the newest item, None where it cannot be read.
        version: of this software, empty to keep what is written there.
    """
    current, source = current or {}, source or {}
    # The item of a whole region has other assets than those of its cells, which came before it.
    ours = collection_fields(latest) if latest and "unveil:cells" not in latest["properties"] else {}
    contents = total(contents_of(link) for link in children)
    up = {"href": "../catalog.json", "type": "application/json", "title": CATALOG_TITLE}
    licences = [link for document in (source, latest or {}) for link in licence_links(document)]
    kept = [link for link in foreign_links(current, None) if not licences or link.get("rel") != "license"]
    attribution = source.get("attribution") or (latest or {}).get("properties", {}).get("attribution")
    return {
        **current,
        "type": "Collection",
        "stac_version": STAC_VERSION,
        **ours,
        "stac_extensions": list(dict.fromkeys([*ours.get("stac_extensions", []), *current.get("stac_extensions", [])])),
        "id": collection_id,
        "title": collection_title(collection_id),
        "description": _TEXTS.get(collection_id, (_TITLE, _DESCRIPTION))[1],
        "keywords": sorted({*KEYWORDS, *source.get("keywords", []), *current.get("keywords", [])}),
        "license": licence_of(source if source.get("license") else current),
        "providers": _providers(source, current, version),
        **({"attribution": attribution} if attribution else {}),
        "extent": _extent(contents) if contents.items else current.get("extent") or _extent(contents),
        "summaries": _summaries(contents, current),
        "assets": current.get("assets", {}) | _thumbnail(contents),
        CONTENTS: contents.document,
        "links": [{"rel": "root", **up}, {"rel": "parent", **up}, *licences, *kept, *children],
    }


def _providers(source: Mapping[str, Any], current: Mapping[str, Any], version: str) -> list[dict[str, Any]]:
    """Return who stands behind the products: the source's, those somebody else wrote there, and this software."""
    before = {str(each.get("name")): dict(each) for each in current.get("providers", [])}
    software = (
        {"unveil-eo": version}
        if version
        else before.get(PROCESSOR["name"], {}).get("processing:software", {"unveil-eo": ""})
    )
    found = {str(each["name"]): each for each in providers_of(source)}
    others = {name: each for name, each in before.items() if name != PROCESSOR["name"]}
    return [*(others | found).values(), PROCESSOR | {"processing:software": software}]


def _extent(contents: Contents) -> dict[str, Any]:
    first, last = contents.interval or (None, None)
    return {
        "spatial": {"bbox": [list(contents.bbox or _EVERYWHERE)]},
        "temporal": {"interval": [[first, last]]},
    }


def _summaries(contents: Contents, current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the items beside what somebody else summarised."""
    others = {name: value for name, value in current.get("summaries", {}).items() if name not in SUMMARISED}
    return others | {name: list(values) for name, values in contents.summaries.items() if values}


def _thumbnail(contents: Contents) -> dict[str, Any]:
    if contents.latest is None or not contents.latest.thumbnail:
        return {}
    asset = {"type": "image/png", "title": "Latest product", "roles": ["thumbnail"]}
    return {"thumbnail": {"href": f"./{contents.latest.thumbnail}", **asset}}
