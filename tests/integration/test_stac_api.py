"""STAC APIs, real and broken ones, searched over loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest

from stac.errors import InvalidQuery, SourceUnavailable, UnreadableCatalog, UnsafeHref
from stac.grid.cell import cell_of
from stac.io.http import RetryPolicy
from stac.load.stack import read_stack
from stac.search.api import ApiSource
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, StaticSource, sample_catalog
from tests import misbehaving_server
from tests.misbehaving_server import Asked, Reply
from tests.support.stac_api import serve_api

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


def test_pixels_over_http_equal_the_files(api: str) -> None:
    def read(items: list[pystac.Item]) -> np.ndarray:
        chosen = [item for item in items if "33TWL" in item.id][:2]
        return read_stack(chosen, cell_of(chosen[0], "blue", (15.4, 45.6, 15.5, 45.7)), ("blue", "nir")).dn

    assert np.array_equal(read(ApiSource(api).search(WHOLE)), read(StaticSource(str(sample_catalog())).search(WHOLE)))


def test_an_unknown_collection_lists_what_exists(api: str) -> None:
    with pytest.raises(InvalidQuery, match=f"landsat.*{SAMPLE_COLLECTION}"):
        ApiSource(api).search(Query.parse("landsat", None, "2023-08-10"))


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


def test_an_item_sent_twice_is_used_once_and_listed() -> None:
    answer = strange_api(always(page(feature("a"), feature("a"))))
    with web_server(answer) as url:
        source = open_source(url)
        assert [item.id for item in source.search(WHOLE)] == ["a"]
    assert [skipped.item_id for skipped in source.skipped] == ["a"]


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
        open_source(url, RetryPolicy(retries=2))
    assert len(asked) == 3


def test_a_silent_server_runs_into_the_time_out() -> None:
    asked: list[str] = []

    def sleepy(path: str, url: str) -> tuple[int, dict[str, str], Any]:
        asked.append(path)
        time.sleep(1)
        return 200, {}, {}

    with web_server(sleepy) as url, pytest.raises(SourceUnavailable, match="does not answer"):
        open_source(url, RetryPolicy(timeout_s=0.2, retries=1))
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


def test_a_page_that_is_not_json_is_an_error() -> None:
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
