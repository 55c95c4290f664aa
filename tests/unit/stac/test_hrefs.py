from __future__ import annotations

import pytest

from stac.errors import UnsafeHref
from stac.search.hrefs import checked_id, resolve

REMOTE = "https://example.org/stac/items/a.json"
LOCAL = "/data/catalog/items/a.json"


@pytest.mark.parametrize(
    ("base", "href", "expected"),
    [
        (REMOTE, "./B02.tif", "https://example.org/stac/items/B02.tif"),
        (REMOTE, "/B02.tif", "https://example.org/B02.tif"),
        (REMOTE, "s3://bucket/B02.tif", "s3://bucket/B02.tif"),
        (LOCAL, "../B02.tif", "/data/catalog/B02.tif"),
        (LOCAL, "/elsewhere/B02.tif", "/elsewhere/B02.tif"),
        (LOCAL, "file:///else%20where/B02.tif", "/else where/B02.tif"),
        (LOCAL, "https://example.org/B02.tif", "https://example.org/B02.tif"),
    ],
)
def test_links_become_absolute(base: str, href: str, expected: str) -> None:
    assert resolve(base, href) == expected


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "zip+file:///etc/a.zip!b.tif", "vrt:///etc/passwd", "NETCDF:/etc/a.nc", ""]
)
def test_a_remote_catalog_may_not_name_local_files(href: str) -> None:
    with pytest.raises(UnsafeHref):
        resolve(REMOTE, href)


@pytest.mark.parametrize("href", ["/vsizip//tmp/a.zip", "ftp://example.org/a", "gopher://x", None, 7, "a\x00b"])
def test_odd_links_of_a_local_catalog_are_refused(href: object) -> None:
    with pytest.raises(UnsafeHref):
        resolve(LOCAL, href)


INSIDE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost:8080/a.tif",
    "https://127.0.0.1/a.tif",
    "http://10.0.0.5/a.tif",
    "http://[::1]/a.tif",
    "http://metadata.google.internal/a",
]


@pytest.mark.parametrize("href", INSIDE)
def test_a_remote_catalog_may_not_name_addresses_inside_this_network(href: str) -> None:
    with pytest.raises(UnsafeHref, match="inside this network"):
        resolve(REMOTE, href)


@pytest.mark.parametrize("href", INSIDE)
def test_a_catalog_inside_this_network_may(href: str) -> None:
    assert resolve("http://192.168.1.7/catalog.json", href) == href
    assert resolve(LOCAL, href) == href


def test_a_virtual_path_of_a_remote_catalog_stays_on_its_server() -> None:
    assert resolve(REMOTE, "/vsizip//etc/passwd").startswith("https://example.org/")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x7f", 5, None, "x" * 256])
def test_what_is_not_an_id_is_refused(name: object) -> None:
    with pytest.raises(UnsafeHref):
        checked_id(name)


@pytest.mark.parametrize("name", ["S2B_33TWM_20230810_0_L2A", "../x", "a/b", "urn:eop:é 1", ".hidden", "-x"])
def test_ids_are_kept_as_they_are(name: str) -> None:
    assert checked_id(name) == name
