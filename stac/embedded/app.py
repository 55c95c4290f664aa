"""The web application: stac-fastapi in front of a catalog in memory. Needs the extra `api`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import attr
from shapely.errors import ShapelyError
from shapely.geometry import shape
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import (
    ItemCollectionUri,
    create_get_request_model,
    create_post_request_model,
    create_request_model,
)
from stac_fastapi.extensions import (
    FieldsExtension,
    QueryExtension,
    SortExtension,
    TokenPaginationExtension,
)
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import InvalidQueryParameter, NotFoundError
from stac_fastapi.types.requests import get_base_url
from stac_fastapi.types.rfc3339 import str_to_interval
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from stac.embedded.criteria import Criteria, SortKey, pick_fields, select
from stac.embedded.memory import ASSETS, MemoryCatalog, collection_document, item_document
from stac.errors import InvalidQuery

#: Of both versions of the extension: clients look for the older one.
_SORT = [f"https://api.stacspec.org/v1.{minor}.0/item-search#sort" for minor in (0, 1)]
_TITLE = "Unveil embedded STAC API"
_DESCRIPTION = "A static STAC catalog, searchable. No database; for one machine."


@attr.s(auto_attribs=True)
class MemoryClient(BaseCoreClient):
    """Answers STAC API requests from a catalog in memory."""

    catalog: MemoryCatalog = attr.ib(kw_only=True)

    def all_collections(self, **kwargs: Any) -> dict[str, Any]:
        """Answer `GET /collections`."""
        base = _base(kwargs)
        found = [collection_document(document, base) for document in self.catalog.collections.values()]
        links = [{"rel": "self", "href": f"{base}collections"}, {"rel": "root", "href": base}]
        return {
            "collections": found,
            "links": links,
            "numberMatched": len(found),
            "numberReturned": len(found),
        }

    def get_collection(self, collection_id: str, **kwargs: Any) -> dict[str, Any]:
        """Answer `GET /collections/{id}`."""
        self._require(collection_id)
        return collection_document(self.catalog.collections[collection_id], _base(kwargs))

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> dict[str, Any]:
        """Answer `GET /collections/{id}/items/{id}`."""
        self._require(collection_id)
        found = select(self.catalog.records, Criteria(collections=[collection_id], ids=[item_id]))
        if not found:
            raise NotFoundError(f"Item {item_id} does not exist in collection {collection_id}.")
        return item_document(found[0].document, _base(kwargs))

    def item_collection(
        self,
        collection_id: str,
        bbox: Sequence[float] | None = None,
        datetime: str | None = None,
        limit: int | None = 10,
        token: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Answer `GET /collections/{id}/items`."""
        self._require(collection_id)
        start, end = _interval(datetime)
        criteria = Criteria(collections=[collection_id], bbox=bbox, start=start, end=end)
        return self._page(criteria, limit, token, kwargs, None)

    def get_search(
        self,
        collections: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        bbox: Sequence[float] | None = None,
        intersects: str | None = None,
        datetime: str | None = None,
        limit: int | None = 10,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Answer `GET /search`."""
        start, end = _interval(datetime)
        criteria = Criteria(
            collections=collections,
            ids=ids,
            bbox=bbox,
            intersects=_geometry(_json(intersects)),
            start=start,
            end=end,
            query=_json(kwargs.get("query")),
            sort=[SortKey.parse(text) for text in kwargs.get("sortby") or ()],
        )
        fields = kwargs.get("fields") or ()
        include = [field.lstrip("+ ") for field in fields if not field.startswith("-")]
        exclude = [field[1:] for field in fields if field.startswith("-")]
        return self._page(criteria, limit, kwargs.get("token"), kwargs, None, include, exclude)

    def post_search(self, search_request: Any, **kwargs: Any) -> dict[str, Any]:
        """Answer `POST /search`."""
        body = search_request.model_dump(mode="json", exclude_none=True, by_alias=True)
        start, end = _interval(body.get("datetime"))
        criteria = Criteria(
            collections=body.get("collections"),
            ids=body.get("ids"),
            bbox=body.get("bbox"),
            intersects=_geometry(body.get("intersects")),
            start=start,
            end=end,
            query=body.get("query"),
            sort=[SortKey(key["field"], key.get("direction") == "desc") for key in body.get("sortby") or ()],
        )
        fields = body.get("fields") or {}
        include, exclude = list(fields.get("include") or ()), list(fields.get("exclude") or ())
        return self._page(criteria, search_request.limit, body.get("token"), kwargs, body, include, exclude)

    def _require(self, collection_id: str) -> None:
        if collection_id not in self.catalog.collections:
            raise NotFoundError(f"Collection {collection_id} does not exist.")

    def _page(
        self,
        criteria: Criteria,
        limit: int | None,
        token: str | None,
        request: Mapping[str, Any],
        body: dict[str, Any] | None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return one page of a search; a token is the number of items before the page."""
        try:
            found = select(self.catalog.records, criteria)
        except InvalidQuery as error:
            raise InvalidQueryParameter(str(error)) from error
        base, first, size = _base(request), _offset(token), limit or 10
        page = [item_document(record.document, base) for record in found[first : first + size]]
        links = [{"rel": "root", "type": "application/json", "href": base}]
        if first + size < len(found):
            links.append(_next(request, body, str(first + size)))
        features = [pick_fields(item, include, exclude) for item in page]
        counts = {"numberMatched": len(found), "numberReturned": len(features)}
        return {"type": "FeatureCollection", "features": features, "links": links, **counts}


def _base(request: Mapping[str, Any]) -> str:
    """Return the address of the API as the client wrote it, ending in a slash."""
    return f"{get_base_url(request['request']).rstrip('/')}/"


def _next(request: Mapping[str, Any], body: dict[str, Any] | None, token: str) -> dict[str, Any]:
    url = request["request"].url
    link = {"rel": "next", "type": "application/geo+json"}
    if body is not None:
        address = f"{_base(request)}search"
        return {**link, "method": "POST", "href": address, "body": {**body, "token": token}, "merge": False}
    pairs = {**request["request"].query_params, "token": token}
    return {**link, "method": "GET", "href": f"{url.replace(query='')}?{urlencode(pairs)}"}


def _offset(token: str | None) -> int:
    if not token:
        return 0
    if not token.isdecimal():
        raise InvalidQueryParameter(f"The token {token!r} is not one of this API's; follow its next links.")
    return int(token)


def _interval(text: str | None) -> tuple[Any, Any]:
    parsed = str_to_interval(text)
    return parsed if isinstance(parsed, tuple) else (parsed, parsed)


def _json(text: str | None) -> Any:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidQueryParameter(f"A parameter is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InvalidQueryParameter("The parameters query and intersects are JSON objects.")
    return value


def _geometry(geojson: dict[str, Any] | None) -> Any:
    if geojson is None:
        return None
    try:
        return shape(geojson.get("geometry", geojson))
    except (ShapelyError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidQueryParameter(f"intersects is no GeoJSON geometry ({error}).") from error


def build_app(catalog: MemoryCatalog) -> Starlette:
    """Return the application: the STAC API, and the catalog's files (with byte ranges) below `/assets`."""
    paging = TokenPaginationExtension()
    extensions = [QueryExtension(), SortExtension(conformance_classes=_SORT), FieldsExtension(), paging]
    settings = ApiSettings(
        _env_file=None,
        stac_fastapi_title=_TITLE,
        stac_fastapi_description=_DESCRIPTION,
        stac_fastapi_landing_id="unveil-embedded",
    )
    client = MemoryClient(catalog=catalog)
    client.extensions, client.title, client.description = extensions, _TITLE, _DESCRIPTION
    client.landing_page_id = settings.stac_fastapi_landing_id
    api = StacApi(
        settings=settings,
        client=client,
        extensions=extensions,
        search_get_request_model=create_get_request_model(extensions),
        search_post_request_model=create_post_request_model(extensions),
        items_get_request_model=create_request_model(
            "ItemCollectionUri", base_model=ItemCollectionUri, mixins=[paging.GET], request_type="GET"
        ),
        # Without the default compression: it would rewrite byte ranges of rasters.
        middlewares=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST", "OPTIONS"])],
    )
    app: Starlette = api.app
    app.mount(f"/{ASSETS}", StaticFiles(directory=catalog.root), name=ASSETS)
    return app
