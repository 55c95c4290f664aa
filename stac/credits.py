"""Who stands behind a product: providers, licence, attribution and keywords of the source go with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pystac

from stac.access.addresses import host_of, is_web
from stac.access.redaction import holds_secret

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


def providers_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the providers that a document from outside names; only addresses of web pages are kept."""
    found = [dict(each) for each in document.get("providers") or [] if isinstance(each, Mapping) and each.get("name")]
    return [{key: value for key, value in each.items() if key != "url" or may_be_shown(value)} for each in found]


def licence_links(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the links to licences in a document from outside that lead to web pages."""
    links = [dict(link) for link in document.get("links") or [] if isinstance(link, Mapping)]
    return [link for link in links if link.get("rel") == "license" and may_be_shown(link.get("href"))]


def may_be_shown(href: object) -> bool:
    """Tell whether an address from outside may become a link: `javascript:` and `data:` run where it is clicked."""
    return (
        isinstance(href, str) and is_web(href) and href.isprintable() and bool(host_of(href)) and not holds_secret(href)
    )


def credit(item: pystac.Item, source: Mapping[str, Any], version: str) -> None:
    """Carry what a source collection says of its makers and terms into the item of a product.

    Args:
        item: changed in place; what it says itself stays.
        source: the source collection's document.
        version: of this software.
    """
    properties, software = item.properties, {"processing:software": {"unveil-eo": version}}
    properties.setdefault("license", licence_of(source))
    properties.setdefault("providers", [*providers_of(source), PROCESSOR | software])
    properties.setdefault("keywords", sorted({*KEYWORDS, *source.get("keywords", [])}))
    if attribution := source.get("attribution"):
        properties.setdefault("attribution", attribution)
    if not item.get_links("license"):
        item.add_links([_licence_link(link) for link in licence_links(source)])


def _licence_link(link: Mapping[str, Any]) -> pystac.Link:
    title = link.get("title") or "Licence of the source data"
    return pystac.Link("license", str(link["href"]), link.get("type"), title)
