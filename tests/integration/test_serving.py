from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from flows.errors import InvalidSettings, ServiceUnavailable
from flows.ops.serve.app import serve, utm_definitions
from tests.support.serving import running

pytestmark = pytest.mark.integration

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
CATALOG = "/catalog/catalog.json"
TIF = "/catalog/scenes/one/visual.tif"


def _write(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def catalog_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("served")
    (parent / "secret.json").write_text("{}", encoding="utf-8")
    root = parent / "catalog"
    _write(
        root / "catalog.json",
        {"type": "Catalog", "id": "c", "links": [{"rel": "root", "href": "./catalog.json"}]},
    )
    _write(
        root / "scenes/collection.json",
        {
            "type": "Collection",
            "id": "é",
            "links": [{"rel": "root", "href": "../catalog.json"}],
        },
    )
    _write(root / "scenes/one/one.json", {"type": "Feature", "id": "one", "links": []})
    _write(root / "scenes/one/metadata.json", {"seed": 0})
    (root / "scenes/one/visual.tif").write_bytes(bytes(range(256)) * 40)
    (root / "scenes/one/thumbnail.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "scenes/one/report.html").write_text("<p>report</p>", encoding="utf-8")
    (root / "scenes/one/broken.json").write_text("{", encoding="utf-8")
    _write(root / ".staging/half.json", {"type": "Feature"})
    _write(root / "scenes/.unveil/state.json", {})
    (root / "outside.json").symlink_to(parent / "secret.json")
    return root


@pytest.fixture(scope="module")
def browser_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page and a bundle laid out as the build of STAC Browser leaves them."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "index.html").write_text(
        "<!doctype html><html><head><title>STAC Browser</title>"
        '<script defer="defer" src="/js/app.1.js"></script></head><body></body></html>',
        encoding="utf-8",
    )
    (folder / "js").mkdir()
    (folder / "js/app.1.js").write_text("1", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def client(catalog_root: Path, browser_dir: Path) -> Iterator[httpx.Client]:
    with running(catalog_root, browser_dir) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        (CATALOG, "application/json"),
        ("/catalog/scenes/collection.json", "application/json"),
        ("/catalog/scenes/one/one.json", "application/geo+json"),
        ("/catalog/scenes/one/metadata.json", "application/json"),
        ("/catalog/scenes/one/broken.json", "application/json"),
        (TIF, COG_TYPE),
        ("/catalog/scenes/one/thumbnail.png", "image/png"),
        ("/catalog/scenes/one/report.html", "text/html; charset=utf-8"),
    ],
)
def test_media_types_are_exact(client: httpx.Client, path: str, media_type: str) -> None:
    for answer in (client.get(path), client.head(path)):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == media_type


@given(first=st.integers(0, 10239), length=st.integers(1, 20000))
def test_ranges_return_exactly_these_bytes(client: httpx.Client, first: int, length: int) -> None:
    content = bytes(range(256)) * 40
    answer = client.get(TIF, headers={"Range": f"bytes={first}-{first + length - 1}"})
    expected = content[first : first + length]
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(content)}"
    assert answer.headers["content-type"] == COG_TYPE


@pytest.mark.parametrize("path", [TIF, CATALOG, "/catalog/scenes/collection.json", "/", "/scenes/one/one.json"])
def test_a_known_etag_gets_304_and_another_one_the_content(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    tag = first.headers["etag"]
    again = client.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_other_origins_may_read_ranges_and_their_headers(client: httpx.Client) -> None:
    answer = client.get(TIF, headers={"Range": "bytes=0-9", "Origin": "https://example.com"})
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert answer.headers["access-control-allow-origin"] == "*"
    assert exposed >= {"content-range", "content-length", "etag", "accept-ranges"}
    preflight = client.options(
        TIF,
        headers={
            "Origin": "https://example.com",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "range",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert preflight.status_code == 200
    assert "range" in preflight.headers["access-control-allow-headers"].lower()
    assert preflight.headers["access-control-allow-private-network"] == "true"


def test_writing_is_refused(client: httpx.Client, catalog_root: Path) -> None:
    assert (client.put(TIF, content=b"x").status_code, client.delete(TIF).status_code) == (405, 405)
    assert (catalog_root / "scenes/one/visual.tif").stat().st_size == 10240


def _raw_answer(client: httpx.Client, target: str) -> bytes:
    """Send a request line as it is; clients would tidy up `..` before sending."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
        return connection.makefile("rb").read()


@pytest.mark.parametrize(
    "target",
    [
        "/catalog/../secret.json",
        "/catalog/%2e%2e/secret.json",
        "/catalog/scenes/../../secret.json",
        "/catalog/scenes/%2e%2e%2f%2e%2e%2fsecret.json",
        "/catalog//etc/passwd",
        "/catalog/%2fetc/passwd",
        "/catalog/..%5csecret.json",
        "/catalog/outside.json",
        "/catalog/.staging/half.json",
        "/catalog/scenes/%2e%2e/.staging/half.json",
        "/catalog/scenes/.unveil/state.json",
        "/catalog/scenes",
        "/catalog/scenes/none.tif",
        "/catalog/%00",
        "/catalog/" + "a" * 3000,
        "/js/none.js",
    ],
)
def test_nothing_outside_or_hidden_is_served(client: httpx.Client, target: str) -> None:
    assert _raw_answer(client, target).split()[1] == b"404"


def test_above_the_bundle_is_nothing_but_the_start_page(client: httpx.Client) -> None:
    for target in ("/js/../../secret.json", "/%2e%2e/secret.json"):
        assert b"<html" in _raw_answer(client, target)


def test_a_document_is_served_as_it_is(client: httpx.Client, catalog_root: Path) -> None:
    assert client.get(CATALOG).content == (catalog_root / "catalog.json").read_bytes()


def test_the_folder_of_the_catalog_leads_to_the_catalog(client: httpx.Client) -> None:
    for path in ("/catalog", "/catalog/"):
        answer = client.get(path, follow_redirects=True)
        assert answer.url.path == CATALOG
        assert answer.json()["id"] == "c"


def test_pages_of_the_browser_load_the_configuration_first(client: httpx.Client) -> None:
    for path in ("/", "/index.html", "/scenes/collection.json", "/external/example.com/catalog.json"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.index("/unveil-config.js") < answer.text.index("/js/app.1.js")
    bundle = client.get("/js/app.1.js")
    assert bundle.text == "1"
    assert "immutable" in bundle.headers["cache-control"]


def test_configuration_names_the_catalog_and_every_utm_zone(client: httpx.Client) -> None:
    answer = client.get("/unveil-config.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    settings = json.loads(answer.text.split("window.UNVEIL_SETTINGS = ", 1)[1].split(";\n", 1)[0])
    assert settings["catalogPath"] == CATALOG
    assert settings["basemap"] == "graticule"
    assert settings["crs"] == utm_definitions()
    assert len(settings["crs"]) == 120


@given(code=st.sampled_from(sorted(utm_definitions())))
def test_utm_definitions_mean_the_zone_they_name(code: str) -> None:
    zone, south = int(code[-2:]), code[7] == "7"
    longitude, latitude = zone * 6 - 183, -33.0 if south else 33.0
    crs = CRS.from_wkt(utm_definitions()[code])
    east, north = Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude)
    assert east == pytest.approx(500_000, abs=0.01)
    assert (north > 5_000_000) == south
    assert utm_definitions()[code].startswith("PROJCS[")


def test_without_a_browser_the_start_page_links_the_public_one(catalog_root: Path) -> None:
    with running(catalog_root, None) as url:
        page = httpx.get(url + "/")
        assert f"https://radiantearth.github.io/stac-browser/#/external/{url}{CATALOG}" in page.text
        assert httpx.get(url + CATALOG).status_code == 200
        assert httpx.get(url + "/unknown").status_code == 404


def test_health_follows_the_catalog(tmp_path: Path) -> None:
    _write(tmp_path / "catalog.json", {"type": "Catalog", "id": "c", "links": []})
    with running(tmp_path, None) as url:
        assert httpx.get(url + "/healthz").json()["status"] == "ok"
        (tmp_path / "catalog.json").unlink()
        assert httpx.get(url + "/healthz").status_code == 503


def test_a_missing_catalog_says_to_run_the_demo(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="unveil demo"):
        serve(tmp_path / "none", "127.0.0.1", 0, None, lambda _: None)


def test_a_taken_port_is_named_with_the_option(catalog_root: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ServiceUnavailable, match=rf"Port {port} .*--port"):
            serve(catalog_root, "127.0.0.1", port, None, lambda _: None)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000), ("127.0.0.1", -1)])
def test_an_impossible_address_is_one_sentence(catalog_root: Path, host: str, port: int) -> None:
    with pytest.raises((InvalidSettings, ServiceUnavailable), match=r"--(host|port)"):
        serve(catalog_root, host, port, None, lambda _: None)


def test_a_folder_without_a_browser_is_refused(catalog_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no STAC Browser"), running(catalog_root, tmp_path):
        pass


def test_ctrl_c_ends_without_a_traceback(catalog_root: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "serve", "--no-browser", "--port", "0", "--out", str(catalog_root)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1].rstrip("/")
        assert httpx.get(url + CATALOG).status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    link = f"https://radiantearth.github.io/stac-browser/#/external/{url}{CATALOG}"
    said = f"STAC Browser is left out; open the catalog with:\n{link}\n"
    assert (process.returncode, out, err) == (0, "", said)


@pytest.mark.parametrize("path", ["/", "/catalog/catalog.json", "/healthz", "/nothing/here", "/catalog/.hidden"])
def test_a_browser_is_reported_what_to_refuse(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["frame-ancestors"] == "'none'" and policy["default-src"] in ("'self'", "'none'")
    assert "unsafe-inline" not in policy.get("script-src", "") and "http" not in policy.get("script-src", "")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
