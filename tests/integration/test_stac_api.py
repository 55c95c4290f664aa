"""A real STAC API (stac-fastapi), and a static catalog on a web server; `test_searching` has those that misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pystac
import pytest

from stac.errors import InvalidQuery
from stac.grid.cell import cell_of
from stac.load.stack import read_stack
from stac.search.api import ApiSource
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, StaticSource, sample_catalog
from tests.misbehaving_server import Asked, Reply, web_server
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


def served(folder: Path, failures: int = 0) -> Callable[[Asked], Reply]:
    """Serve the files of a folder; the first requests for a raster fail."""
    left = [failures]

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith(".tif") and left[0] > 0:
            left[0] -= 1
            return Reply(404)
        file = folder / asked.path.lstrip("/")
        return Reply(content=file.read_bytes()) if file.is_file() else Reply(404)

    return answer


def test_a_static_catalog_on_a_web_server() -> None:
    with web_server(served(sample_catalog().parent)) as url:
        source = open_source(f"{url}catalog.json")
        items = source.search(WHOLE)
    assert isinstance(source, StaticSource)
    assert len(items) == 10 and items[0].assets["blue"].href == f"{url}{items[0].id}/B02.tif"


def test_a_raster_that_fails_once_is_read_again() -> None:
    with web_server(served(sample_catalog().parent, failures=1)) as url:
        item = open_source(f"{url}catalog.json").search(WHOLE)[1]
        cell = cell_of(item, "blue", (15.4, 45.6, 15.5, 45.7)) if "33TWL" in item.id else cell_of(item, "blue")
        assert read_stack([item], cell, ("blue",)).dn.any()
