"""The embedded STAC API, searched by real clients over loopback."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pystac
import pytest
from pystac_client import Client

from stac.embedded_api import serve_api
from stac.errors import InvalidInput, InvalidQuery, SourceUnavailable, UnreadableCatalog, UnsafeHref
from stac.grid import cell_of
from stac.query import Query
from stac.sample_catalog import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from stac.sources import Patience, open_source
from stac.sources.api import ApiSource
from stac.sources.static import StaticSource
from stac.stack import read_stack
from tests import misbehaving_server
from tests.misbehaving_server import Asked, Reply

pytestmark = pytest.mark.integration
WHOLE = Query.parse(SAMPLE_COLLECTION, SAMPLE_BBOX, SAMPLE_INTERVAL)


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with serve_api(sample_catalog()) as url:
        yield url


def test_it_is_recognised_as_an_api(api: str) -> None:
    source = open_source(api)
    assert isinstance(source, ApiSource)
    assert source.collections() == [SAMPLE_COLLECTION]


def test_the_collection_is_the_same_through_both_sources(api: str) -> None:
    one, other = (
        source.collection(SAMPLE_COLLECTION) for source in (ApiSource(api), open_source(str(sample_catalog())))
    )
    for name in ("license", "providers", "description", "keywords"):
        assert one[name] == other[name]


def test_pages_of_three_give_every_item_once(api: str) -> None:
    paged = [item.id for item in ApiSource(api, page=3).search(WHOLE)]
    assert len(paged) == len(set(paged)) == 10
    assert paged == [item.id for item in StaticSource(str(sample_catalog())).search(WHOLE)]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_plain_client_pages_and_counts(api: str, method: str) -> None:
    search = Client.open(api).search(
        method=method, collections=[SAMPLE_COLLECTION], bbox=SAMPLE_BBOX, datetime=WHOLE.interval, limit=3
    )
    assert search.matched() == 10
    assert [len(page["features"]) for page in search.pages_as_dicts()] == [3, 3, 3, 1]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_query_sort_and_fields(api: str, method: str) -> None:
    search = Client.open(api).search(
        method=method,
        collections=[SAMPLE_COLLECTION],
        query={"eo:cloud_cover": {"gt": 30}},
        sortby=[{"field": "properties.eo:cloud_cover", "direction": "asc"}],
        fields={"include": ["properties.eo:cloud_cover"], "exclude": []},
    )
    found = list(search.items_as_dicts())
    covers = [item["properties"]["eo:cloud_cover"] for item in found]
    assert len(covers) == 4 and covers == sorted(covers) and min(covers) > 30
    assert all(set(item["properties"]) == {"eo:cloud_cover"} and "assets" not in item for item in found)


def test_intersects_and_ids(api: str) -> None:
    client = Client.open(api)
    north = {"type": "Point", "coordinates": [15.35, 46.35]}
    assert {i.id.split("_")[1] for i in client.search(intersects=north).items()} == {"33TWM"}
    assert [i.id for i in client.search(ids=["S2A_33TWM_20230815_0_L2A"]).items()] == ["S2A_33TWM_20230815_0_L2A"]


def test_items_of_a_collection_and_one_item(api: str) -> None:
    collection = Client.open(api).get_collection(SAMPLE_COLLECTION)
    assert collection is not None
    assert len(list(collection.get_items())) == 10
    item = collection.get_item("S2A_33TWM_20230815_0_L2A")
    assert item is not None and item.assets["blue"].href.startswith(f"{api}assets/")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("collections/none", 404),
        ("collections/none/items", 404),
        (f"collections/{SAMPLE_COLLECTION}/items/none", 404),
        ("search?bbox=1,2,3", 400),
        ("search?bbox=1,9,3,2", 400),
        ("search?datetime=yesterday", 400),
        ("search?token=x", 400),
        ("search?query=[]", 400),
        ("search?query={", 400),
        ('search?query={"eo:cloud_cover":{"like":1}}', 400),
        ('search?intersects={"type":"Polygon"}', 400),
        ("assets/../../pyproject.toml", 404),
        ("assets/%2e%2e/%2e%2e/pyproject.toml", 404),
        ("assets//etc/passwd", 404),
    ],
)
def test_wrong_requests_get_a_clear_status(api: str, path: str, status: int) -> None:
    assert httpx.get(f"{api}{path}", timeout=10).status_code == status


def test_assets_answer_byte_ranges(api: str) -> None:
    item = ApiSource(api).search(WHOLE)[0]
    href = item.assets["blue"].href
    whole = httpx.get(href, timeout=10).content
    part = httpx.get(href, headers={"Range": "bytes=100-199", "Accept-Encoding": "br, gzip"}, timeout=10)
    assert part.status_code == 206 and part.content == whole[100:200]
    assert "content-encoding" not in part.headers


def test_pixels_over_http_equal_the_files(api: str) -> None:
    def read(items: list[pystac.Item]) -> np.ndarray:
        chosen = [item for item in items if "33TWL" in item.id][:2]
        return read_stack(chosen, cell_of(chosen[0], "blue", (15.4, 45.6, 15.5, 45.7)), ("blue", "nir")).dn

    assert np.array_equal(read(ApiSource(api).search(WHOLE)), read(StaticSource(str(sample_catalog())).search(WHOLE)))


def test_an_unknown_collection_lists_what_exists(api: str) -> None:
    with pytest.raises(InvalidQuery, match=f"landsat.*{SAMPLE_COLLECTION}"):
        ApiSource(api).search(Query.parse("landsat", None, "2023-08-10"))


def test_start_and_stop_are_silent() -> None:
    script = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from stac.embedded_api import serve_api\n"
        "from stac.sample_catalog import sample_catalog\n"
        "import httpx\n"
        "logging.getLogger('httpx').setLevel(logging.WARNING)\n"
        "with serve_api(sample_catalog()) as url:\n"
        "    client = httpx.Client(); client.get(url); client.get(url + 'collections/none')\n"
        "try: httpx.get(url)\n"
        "except httpx.ConnectError: print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_an_error_inside_still_stops_it() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), serve_api(sample_catalog()) as url:
        raise KeyboardInterrupt
    assert threading.active_count() == before
    with pytest.raises(SourceUnavailable):
        open_source(url, Patience(timeout_s=2, retries=0))


def test_a_taken_port_is_a_clear_error(api: str) -> None:
    port = int(api.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(SourceUnavailable, match="choose another port"), serve_api(sample_catalog(), port=port):
        pass


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "stac.embedded.app":
            raise ModuleNotFoundError("No module named 'stac_fastapi'", name="stac_fastapi")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidInput, match=r"pip install 'unveil-eo\[api\]'"), serve_api(sample_catalog()):
        pass


def test_files_outside_the_folder_are_not_served(tmp_path: Path) -> None:
    shutil.copytree(sample_catalog().parent, tmp_path / "c", ignore=shutil.ignore_patterns("*.tif"))
    name = "S2B_33TWM_20230810_0_L2A"
    path = tmp_path / "c" / name / f"{name}.json"
    document = json.loads(path.read_text())
    document["assets"]["blue"]["href"] = "/etc/hostname"
    path.write_text(json.dumps(document))
    with serve_api(tmp_path / "c" / "catalog.json") as url:
        assert name not in [item.id for item in ApiSource(url).search(WHOLE)]


# (path, address of the server) -> (status, headers, JSON)
Answer = Callable[[str, str], tuple[int, dict[str, str], Any]]


@contextmanager
def web_server(answer: Answer) -> Iterator[str]:
    """A real HTTP server whose answers a test decides."""

    def reply(asked: Asked) -> Reply:
        status, headers, content = answer(asked.path, asked.server)
        return Reply(status, content, headers)

    with misbehaving_server.web_server(reply) as url:
        yield url


def always(document: Any) -> Answer:
    return lambda *_: (200, {}, document)


def feature(name: str, href: str = "B02.tif") -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": SAMPLE_COLLECTION,
        "geometry": {"type": "Point", "coordinates": [15.5, 45.7]},
        "bbox": [15.5, 45.7, 15.5, 45.7],
        "properties": {"datetime": "2023-08-10T10:00:00Z"},
        "links": [],
        "assets": {"blue": {"href": href}},
    }


def page(*features: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), "links": [], **members}


def strange_api(search: Answer) -> Answer:
    """A STAC API that is in order but for its search."""

    def answer(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        if path.startswith("/search"):
            return search(path, url)
        document = {"id": SAMPLE_COLLECTION, "stac_version": "1.0.0", "description": "x", "links": []}
        if path.startswith("/collections"):
            extent = {"spatial": {"bbox": [[0, 0, 1, 1]]}, "temporal": {"interval": [[None, None]]}}
            return 200, {}, {**document, "type": "Collection", "license": "other", "extent": extent}
        conforms = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search", "collections")]
        links = [
            {"rel": "search", "href": f"{url}search", "type": "application/geo+json", "method": "POST"},
            {"rel": "data", "href": f"{url}collections"},
        ]
        return 200, {}, {**document, "type": "Catalog", "conformsTo": conforms, "links": links}

    return answer


def test_a_count_that_does_not_add_up_is_an_error() -> None:
    answer = strange_api(always(page(feature("a"), feature("b"), numberMatched=3)))
    with web_server(answer) as url, pytest.raises(SourceUnavailable, match="counts 3 matching items but sent 2"):
        open_source(url).search(WHOLE)


def test_an_item_sent_twice_is_an_error() -> None:
    answer = strange_api(always(page(feature("a"), feature("a"))))
    with web_server(answer) as url, pytest.raises(SourceUnavailable, match="1 different"):
        open_source(url).search(WHOLE)


def test_pages_without_end_are_an_error() -> None:
    def endless(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        return 200, {}, page(feature("a"), links=[{"rel": "next", "href": f"{url}search?again"}])

    with web_server(strange_api(endless)) as url, pytest.raises(SourceUnavailable, match="page after page"):
        open_source(url).search(WHOLE)


def test_a_search_of_half_the_world_is_refused() -> None:
    answer = strange_api(always(page(feature("a"), numberMatched=2_000_000)))
    with web_server(answer) as url, pytest.raises(InvalidQuery, match="narrow the box"):
        open_source(url).search(WHOLE)


def test_unsafe_items_of_an_api_are_skipped_with_reasons() -> None:
    bad = [feature("local", "file:///etc/passwd"), feature("up\n"), {**feature("broken"), "properties": {}}]
    answer = strange_api(always(page(*bad, feature("good"), numberMatched=4)))
    with web_server(answer) as url:
        source = open_source(url)
        items = source.search(WHOLE)
    assert [item.id for item in items] == ["good"]
    assert items[0].assets["blue"].href == f"{url}collections/{SAMPLE_COLLECTION}/items/B02.tif"
    assert len(source.skipped) == 3 and "may not name local files" in source.skipped[0].reason


def test_a_busy_server_is_asked_again() -> None:
    asked: list[str] = []

    def busy_twice(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        asked.append(path)
        return (429, {"Retry-After": "0"}, {}) if len(asked) < 3 else (200, {}, page(feature("a"), numberMatched=1))

    with web_server(strange_api(busy_twice)) as url:
        assert len(open_source(url).search(WHOLE)) == 1
    assert len(asked) == 3


def test_a_server_that_stays_busy_is_given_up() -> None:
    asked: list[str] = []

    def busy(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        asked.append(path)
        return 503, {"Retry-After": "0"}, {}

    with web_server(busy) as url, pytest.raises(SourceUnavailable, match="503 Service Unavailable"):
        open_source(url, Patience(retries=2))
    assert len(asked) == 3


def test_a_silent_server_runs_into_the_time_out() -> None:
    asked: list[str] = []

    def sleepy(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        asked.append(path)
        time.sleep(1)
        return 200, {}, {}

    with web_server(sleepy) as url, pytest.raises(SourceUnavailable, match="does not answer"):
        open_source(url, Patience(timeout_s=0.2, retries=1))
    assert len(asked) <= 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_retried(status: int) -> None:
    asked: list[str] = []

    def refuse(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        asked.append(path)
        return status, {}, {}

    with web_server(refuse) as url, pytest.raises(UnreadableCatalog, match=f"{status}.*check the address"):
        open_source(url)
    assert len(asked) == 1


def test_a_page_that_is_no_json_is_an_error() -> None:
    with (
        web_server(always(b"<html>")) as url,
        pytest.raises(UnreadableCatalog, match="not valid JSON"),
    ):
        open_source(url)
    answer = strange_api(always(b"<html>"))
    with web_server(answer) as url, pytest.raises(UnreadableCatalog, match="not answer like a STAC API"):
        open_source(url).search(WHOLE)


def file_server(folder: Path, failures: int = 0) -> Answer:
    """Serve the files of a folder; the first requests for a raster fail."""
    left = [failures]

    def answer(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        if path.endswith(".tif") and left[0] > 0:
            left[0] -= 1
            return 404, {}, {}
        file = folder / path.lstrip("/")
        return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, {})

    return answer


def test_a_static_catalog_on_a_web_server() -> None:
    with web_server(file_server(sample_catalog().parent)) as url:
        source = open_source(f"{url}catalog.json")
        items = source.search(WHOLE)
    assert isinstance(source, StaticSource)
    assert len(items) == 10 and items[0].assets["blue"].href == f"{url}{items[0].id}/B02.tif"


def test_a_raster_that_fails_once_is_read_again() -> None:
    with web_server(file_server(sample_catalog().parent, failures=1)) as url:
        item = open_source(f"{url}catalog.json").search(WHOLE)[1]
        cell = cell_of(item, "blue", (15.4, 45.6, 15.5, 45.7)) if "33TWL" in item.id else cell_of(item, "blue")
        stack = read_stack([item], cell, ("blue",))
    assert stack.dn.any()


def test_a_remote_catalog_may_not_name_local_files() -> None:
    def answer(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        link = {"rel": "child", "href": "file:///etc/passwd"}
        return 200, {}, {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "x", "links": [link]}

    with web_server(answer) as url, pytest.raises(UnsafeHref, match="may not name local files"):
        open_source(f"{url}catalog.json").collections()
