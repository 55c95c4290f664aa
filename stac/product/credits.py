"""Whom products credit: providers and licences of the source, this software, and the papers of the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pystac

from stac.io.addresses import host_of, is_web
from stac.io.secrets import holds_secret, without_secret

PROCESSOR: dict[str, Any] = {
    "name": "Unveil",
    "description": "Clouds removed with Diffusion Enhancement; every restored pixel marked.",
    "roles": ["processor"],
}
#: Keywords of every product beside those of its source.
KEYWORDS = ("cloud-free", "mosaic", "cloud removal")
_AUTHORS = "Sui, J., Ma, Y., Yang, W., Zhang, X., Pun, M.-O., Liu, J."
PAPER = "Diffusion Enhancement for Cloud Removal in Ultra-Resolution Remote Sensing Imagery"
#: The paper of the method, as preprint and in its journal, in the words of the scientific extension.
PUBLICATIONS: tuple[dict[str, str], ...] = (
    {"doi": "10.48550/arXiv.2401.15105", "citation": f"{_AUTHORS} (2024). {PAPER}. arXiv:2401.15105."},
    {
        "doi": "10.1109/TGRS.2024.3411671",
        "citation": f"{_AUTHORS} (2024). {PAPER}. IEEE Transactions on Geoscience and Remote Sensing, 62, 1-14.",
    },
)


def licence_of(source: Mapping[str, Any]) -> str:
    """Return the licence of a source collection in the words of STAC 1.1, `other` where it names none."""
    # `proprietary` and `various` are of STAC 1.0.
    licence = source.get("license")
    return str(licence) if licence not in (None, "", "proprietary", "various") else "other"


def providers_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the providers that a document from outside names; only addresses of web pages are kept."""
    found = [dict(each) for each in document.get("providers") or [] if isinstance(each, Mapping) and each.get("name")]
    return [{key: value for key, value in each.items() if key != "url" or may_be_shown(value)} for each in found]


def licence_links(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the links to licences in a document from outside that lead to web pages."""
    links = [dict(link) for link in document.get("links") or [] if isinstance(link, Mapping)]
    return [link for link in links if link.get("rel") == "license" and may_be_shown(link.get("href"))]


def may_be_shown(href: object) -> bool:
    """Return whether an address from outside may become a link: `javascript:` and `data:` run where it is clicked."""
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


def citations() -> list[pystac.Link]:
    """Return links to the publications, as the scientific extension asks for."""
    return [
        pystac.Link("cite-as", f"https://doi.org/{each['doi']}", "text/html", each["citation"]) for each in PUBLICATIONS
    ]


def public_href(item: pystac.Item) -> str | None:
    """Return the address of a source item: where its archive keeps it, else where it was found; never with a login."""
    canonical = item.get_single_link("canonical")
    named = without_secret(str(canonical.href)) if canonical is not None else ""
    found = item.get_self_href()
    if may_be_shown(named):
        return named
    return without_secret(found) if found else None
