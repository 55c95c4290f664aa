"""Places and scenes in S3: the same pixels as on disk, the right requests, and one clear sentence where S3 refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest

from flows.settings.loading import load_settings
from stac.errors import AccessRefused, InvalidQuery, UnreadableAsset, UnreadableCatalog, UnsafeHref
from stac.grid.cell import cell_of
from stac.io.http import RetryPolicy
from stac.io.raster import open_raster
from stac.io.s3 import S3Location, S3Options, forget_clients, parse_location
from stac.io.signing import Access
from stac.load.stack import ReadOptions, read_stack
from stac.search.hrefs import resolve
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import sample_catalog
from tests.s3_server import Request, S3Server


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [("s3://eo", "eo", ""), ("s3://eo/", "eo", ""), ("S3://eo/a/b/", "eo", "a/b"), ("s3://e.o-1/ü x", "e.o-1", "ü x")],
)
def test_a_bucket_and_a_prefix(text: str, bucket: str, key: str) -> None:
    assert parse_location(text) == S3Location(bucket, key)


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///a", "s3://a", "s3://-ab", "s3://a..b/x", "s3://ab/x/../y", "s3://ab/a//b", "s3://ab/a\x00",
             "gs://ab/x", "https://ab/x", "file:///x", "", " "]
)  # fmt: skip
def test_what_cannot_be_written_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery):
        parse_location(text)


def test_settings_keep_the_location_and_put_state_beside_folders_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    there = load_settings(None, {"out": "s3://eo/a", "s3_endpoint": "http://127.0.0.1:9"})
    assert there.out == S3Location("eo", "a") and there.model_dump(mode="json")["out"] == "s3://eo/a"
    assert load_settings(None, there.model_dump(mode="json")) == there
    assert there.state.parent == tmp_path / "unveil"
    assert there.state != load_settings(None, {"out": "s3://eo/b"}).state
    assert load_settings(None, {"out": "s3://eo/a", "state_dir": "here"}).state == Path("here")
    here = load_settings(None, {"out": "eo/a"})
    assert here.out == Path("eo/a") and here.state == Path("eo/a/.unveil")
    assert there.parameters == here.parameters, "how bytes are reached does not change pixels"


@pytest.mark.parametrize("endpoint", ["minio", "ftp://x", "https://me:secret@x", "https://x?token=secret", "file:///x"])
def test_an_endpoint_is_an_address_without_secrets(endpoint: str) -> None:
    with pytest.raises(InvalidQuery) as failed:
        S3Options(endpoint)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("href", "found"),
    [("./y/z.json", "s3://eo/x/y/z.json"), ("../../../z.json", "s3://eo/z.json"), ("/z.json", "s3://eo/z.json"),
     ("s3://other/z.json", "s3://other/z.json"), ("https://host/z.json", "https://host/z.json")],
)  # fmt: skip
def test_hrefs_of_a_catalog_in_s3(href: str, found: str) -> None:
    assert resolve("s3://eo/x/catalog.json", href) == found


BANDS = ("blue", "green", "red", "nir")
SMALL = (15.4, 45.6, 15.6, 45.8)


@pytest.fixture
def changed_credentials(s3: S3Server) -> Iterator[None]:
    """For tests that change the credentials: clients made before and meanwhile are dropped."""
    forget_clients()
    yield
    forget_clients()


@pytest.fixture
def scenes(s3: S3Server, request: pytest.FixtureRequest) -> str:
    """A bucket that holds one scene of the sample, its catalog beside it."""
    name = f"scenes-{abs(hash(request.node.name)) % 10**8}"
    s3.bucket(name)
    folder = sample_catalog().parent
    s3.upload(folder / "S2A_33TWL_20230815_0_L2A", name, "s2/S2A_33TWL_20230815_0_L2A")
    s3.requests.clear()
    return name


def in_s3(item: pystac.Item, bucket: str) -> pystac.Item:
    """The item with its assets in the bucket."""
    moved = item.clone()
    for asset in moved.assets.values():
        asset.href = f"s3://{bucket}/s2/{item.id}/{Path(asset.href).name}"
    return moved


@pytest.fixture
def scene(twl: list[pystac.Item]) -> pystac.Item:
    return next(item for item in twl if item.id == "S2A_33TWL_20230815_0_L2A")


def href(bucket: str, name: str = "B02.tif") -> str:
    return f"s3://{bucket}/s2/S2A_33TWL_20230815_0_L2A/{name}"


def read(path: str, options: S3Options, timeout_s: float = 5) -> None:
    with open_raster(path, "Item X, asset blue", Access(options, timeout_s=timeout_s)) as source:
        source.read(1)


def test_pixels_are_those_on_disk(
    s3: S3Server, scenes: str, scene: pystac.Item, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    cell = cell_of(scene, "blue", SMALL)
    here = read_stack([scene], cell, BANDS)
    there = read_stack([in_s3(scene, scenes)], cell, BANDS, ReadOptions(access=Access(s3.options)))
    assert np.array_equal(here.dn, there.dn) and np.array_equal(here.classes, there.classes)
    assert all("Credential=TESTKEY/" in request.headers["authorization"] for request in s3.requests)
    assert "very-secret" not in caplog.text


def test_anonymous_requests_carry_no_signature(s3: S3Server, scenes: str) -> None:
    folder = sample_catalog().parent / "S2A_33TWL_20230815_0_L2A"
    s3.upload(folder, scenes, "s2/S2A_33TWL_20230815_0_L2A", acl="public-read")
    s3.requests.clear()
    read(href(scenes), replace(s3.options, anonymous=True))
    assert s3.requests and not any("authorization" in request.headers for request in s3.requests)


def test_requester_pays_is_said(s3: S3Server, scenes: str) -> None:
    read(href(scenes), replace(s3.options, requester_pays=True))
    assert {request.headers.get("x-amz-request-payer") for request in s3.requests} == {"requester"}


@pytest.mark.usefixtures("changed_credentials")
def test_a_profile_signs(s3: S3Server, scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[team]\naws_access_key_id = TEAMKEY\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_clients()
    options = replace(s3.options, profile="team")
    read(href(scenes), options)
    assert all("Credential=TEAMKEY/" in request.headers["authorization"] for request in s3.requests)
    with pytest.raises(UnreadableCatalog, match="does not exist"):
        open_source(f"s3://{scenes}", RetryPolicy(5), Access(options))
    assert "Credential=TEAMKEY/" in s3.requests[-1].headers["authorization"]


def test_a_missing_bucket_a_missing_file_and_a_missing_right_are_distinguished(s3: S3Server, scenes: str) -> None:
    with pytest.raises(AccessRefused, match=r"Item X, asset blue: .* bucket no-such-place does not exist"):
        read("s3://no-such-place/a.tif", s3.options)
    with pytest.raises(UnreadableAsset, match=r"Item X, asset blue: .*key does not exist"):
        read(href(scenes, "B99.tif"), s3.options)
    with pytest.raises(AccessRefused, match="access is denied"):
        read(href(scenes), replace(s3.options, anonymous=True))
    with pytest.raises(UnsafeHref, match="not a plain key"):
        read(f"s3://{scenes}/a/../b.tif", s3.options)


@pytest.mark.usefixtures("changed_credentials")
def test_without_credentials_it_says_so(s3: S3Server, scenes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_clients()
    with pytest.raises(AccessRefused, match="no AWS credentials"):
        read(href(scenes), s3.options)
    with pytest.raises(AccessRefused, match=r"no AWS credentials.*team"):
        read(href(scenes), replace(s3.options, profile="team"))


def test_a_service_that_is_down_is_a_passing_failure(scenes: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(UnreadableAsset, match=rf"http://127.0.0.1:{port} does not answer") as failed:
        read(href(scenes), S3Options(f"http://127.0.0.1:{port}", "us-east-1"), 1)
    assert failed.value.retryable and "\n" not in str(failed.value)


def test_a_busy_service_is_asked_again(s3: S3Server, scenes: str) -> None:
    busy = iter([("503 Service Unavailable", "SlowDown")])

    def once(request: Request) -> tuple[str, str] | None:
        return next(busy, None)

    s3.hook = once
    read(href(scenes), s3.options)
    assert len(s3.requests) > 1


def test_a_static_catalog_in_s3_is_a_source(s3: S3Server, whole_sample: Query, catalog_copy: Path) -> None:
    bucket = s3.bucket("catalogs")
    s3.upload(catalog_copy.parent, bucket, "eo/sample")
    local = open_source(str(sample_catalog())).search(whole_sample)
    for location in (f"s3://{bucket}/eo/sample", f"s3://{bucket}/eo/sample/catalog.json"):
        source = open_source(location, RetryPolicy(10), Access(s3.options))
        found = source.search(whole_sample)
        assert [item.id for item in found] == [item.id for item in local]
        assert source.skipped == []
        blue = found[0].assets["blue"].href
        assert blue == f"s3://{bucket}/eo/sample/{found[0].id}/B02.tif"
    with pytest.raises(AccessRefused, match="does not exist"):
        open_source("s3://no-such-place/catalog.json", RetryPolicy(5), Access(s3.options))
