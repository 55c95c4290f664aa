"""Publishing into S3: whole or not at all, whenever a publisher is killed, and whoever publishes beside it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest
import rasterio
from pystac.stac_io import DefaultStacIO

from stac.catalog.product_collections import broken_work
from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import validate_item
from stac.errors import InvalidProduct, NotWritable, TargetUnavailable
from stac.io.s3 import S3Location, filesystem
from tests.s3_server import Request, S3Server

COLLECTION = "unveil-cloud-free"
TARGET = "S2B_33TWM_20230810_0_L2A"


@pytest.fixture
def bucket(s3: S3Server, request: pytest.FixtureRequest) -> str:
    name = s3.bucket("out-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])
    s3.requests.clear()
    return name


@pytest.fixture
def opened(s3: S3Server, bucket: str, tmp_path: Path) -> Callable[..., StaticCatalog]:
    """Opens the catalog, as a process of its own would: with its own workspace."""

    def make(who: str = "me", collection: str = COLLECTION, prefix: str = "a/b") -> StaticCatalog:
        return StaticCatalog(S3Location(bucket, prefix), collection, s3.options, tmp_path / who)

    return make


def published(s3: S3Server, bucket: str, prefix: str = "a/b") -> set[str]:
    """Ids of the items that pystac finds from the root, every file of theirs checked."""

    class Reader(DefaultStacIO):
        def read_text_from_href(self, href: str) -> str:
            # pystac joins hrefs as paths, which makes one slash of two.
            path = href.removeprefix("s3:").lstrip("/")
            return filesystem(s3.options, 10).cat_file(path).decode()

    objects = s3.keys(bucket)
    if f"{prefix}/catalog.json" not in objects:
        return set()
    root = pystac.Catalog.from_file(f"s3://{bucket}/{prefix}/catalog.json", Reader())
    found = set()
    for item in root.get_items(recursive=True):
        folder = f"{prefix}/{item.collection_id}/{item.id}"
        document = json.loads(objects[f"{folder}/{item.id}.json"])
        validate_item(document)
        for asset in document["assets"].values():
            content = objects[f"{folder}/{asset['href'].removeprefix('./')}"]
            assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        found.add(item.id)
    collection = json.loads(objects[f"{prefix}/{COLLECTION}/collection.json"])
    thumbnail = collection["assets"]["thumbnail"]["href"].removeprefix("./")
    assert f"{prefix}/{COLLECTION}/{thumbnail}" in objects
    return found


def in_a_child(act: Callable[[], object]) -> int:
    """Start a forked process; return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(60)
        act()
        status = 0
    finally:
        os._exit(status)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_is_published_is_read_back_by_others(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    catalog = opened()
    folder, item = staged(catalog, "aaaa")
    place = catalog.publish(folder, item, {"license": "CC-BY-4.0", "keywords": ["msi"]})
    assert str(place) == f"s3://{bucket}/a/b/{COLLECTION}/{item.id}/{item.id}.json"
    assert not folder.exists() and published(s3, bucket) == {item.id}
    assert catalog.published_work() == {"aaaa": place}
    assert [found.id for found in catalog.items()] == [item.id]
    objects = s3.keys(bucket)
    assert json.loads(objects[f"a/b/{COLLECTION}/collection.json"])["license"] == "CC-BY-4.0"
    data = next(key for key in objects if key.endswith("/data.tif"))
    info = filesystem(s3.options, 10).call_s3("head_object", Bucket=bucket, Key=data)
    assert info["ContentType"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    with rasterio.MemoryFile(objects[data]) as memory, memory.open() as source:
        assert source.count == 4


def test_the_item_comes_after_its_files_and_before_its_links(s3: S3Server, opened: Any, staged: Any) -> None:
    catalog = opened()
    catalog.publish(*staged(catalog, "aaaa"))
    writes = [request.path.rsplit("/", 1)[1] for request in s3.requests if request.writes]
    # The month, the year, the collection, the root.
    links = ["catalog.json", "catalog.json", "collection.json", "catalog.json"]
    assert writes[-5:] == [f"{TARGET}-unveil-aaaa.json", *links]
    assert len(writes) == 15
    conditional = [request for request in s3.requests if request.method == "PUT"][-5:]
    assert all(request.headers.get("if-none-match") == "*" for request in conditional)


def test_the_same_work_is_uploaded_once(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    catalog = opened()
    catalog.publish(*staged(catalog, "aaaa"))
    before = s3.keys(bucket)
    s3.requests.clear()
    catalog.publish(*staged(catalog, "aaaa"))
    assert s3.keys(bucket) == before
    assert not any("/data.tif" in request.path for request in s3.requests if request.writes)


#: Writes of one product: ten files, the item, its month, the year, the collection; the root lists it already.
ITEM, MONTH, YEAR, LINK = 11, 12, 13, 14


@pytest.mark.parametrize(
    ("at", "arrives"),
    # Killed before a write that did not arrive is killed after the one before it.
    [(1, True), (ITEM, False), *((at, True) for at in (ITEM, MONTH, YEAR, LINK))],
)
def test_killed_at_a_write_the_catalog_stays_valid_and_the_next_run_completes(
    s3: S3Server, bucket: str, opened: Any, staged: Any, at: int, arrives: bool
) -> None:
    before = {opened().publish(*staged(opened(), "aaaa")).stem}
    catalog, left = opened("child"), [at]
    product = staged(catalog, "bbbb")
    child = in_a_child(lambda: catalog.publish(*product))

    def kill(request: Request) -> tuple[str, str] | None:
        left[0] -= request.writes
        if left[0] > 0 or not request.writes:
            return None
        os.kill(child, signal.SIGKILL)
        return "500 Internal Server Error", "InternalError"

    s3.hook, s3.after = (None, kill) if arrives else (kill, None)
    assert ended(child) == -signal.SIGKILL
    s3.hook = s3.after = None
    wanted = before | {f"{TARGET}-unveil-bbbb"}
    assert before <= published(s3, bucket) <= wanted
    catalog = opened("next")
    catalog.repair()
    done = "bbbb" in catalog.published_work()
    assert done == (at > ITEM or (at == ITEM and arrives)), "the item is the mark that it is done"
    if not done:
        catalog.publish(*staged(catalog, "bbbb"))
    assert published(s3, bucket) == wanted


def test_half_a_product_is_invisible_and_cleared_away_when_old(
    s3: S3Server, bucket: str, opened: Any, staged: Any
) -> None:
    catalog = opened()
    catalog.publish(*staged(catalog, "aaaa"))
    whole = set(s3.keys(bucket))

    def full(request: Request) -> tuple[str, str] | None:
        return ("403 Forbidden", "AccessDenied") if request.writes and "thumbnail" in request.path else None

    s3.hook = full
    with pytest.raises(NotWritable, match="access is denied"):
        catalog.publish(*staged(catalog, "bbbb"))
    s3.hook = None
    half = set(s3.keys(bucket)) - whole
    assert len(half) == 6 and published(s3, bucket) == {f"{TARGET}-unveil-aaaa"}
    assert set(catalog.published_work()) == {"aaaa"}
    catalog.repair()
    assert set(s3.keys(bucket)) == whole | half, "it may be on its way"
    time.sleep(1.1)  # S3 tells ages in whole seconds
    catalog.repair(older_than_s=0)
    assert set(s3.keys(bucket)) == whole


def test_a_damaged_product_is_replaced_in_one_step(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    catalog = opened()
    place = catalog.publish(*staged(catalog, "aaaa"))
    damaged = next(key for key in s3.keys(bucket) if key.endswith("/data.tif"))
    filesystem(s3.options, 10).pipe_file(f"{bucket}/{damaged}", b"gone")
    folder, item = staged(catalog, "aaaa")
    (folder / "metadata.json").write_text('{"again": true}')
    item.assets["metadata"].extra_fields |= {
        "file:size": 15, "file:checksum": "1220" + hashlib.sha256(b'{"again": true}').hexdigest()
    }  # fmt: skip
    assert catalog.publish(folder, item) == place
    assert published(s3, bucket) == {item.id}
    assert damaged in s3.keys(bucket), "readers of the old item keep its files"
    time.sleep(1.1)
    catalog.repair(older_than_s=0)
    assert damaged not in s3.keys(bucket) and published(s3, bucket) == {item.id}


def test_publishers_at_once_lose_no_link(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    names = [f"{number:04d}" for number in range(4)]
    waiting = [(catalog, staged(catalog, name)) for name in names for catalog in [opened(name)]]
    children = [in_a_child(lambda c=c, product=product: c.publish(*product)) for c, product in waiting]
    assert [ended(child) for child in children] == [0] * 4
    assert published(s3, bucket) == {f"{TARGET}-unveil-{name}" for name in names}


def test_the_same_work_from_two_publishers_is_one_whole_product(
    s3: S3Server, bucket: str, opened: Any, staged: Any
) -> None:
    waiting = []
    for name in ("one", "two"):
        folder, item = staged(opened(name), "aaaa")
        text = json.dumps({"who": name})
        (folder / "metadata.json").write_text(text)
        item.assets["metadata"].extra_fields |= {
            "file:size": len(text), "file:checksum": "1220" + hashlib.sha256(text.encode()).hexdigest()
        }  # fmt: skip
        waiting.append((opened(name), folder, item))
    children = [in_a_child(lambda c=c, f=f, i=i: c.publish(f, i)) for c, f, i in waiting]
    assert [ended(child) for child in children] == [0, 0]
    assert published(s3, bucket) == {f"{TARGET}-unveil-aaaa"}


def test_a_link_that_was_lost_comes_back(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    catalog = opened()
    for name in ("aaaa", "bbbb"):
        catalog.publish(*staged(catalog, name))
    client = filesystem(s3.options, 10)
    s3.requests.clear()
    catalog.repair()
    assert not any(request.writes for request in s3.requests)
    client.pipe_file(f"{bucket}/a/b/{COLLECTION}/collection.json", b"{")
    catalog.repair()
    assert len(published(s3, bucket)) == 2
    client.rm(f"{bucket}/a/b/{COLLECTION}/{TARGET}-unveil-bbbb", recursive=True)
    catalog.repair()
    assert published(s3, bucket) == {f"{TARGET}-unveil-aaaa"}


def test_a_product_can_be_withdrawn(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    good, review = opened(), opened().beside("unveil-review")
    good.publish(*staged(good, "aaaa"))
    place = review.publish(*staged(review, "bbbb"))
    good.publish(*staged(good, "cccc"))
    good.withdraw(f"{TARGET}-unveil-cccc")
    assert published(s3, bucket) == {f"{TARGET}-unveil-aaaa", place.stem}
    review.withdraw(place.stem)
    assert published(s3, bucket) == {f"{TARGET}-unveil-aaaa"}
    assert not any("unveil-review" in key or "-cccc" in key for key in s3.keys(bucket))
    s3.requests.clear()
    review.withdraw(place.stem)
    assert not any(request.writes for request in s3.requests)


def test_adding_one_product_does_not_fetch_the_others(s3: S3Server, opened: Any, staged: Any) -> None:
    catalog = opened()
    for name in ("aaaa", "bbbb", "cccc"):
        catalog.publish(*staged(catalog, name))
    s3.requests.clear()
    catalog.publish(*staged(catalog, "dddd"))
    fetched = [request.path for request in s3.requests if request.method == "GET" and "-unveil-" in request.path]
    assert fetched and all("dddd" in path for path in fetched)


def test_looking_at_many_products_takes_one_listing(
    s3: S3Server, opened: Any, staged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, names = opened(), ("aaaa", "bbbb", "cccc")
    places = {name: catalog.publish(*staged(catalog, name)) for name in names}
    lost = next(key for key in s3.keys(places["bbbb"].bucket) if "bbbb" in key and key.endswith("data.tif"))
    filesystem(s3.options, 10).rm_file(f"{places['bbbb'].bucket}/{lost}")
    for most in (16, 2):
        monkeypatch.setattr("stac.catalog.store_s3._FEW_LISTINGS", most)
        s3.requests.clear()
        assert list(broken_work(catalog, places)) == ["bbbb"]
        listings = [r for r in s3.requests if r.path.strip("/") == places["bbbb"].bucket]
        assert len(listings) == (3 if most == 16 else 1)


def test_what_cannot_be_written_is_said(s3: S3Server, bucket: str, opened: Any, tmp_path: Path) -> None:
    opened().require_writable()
    assert s3.keys(bucket) == {}
    missing = StaticCatalog(S3Location("no-such-place"), s3=s3.options, workspace=tmp_path)
    for act in (missing.repair, missing.require_writable, missing.published_work):
        with pytest.raises(NotWritable, match="bucket no-such-place does not exist"):
            act()
    s3.hook = lambda request: ("403 Forbidden", "AccessDenied") if request.writes else None
    with pytest.raises(NotWritable, match="access is denied"):
        opened().require_writable()
    s3.hook = lambda _: ("503 Service Unavailable", "SlowDown")
    with pytest.raises(TargetUnavailable) as failed:
        opened().published_work()
    assert failed.value.retryable
    with pytest.raises(NotWritable, match="--state-dir"):
        StaticCatalog(S3Location(bucket), s3=s3.options).staging("aaaa")
    with pytest.raises(InvalidProduct):
        opened().staging("../x")


def test_a_damaged_item_is_named(s3: S3Server, bucket: str, opened: Any, staged: Any) -> None:
    catalog = opened()
    place = catalog.publish(*staged(catalog, "aaaa"))
    for text in (b"{", b"[]"):
        filesystem(s3.options, 10).pipe_file(f"{bucket}/{place.key}", text)
        with pytest.raises(InvalidProduct, match=place.name):
            catalog.items()
    catalog.publish(*staged(catalog, "aaaa"))
    assert published(s3, bucket) == {place.stem}
