"""Who stands behind a product: providers, licence, attribution and keywords of the source go with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pystac

PROCESSOR: dict[str, Any] = {
    "name": "Unveil",
    "description": "Clouds removed with Diffusion Enhancement; every restored pixel marked.",
    "roles": ["processor"],
}
#: Keywords of every product beside those of its source.
KEYWORDS = ("cloud-free", "mosaic", "cloud removal")


def licence_of(source: Mapping[str, Any]) -> str:
    """Return the licence of a source collection in the words of STAC 1.1, `other` where it names none."""
    # `proprietary` and `various` are of STAC 1.0.
    told = source.get("license")
    return str(told) if told not in (None, "", "proprietary", "various") else "other"


def credit(item: pystac.Item, source: Mapping[str, Any], version: str) -> None:
    """Carry what a source collection says of its makers and terms into the item of a product.

    Args:
        item: changed in place; what it says itself stays.
        source: the source collection's document.
        version: of this software.
    """
    properties, software = item.properties, {"processing:software": {"unveil-eo": version}}
    properties.setdefault("license", licence_of(source))
    properties.setdefault("providers", [*source.get("providers", []), PROCESSOR | software])
    properties.setdefault("keywords", sorted({*KEYWORDS, *source.get("keywords", [])}))
    if attribution := source.get("attribution"):
        properties.setdefault("attribution", attribution)
    if not item.get_links("license"):
        item.add_links([_licence_link(link) for link in source.get("links", []) if link.get("rel") == "license"])


def _licence_link(link: Mapping[str, Any]) -> pystac.Link:
    title = link.get("title") or "Licence of the source data"
    return pystac.Link("license", str(link["href"]), link.get("type"), title)
