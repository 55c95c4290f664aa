"""Where a catalog from outside can make this machine ask: nowhere but on the internet, and where the user said."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import requests
from rasterio.transform import from_origin

from stac.errors import InvalidItem, StacError, UnreadableAsset, UnsafeHref
from stac.io.addresses import check_address, look_up
from stac.io.http import RetryPolicy, WebSession
from stac.io.raster import open_raster
from stac.io.signing import Access
from stac.search.hrefs import resolve
from stac.search.static import sample_catalog
from tests.misbehaving_server import Asked, Reply, web_server

WHOLE = (sample_catalog().parent / "S2A_33TWL_20230818_0_L2A" / "B02.tif").read_bytes()
#: Everything that a URL may hold to mean a place inside this network.
INSIDE = [
    "127.0.0.1", "127.1", "0", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
    "127.0.0.1.", "10.0.0.5", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.2.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a00:1]", "[2002:7f00:1::]",
    "[2002:a00:1::]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fec0::1]", "[ff02::1]", "[2001::1]",
    "localhost", "localhost.", "LOCALHOST", "a.localhost", "mlflow", "prefect", "metadata", "x.internal",
    "metadata.google.internal", "printer.local", "１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "ⓛocalhost",
    "1.2.3.4.5", "foo.0x7f", "foo.127", "user@127.0.0.1", "example.org@127.0.0.1", "-", "a..b", "exa mple.org",
]  # fmt: skip

QUICK = Access(timeout_s=3)


@pytest.mark.parametrize("host", INSIDE)
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
def test_no_spelling_of_an_address_inside_gets_in(host: str, scheme: str) -> None:
    url = f"{scheme}://{host}/a.tif"
    with pytest.raises(UnsafeHref, match="inside this network"):
        check_address(url)
    # The same through a document on the internet, and when a file is opened in a run.
    with pytest.raises(UnsafeHref):
        resolve("https://example.org/item.json", url)
    with pytest.raises(StacError), open_raster(url, "Item X", Access(hosts=frozenset({"example.org"}), timeout_s=2)):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    "host",
    ["example.org", "8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]", "xn--mnchen-3ya.de", "s3.us-west-2.x.com"],
)
def test_hosts_on_the_internet_may_be_asked(host: str) -> None:
    check_address(f"https://{host}/a.tif")
    assert resolve("https://example.net/item.json", f"https://{host}/a.tif")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses of names, as an attacker's server of names would answer."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **options: Any) -> Any:
        if host not in known:
            return real(host, *args, **options)
        return [each for address in known[host] for each in real(address, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def test_every_address_of_a_name_counts(names: dict[str, list[str]]) -> None:
    names["two.example.org"] = ["8.8.8.8", "127.0.0.1"]
    with pytest.raises(UnsafeHref, match="inside this network"):
        look_up("https://two.example.org/a.tif")
    assert look_up("https://two.example.org/a.tif", {"two.example.org"})
    named = Access(hosts=frozenset(), timeout_s=2)
    with pytest.raises(UnsafeHref), open_raster("https://two.example.org/a.tif", "Item X", named):
        pytest.fail("it was opened")


def test_a_connection_that_ends_inside_is_closed_before_anything_is_sent(names: dict[str, list[str]]) -> None:
    asked: list[Asked] = []
    names["rebound.example.org"] = ["127.0.0.1"]
    with web_server(lambda each: asked.append(each) or Reply()) as url:
        port = url.rstrip("/").rpartition(":")[2]
        session = WebSession(RetryPolicy(2, 5, 0))
        with pytest.raises(UnsafeHref, match="inside this network"):
            session.get(f"http://rebound.example.org:{port}/a.json")
        trusted = WebSession(RetryPolicy(2, 5, 0), named={"rebound.example.org"})
        assert trusted.get(f"http://rebound.example.org:{port}/a.json").ok
    assert len(asked) == 1


def test_redirections_into_this_network_are_not_followed() -> None:
    """The server is named by the user, where it sends us is not: neither our client nor GDAL goes there."""
    secret: list[Asked] = []
    with web_server(lambda each: secret.append(each) or Reply(content=WHOLE)) as inner:

        def outer(_: Asked) -> Reply:
            return Reply(302, b"", headers={"Location": f"{inner.replace('127.0.0.1', 'localhost')}a.tif"})

        with web_server(outer) as url:
            named = {"127.0.0.1"}
            with pytest.raises(UnsafeHref, match=r"sends us elsewhere, .* inside this network") as refused:
                WebSession(RetryPolicy(2, 5, 0), named=named).get(f"{url}a.json?token=hidden")
            assert "hidden" not in str(refused.value)
            for access in (QUICK, Access(hosts=frozenset(named), timeout_s=3)):
                with pytest.raises(UnsafeHref), open_raster(f"{url}a.tif", "Item X", access):
                    pytest.fail("it was opened")
    assert secret == []


def test_redirections_to_a_host_that_may_be_asked_are_followed() -> None:
    access = Access(hosts=frozenset({"127.0.0.1"}), timeout_s=3)
    with (
        web_server(lambda _: Reply(content=WHOLE)) as inner,
        web_server(lambda _: Reply(307, b"", headers={"Location": f"{inner}b.tif"})) as url,
        open_raster(f"{url}a.tif", "Item X", access) as file,
    ):
        assert file.shape == (480, 768)


BODIES = {
    "vrt": b'<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand><SimpleSource><SourceFilename>/etc/passwd'
    b"</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    "wms": b'<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:1/</ServerUrl></Service></GDAL_WMS>',
    "wmts": b"<GDAL_WMTS><GetCapabilitiesUrl>http://127.0.0.1:1/</GetCapabilitiesUrl></GDAL_WMTS>",
    "wcs": b"<WCS_GDAL><ServiceURL>http://127.0.0.1:1/</ServiceURL></WCS_GDAL>",
    "gti": b"<GDALTileIndexDataset><IndexDataset>/etc/passwd</IndexDataset></GDALTileIndexDataset>",
    "json": b'{"type": "FeatureCollection", "stac_version": "1.0.0", "features": []}',
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "html": b"<html></html>",
}


@pytest.mark.parametrize("kind", BODIES)
def test_only_two_formats_are_opened(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(BODIES[kind])
    with web_server(lambda _: Reply(content=BODIES[kind])) as url:
        for place in (f"{url}a.tif", str(tmp_path / "a.tif"), (tmp_path / "a.tif").as_uri()):
            with pytest.raises(UnreadableAsset), open_raster(place, "Item X", QUICK):
                pytest.fail("it was opened")


VIRTUAL = [
    "/vsizip//tmp/a.zip/a.tif", "/vsimem/a.tif", "//vsizip/a", "file:///vsizip//tmp/a.zip", "file:////vsizip/a",
    "file:///vsicurl/http://127.0.0.1/", "file:///%76sizip/a", "/x/../vsimem/a",
]  # fmt: skip


@pytest.mark.parametrize("href", [*VIRTUAL, "zip:///tmp/a.zip!a.tif", "zip+https://a.org/a.zip", "ftp://a.org/a.tif"])
def test_virtual_paths_are_not_opened(href: str) -> None:
    for base in ("/data/catalog.json", "https://example.org/item.json"):
        if base.startswith("/") or not href.startswith("/"):  # on a server /vsizip/ is a folder like any other
            with pytest.raises(UnsafeHref):
                resolve(base, href)
    with pytest.raises(UnsafeHref), open_raster(href, "Item X", QUICK):
        pytest.fail("it was opened")


def test_sidecars_are_not_asked_for() -> None:
    paths: list[str] = []
    with (
        web_server(lambda each: paths.append(each.path) or Reply(content=WHOLE)) as url,
        open_raster(f"{url}a.tif", "Item X", QUICK) as file,
    ):
        file.read(1)
    assert set(paths) == {"/a.tif"}


def test_a_block_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one-tile.tif"
    side = 17_000
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    tiled = {"tiled": True, "blockxsize": side // 16 * 16, "blockysize": side // 16 * 16, "sparse_ok": True}
    with rasterio.open(path, "w", **profile, **tiled, compress="deflate", transform=from_origin(0, 0, 10, 10)):
        pass
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidItem, match="are not read"), open_raster(str(path), "Item X", QUICK):
        pytest.fail("it was opened")


def test_a_whole_scene_in_one_strip_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "strip.tif"
    profile = {"driver": "GTiff", "width": 300, "height": 200, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, blockysize=200, transform=from_origin(0, 0, 10, 10)) as file:
        file.write(np.full((1, 200, 300), 7, np.uint16))
    with open_raster(str(path), "Item X", QUICK) as file:
        assert int(file.read(1).sum()) == 7 * 300 * 200


def test_requests_know_the_same_rule() -> None:
    session = WebSession(RetryPolicy(2, 5, 0))
    for host in ("127.0.0.1:9", "2130706433", "localhost:9"):
        with pytest.raises((UnsafeHref, requests.RequestException)):
            session.get(f"http://{host}/")
