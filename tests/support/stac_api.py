"""A STAC API on loopback: stac-fastapi in front of a static catalog in memory, its files below `/assets`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attr
import pystac
import shapely
import uvicorn
from shapely.geometry import shape
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import create_get_request_model, create_post_request_model
from stac_fastapi.extensions import TokenPaginationExtension
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import NotFoundError
from stac_fastapi.types.requests import get_base_url
from stac_fastapi.types.rfc3339 import str_to_interval
from starlette.staticfiles import StaticFiles


@attr.s(auto_attribs=True)
class MemoryClient(BaseCoreClient):
    """Answers requests from collections and items in memory; a token is the number of items before the page."""

    collections: dict[str, dict[str, Any]] = attr.ib(kw_only=True)
    items: list[dict[str, Any]] = attr.ib(kw_only=True)

    def all_collections(self, **kwargs: Any) -> dict[str, Any]:
        found = [self.get_collection(name, **kwargs) for name in self.collections]
        return {"collections": found, "links": [], "numberMatched": len(found), "numberReturned": len(found)}

    def get_collection(self, collection_id: str, **kwargs: Any) -> dict[str, Any]:
        if collection_id not in self.collections:
            raise NotFoundError(f"Collection {collection_id} does not exist.")
        address = f"{_base(kwargs)}collections/{collection_id}"
        links = [{"rel": "self", "href": address}, {"rel": "items", "href": f"{address}/items"}]
        return {**self.collections[collection_id], "links": links}

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> dict[str, Any]:
        found = [item for item in self.items if (item["collection"], item["id"]) == (collection_id, item_id)]
        if not found:
            raise NotFoundError(f"Item {item_id} does not exist in collection {collection_id}.")
        return self._answer(found[0], _base(kwargs))

    def item_collection(self, collection_id: str, **kwargs: Any) -> dict[str, Any]:
        self.get_collection(collection_id, **kwargs)
        return self.get_search(collections=[collection_id], **kwargs)

    def get_search(self, limit: int | None = 10, token: str | None = None, **kwargs: Any) -> dict[str, Any]:
        request = kwargs["request"]
        page, following = self._page(kwargs, limit, token, _base(kwargs))
        query = urlencode({**request.query_params, "token": following})
        link = {"rel": "next", "method": "GET", "href": f"{request.url.replace(query='')}?{query}"}
        return page | {"links": [link] if following else []}

    def post_search(self, search_request: Any, **kwargs: Any) -> dict[str, Any]:
        body = search_request.model_dump(mode="json", exclude_none=True, by_alias=True)
        page, following = self._page(body, search_request.limit, body.get("token"), _base(kwargs))
        again = {"body": body | {"token": following}, "merge": False}
        link = {"rel": "next", "method": "POST", "href": f"{_base(kwargs)}search", **again}
        return page | {"links": [link] if following else []}

    def _page(
        self, asked: dict[str, Any], limit: int | None, token: str | None, base: str
    ) -> tuple[dict[str, Any], str]:
        found = [item for item in self.items if _matches(item, asked)]
        first, size = int(token or 0), limit or 10
        features = [self._answer(item, base) for item in found[first : first + size]]
        counts = {"numberMatched": len(found), "numberReturned": len(features)}
        following = str(first + size) if first + size < len(found) else ""
        return {"type": "FeatureCollection", "features": features, **counts}, following

    def _answer(self, item: dict[str, Any], base: str) -> dict[str, Any]:
        assets = {key: asset | {"href": f"{base}assets/{asset['href']}"} for key, asset in item["assets"].items()}
        address = f"{base}collections/{item['collection']}/items/{item['id']}"
        return {**item, "assets": assets, "links": [{"rel": "self", "href": address}]}


def _base(kwargs: dict[str, Any]) -> str:
    return f"{get_base_url(kwargs['request']).rstrip('/')}/"


def _matches(item: dict[str, Any], asked: dict[str, Any]) -> bool:
    interval = str_to_interval(asked["datetime"]) if isinstance(asked.get("datetime"), str) else asked.get("datetime")
    start, end = interval if isinstance(interval, tuple) else (interval, interval)
    when = datetime.fromisoformat(item["properties"]["datetime"])
    area = shapely.box(*asked["bbox"]) if asked.get("bbox") else None
    return (
        item["collection"] in (asked.get("collections") or [item["collection"]])
        and item["id"] in (asked.get("ids") or [item["id"]])
        and (start is None or start <= when)
        and (end is None or when <= end)
        and (area is None or shape(item["geometry"]).intersects(area))
    )


def application(root: Path) -> Any:
    """Return the application of a static catalog whose files lie below its folder."""
    catalog = pystac.Catalog.from_file(str(root))
    items = []
    for item in catalog.get_items(recursive=True):
        document = item.to_dict(include_self_link=False)
        for asset in document["assets"].values():
            asset["href"] = Path(item.get_self_href() or "").parent.joinpath(asset["href"]).resolve()
            asset["href"] = asset["href"].relative_to(root.parent.resolve()).as_posix()
        items.append(document)
    collections = {each.id: each.to_dict(include_self_link=False) for each in catalog.get_all_collections()}
    paging = TokenPaginationExtension()
    client = MemoryClient(collections=collections, items=items)
    client.extensions = [paging]
    api = StacApi(
        settings=ApiSettings(_env_file=None),
        client=client,
        extensions=[paging],
        search_get_request_model=create_get_request_model([paging]),
        search_post_request_model=create_post_request_model([paging]),
        middlewares=[],
    )
    api.app.mount("/assets", StaticFiles(directory=root.parent))
    return api.app


@contextmanager
def serve_api(root: Path) -> Iterator[str]:
    """Serve the `catalog.json` of a static catalog as a STAC API and yield its address, ending in a slash."""
    server = uvicorn.Server(uvicorn.Config(application(root), port=0, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the STAC API does not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
