"""What a source says of itself goes with its products; links that run where they are clicked do not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest

from stac.catalog.documents import collection_document
from stac.product.item import credit, may_be_shown, public_href

BAD = [
    "javascript:alert(1)", "JavaScript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "vbscript:x",
    "data:text/html,<script>alert(1)</script>", "blob:x", "file:///etc/passwd", "//evil.example/x", "./LICENSE",
    "ftp://a.org/x", "http://", "https:///x", "https://me:hush@a.org/x", "https://a.org/x?token=hush",
    "https://a.org/\u202ex", "", None, 7,
]  # fmt: skip


def item() -> pystac.Item:
    return pystac.Item(
        "x", {"type": "Point", "coordinates": [0, 0]}, [0, 0, 0, 0], datetime(2023, 8, 18, tzinfo=UTC), {}
    )


def source(href: Any) -> dict[str, Any]:
    return {
        "license": "other",
        "providers": [{"name": "Somebody", "roles": ["host"], "url": href}],
        "links": [{"rel": "license", "href": href}],
    }


@pytest.mark.parametrize("href", BAD)
def test_no_link_but_of_a_web_page_is_published(href: Any) -> None:
    assert not may_be_shown(href)
    product = item()
    credit(product, source(href), "1")
    assert product.get_links("license") == []
    assert product.properties["providers"][0] == {"name": "Somebody", "roles": ["host"]}
    collection = collection_document("unveil-cloud-free", None, [], source(href), None, "1")
    assert not [link for link in collection["links"] if link["rel"] == "license"]
    assert collection["providers"][0] == {"name": "Somebody", "roles": ["host"]}


def test_links_of_web_pages_are_published() -> None:
    page, product = "https://creativecommons.org/licenses/by/4.0/", item()
    credit(product, source(page), "1")
    assert [link.href for link in product.get_links("license")] == [page]
    assert product.properties["providers"][0]["url"] == page
    assert page in json.dumps(collection_document("unveil-cloud-free", None, [], source(page), None, "1")["links"])


@pytest.mark.parametrize("href", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
def test_a_canonical_link_of_another_kind_is_passed_over(href: str, tmp_path: Path) -> None:
    found = item()
    found.set_self_href(str(tmp_path / "x.json"))
    found.add_link(pystac.Link("canonical", href))
    assert public_href(found) == str(tmp_path / "x.json")
