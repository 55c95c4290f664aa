"""A catalog followed by a real STAC API and a real pgstac (PostGIS, stac-fastapi-pgstac), and such an API as source."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pystac
import pytest
import rasterio
import requests
from pystac_client import Client

from flows.processing.publishing import ITEM_FILE, catalog_of, indexes_of, publish_staged
from flows.settings import RunSettings
from stac.catalog.indexes.base import open_index
from stac.catalog.product_collections import ProductCollection, copy_catalog
from stac.catalog.publish import StaticCatalog
from stac.errors import IndexNotUpdated, IndexRefused, IndexUnavailable, InvalidProduct, InvalidQuery
from stac.grid.cell import cell_of
from stac.load.stack import read_stack
from stac.search.api import ApiSource
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from tests.command import unveil
from tests.installed import Needed, require
from tests.misbehaving_server import TransactionApi, files, web_server
from tests.support import pgstac
from tests.support.catalogs import problems_in

pytestmark = pytest.mark.integration
KINDS = ("api", "pgstac")


@pytest.fixture(scope="module")
def service() -> Iterator[pgstac.Service]:
    require(Needed.POSTGRESQL, Needed.POSTGIS)
    with pgstac.service() as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNVEIL_INDEX_TOKEN", found.token)
        yield found


@pytest.fixture
def catalog(tiny_run: Any, tmp_path: Path) -> Path:
    root = tmp_path / "catalog"
    shutil.copytree(tiny_run.root, root, ignore=shutil.ignore_patterns(".unveil", ".staging"))
    return root


def address(service: pgstac.Service, kind: str) -> str:
    return service.api if kind == "api" else service.dsn


def settings(root: Path, *indexes: str, public_root: str = "") -> RunSettings:
    return RunSettings(out=root, indexes=indexes, public_root=public_root, timeout_s=10, search_retries=1)


def published(root: Path) -> list[str]:
    catalog = catalog_of(settings(root))
    return sorted(place.stem for kind in ProductCollection for place in catalog.beside(kind).published_work().values())


def unpublish(root: Path, item_id: str) -> Path:
    """Take a product out of the catalog again, as it was just before it was published; return its staging folder."""
    catalog = catalog_of(settings(root))
    kind = next(catalog.beside(s) for s in ProductCollection if catalog.beside(s).document(item_id))
    place = next(place for place in kind.published_work().values() if place.stem == item_id)
    staging = catalog.staging("again")
    document = json.loads(Path(place).read_text("utf-8"))
    shutil.copytree(Path(place).parent, staging, dirs_exist_ok=True)
    (staging / f"{item_id}.json").unlink()
    document["links"] = [link for link in document["links"] if link["rel"] == "derived_from"]
    (staging / ITEM_FILE).write_text(json.dumps(document), "utf-8")
    kind.withdraw(item_id)
    return staging


def reconcile(wanted: RunSettings) -> dict[str, int]:
    with indexes_of(wanted) as indexes:
        updates = indexes.reconcile()
    return {name: sum(getattr(update, name) for update in updates) for name in ("put", "removed", "unchanged")}


def searched(api: str, **query: Any) -> list[str]:
    return [item.id for item in Client.open(api).search(**query).items()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_product_is_found_and_opens(service: pgstac.Service, catalog: Path, kind: str) -> None:
    wanted = settings(catalog, address(service, kind))
    first, second = published(catalog)
    reconcile(wanted)
    staging = unpublish(catalog, second)
    assert reconcile(wanted) == {"put": 0, "removed": 1, "unchanged": 1}
    assert searched(service.api, collections=list(ProductCollection)) == [first]
    place = publish_staged(staging, wanted, {})
    item = pystac.Item.from_file(str(place))
    day = str(item.properties["datetime"])[:10]
    equal = {"op": "=", "args": [{"property": "unveil:work_id"}, item.properties["unveil:work_id"]]}
    assert searched(service.api, collections=list(ProductCollection), datetime=day) == [second]
    assert searched(service.api, filter=equal, filter_lang="cql2-json") == [second]
    assert sorted(searched(service.api, bbox=item.bbox)) == [first, second]
    assert searched(service.api, bbox=[-10, 0, -9, 1]) == []
    rising = searched(service.api, collections=list(ProductCollection), sortby="+properties.datetime", limit=1)
    falling = searched(service.api, collections=list(ProductCollection), sortby="-properties.datetime", limit=1)
    assert sorted(rising) == [first, second] and falling == rising[::-1]
    found = next(Client.open(service.api).search(ids=[second]).items())
    assert found.assets["data"].href == (Path(str(place)).parent / "data.tif").as_uri()
    assert [link.href for link in found.get_links("canonical")] == [Path(str(place)).as_uri()]
    with rasterio.open(found.assets["data"].href) as raster:
        assert list(raster.shape) == found.assets["data"].extra_fields["proj:shape"]
    assert reconcile(wanted) == {"put": 0, "removed": 0, "unchanged": 2}


def test_retracted_items_leave_the_indexes(service: pgstac.Service, catalog: Path, tmp_path: Path) -> None:
    first, second = published(catalog)
    password = {"PGPASSWORD": service.password, "UNVEIL_INDEX_TOKEN": service.token}
    both = ("--index", service.api, "--index", service.database)
    done = unveil("publish", "--out", catalog, *both, "--json", home=tmp_path / "home", extra=password)
    assert done.status == 0, done.err
    assert {row["index"] for row in done.document["indexes"]} == {service.api, service.database}
    assert sorted(searched(service.api, collections=list(ProductCollection))) == [first, second]
    gone = unveil("retract", first, "--out", catalog, *both, "--json", home=tmp_path / "home", extra=password)
    assert gone.status == 0 and gone.document == {"retracted": [first]}
    assert searched(service.api, collections=list(ProductCollection)) == [second] and published(catalog) == [second]
    assert service.password not in done.out + done.err + gone.out + gone.err


def test_an_older_version_is_current_again_when_the_newer_is_retracted(
    service: pgstac.Service, catalog: Path, tmp_path: Path
) -> None:
    wanted = settings(catalog, service.dsn)
    older = published(catalog)[0]
    newer = older[:-8] + "00000000"
    place = catalog_of(wanted).place_of(older)
    staging = catalog_of(wanted).staging("newer")
    shutil.copytree(Path(place).parent, staging, dirs_exist_ok=True)
    (staging / f"{older}.json").unlink()
    document = json.loads(Path(str(place)).read_text("utf-8")) | {"id": newer, "links": []}
    document["properties"]["unveil:work_id"] = "0" * len(document["properties"]["unveil:work_id"])
    (staging / ITEM_FILE).write_text(json.dumps(document), "utf-8")
    publish_staged(staging, wanted, {})

    def deprecated() -> bool:
        (found,) = Client.open(service.api).search(ids=[older]).items()
        return bool(found.properties.get("deprecated"))

    assert deprecated()
    password = {"PGPASSWORD": service.password}
    command = ("retract", newer, "--out", catalog, "--index", service.database)
    gone = unveil(*command, home=tmp_path / "home", extra=password)
    assert gone.status == 0, gone.err
    assert not deprecated() and searched(service.api, ids=[newer]) == []


def test_a_verdict_that_changes_moves_the_item(service: pgstac.Service, catalog: Path) -> None:
    wanted = settings(catalog, service.dsn)
    first, _ = published(catalog)
    reconcile(wanted)
    staging = unpublish(catalog, first)
    document = json.loads((staging / ITEM_FILE).read_text("utf-8"))
    document["properties"] |= {"unveil:gate": "failed", "unveil:gate_reasons": ["a test"]}
    (staging / ITEM_FILE).write_text(json.dumps(document), "utf-8")
    publish_staged(staging, wanted, {})
    assert searched(service.api, collections=[ProductCollection.REVIEW]) == [first]
    assert first not in searched(service.api, collections=[ProductCollection.GOOD])


@pytest.mark.parametrize("kind", KINDS)
def test_eight_publishers_at_once_lose_nothing(service: pgstac.Service, catalog: Path, kind: str) -> None:
    reconcile(settings(catalog, service.dsn))
    source = json.loads(next(catalog.glob("unveil-cloud-free/**/*-unveil-*.json")).read_text("utf-8"))
    collection = httpx.get(f"{service.api}/collections/{ProductCollection.GOOD}").json() | {"links": []}

    def publish(number: int) -> None:
        index = open_index(address(service, kind))
        for n in range(6):
            name = f"p{number}-{n}"
            properties = source["properties"] | {"datetime": f"20{10 + number}-0{n + 1}-01T00:00:00Z"}
            mine = collection | {"description": f"as {number} saw it at {n}"}
            index.put(
                mine,
                [source | {"id": name, "collection": ProductCollection.GOOD, "properties": properties, "links": []}],
            )
        index.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    index = open_index(service.dsn)
    held = set(index.works(ProductCollection.GOOD))
    index.close()
    assert {f"p{number}-{n}" for number in range(8) for n in range(6)} <= held
    assert reconcile(settings(catalog, service.dsn))["removed"] == 48


def test_killed_between_catalog_and_index_the_next_run_completes_it(catalog: Path) -> None:
    first, _ = published(catalog)
    staging = unpublish(catalog, first)
    api = TransactionApi()
    with web_server(api) as url:
        killer = multiprocessing.get_context("fork").Process(
            target=lambda: publish_staged(staging, settings(catalog, url), {}), daemon=True
        )
        # The server answers in this process, so the publisher dies while it waits for the answer.
        api.before_item = lambda: os.kill(killer.pid or 0, signal.SIGKILL)
        killer.start()
        killer.join(60)
        assert killer.exitcode == -signal.SIGKILL
        assert first in published(catalog)
        api.before_item, api.stored = lambda: None, {}
        assert reconcile(settings(catalog, url)) == {"put": 2, "removed": 0, "unchanged": 0}
        assert api.items() == published(catalog)


def test_a_mistyped_catalog_empties_no_index(catalog: Path, tmp_path: Path) -> None:
    api = TransactionApi()
    with web_server(api) as url:
        reconcile(settings(catalog, url))
        mistyped = tmp_path / "catalgo"
        refused = unveil("publish", "--out", mistyped, "--index", url, home=tmp_path / "home")
        assert refused.status == 2 and f"No catalog was found in {mistyped}" in refused.err
        assert reconcile(settings(mistyped, url)) == {"put": 0, "removed": 0, "unchanged": 0}
        assert api.items() == published(catalog) and not mistyped.exists()


def test_an_index_that_fails_leaves_the_catalog_right(catalog: Path, service: pgstac.Service) -> None:
    first, second = published(catalog)
    reconcile(settings(catalog, service.api))
    staging = unpublish(catalog, first)
    with web_server(TransactionApi(keep=lambda _: None)) as url, pytest.raises(IndexNotUpdated) as raised:
        publish_staged(staging, settings(catalog, url, service.api), {})
    assert f"Item {first} is published, but not in every index" in str(raised.value)
    assert "does not have it" in str(raised.value) and "\n" not in str(raised.value)
    assert published(catalog) == [first, second]
    assert sorted(searched(service.api, collections=list(ProductCollection))) == [
        first,
        second,
    ]  # the other index has it


def test_what_a_database_refuses_is_one_sentence_without_the_password(service: pgstac.Service) -> None:
    parts = urlsplit(service.dsn)
    cases = [
        (service.dsn.replace(service.password, "wrong-secret"), IndexRefused, "password authentication failed"),
        (parts._replace(path="/no_such").geturl(), IndexRefused, "does not exist"),
        (parts._replace(path="/postgres").geturl(), IndexNotUpdated, "has no pgstac"),
        ("postgresql://me:wrong-secret@127.0.0.1:1/stac", IndexUnavailable, "does not answer"),
    ]
    for dsn, kind, words in cases:
        with pytest.raises(kind, match=words) as raised:
            open_index(dsn)
        assert "secret" not in str(raised.value) and service.password not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_role_that_searches_may_not_write(service: pgstac.Service, catalog: Path) -> None:
    reader = service.dsn.replace(pgstac.PUBLISHER, pgstac.READER).replace(service.password, service.reader_password)
    reconcile(settings(catalog, service.dsn))
    unpublish(catalog, published(catalog)[0])
    with pytest.raises(IndexRefused, match="pgstac_ingest"):
        reconcile(settings(catalog, reader))
    assert len(searched(service.api, collections=list(ProductCollection))) == 2


def test_a_catalog_is_copied_whole_and_continued(catalog: Path, tmp_path: Path) -> None:
    first, second = published(catalog)
    other = StaticCatalog(tmp_path / "other")
    (broken,) = catalog.glob(f"*/{second}/thumbnail.png")
    content = broken.read_bytes()
    broken.unlink()
    with pytest.raises(InvalidProduct, match=second):
        copy_catalog(catalog, other)
    assert published(other.root) == [first] and problems_in(other.root) == []
    broken.write_bytes(content)
    assert [(done.copied, done.unchanged) for done in copy_catalog(catalog, other)] == [(0, 1), (1, 1), (0, 0)]
    assert [done.copied for done in copy_catalog(catalog, other)] == [0, 0, 0]
    assert published(other.root) == [first, second] and problems_in(other.root) == []


def test_only_who_has_the_token_writes(service: pgstac.Service) -> None:
    item = {"type": "Collection", "id": "of-a-page"}
    for headers in ({}, {"Authorization": "Bearer guessed"}, {"Authorization": "Basic " + service.token}):
        page = {"Origin": "https://evil.example", **headers}
        assert requests.post(f"{service.api}/collections", json=item, headers=page, timeout=30).status_code == 401
        assert requests.delete(f"{service.api}/collections/any", headers=page, timeout=30).status_code == 401
    assert requests.post(f"{service.api}/search", json={"limit": 1}, timeout=30).status_code == 200


@pytest.fixture
def sample_api(service: pgstac.Service) -> Iterator[str]:
    """The API with the sample in it, whose files are on a web server."""
    folder, index = sample_catalog().parent, open_index(service.api)
    collection = json.loads((folder / "collection.json").read_text("utf-8")) | {"links": []}
    documents = [json.loads(path.read_text("utf-8")) | {"links": []} for path in folder.glob("S2*/*.json")]
    with web_server(files(folder)) as url:
        for document in documents:
            for asset in document["assets"].values():
                asset["href"] = f"{url}{document['id']}/{asset['href'].removeprefix('./')}"
        index.put(collection, documents)
        yield service.api
    index.remove(SAMPLE_COLLECTION, [document["id"] for document in documents])
    index.close()


def test_an_api_is_a_source_like_the_static_catalog(sample_api: str) -> None:
    query = Query.parse(SAMPLE_COLLECTION, SAMPLE_BBOX, SAMPLE_INTERVAL)
    api, static = open_source(sample_api), open_source(str(sample_catalog()))
    assert isinstance(api, ApiSource) and SAMPLE_COLLECTION in api.collections()
    one, other = (source.collection(SAMPLE_COLLECTION) for source in (api, static))
    assert [one[name] for name in ("license", "providers", "description", "keywords")] == [
        other[name] for name in ("license", "providers", "description", "keywords")
    ]
    paged, whole = ApiSource(sample_api, page=3).search(query), static.search(query)
    assert [item.id for item in paged] == [item.id for item in whole] and len(whole) == 10

    def pixels(items: list[pystac.Item]) -> np.ndarray:
        chosen = [item for item in items if "33TWL" in item.id][:2]
        return read_stack(chosen, cell_of(chosen[0], "blue", (15.4, 45.6, 15.5, 45.7)), ("blue", "nir")).dn

    assert np.array_equal(pixels(paged), pixels(whole))
    with pytest.raises(InvalidQuery, match=f"landsat.*{SAMPLE_COLLECTION}"):
        api.search(Query.parse("landsat", None, "2023-08-10"))
