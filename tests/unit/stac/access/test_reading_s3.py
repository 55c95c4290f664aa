"""Scenes in S3: the same pixels as on disk, the right requests, and one clear sentence where S3 refuses."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest

from stac.errors import AccessRefused, UnreadableAsset, UnreadableCatalog, UnsafeHref
from stac.grid.cell import cell_of
from stac.io.http import RetryPolicy
from stac.io.raster import open_raster
from stac.io.s3 import S3Options, forget_clients
from stac.io.signing import Access
from stac.load.stack import ReadOptions, read_stack
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import sample_catalog
from tests.s3_server import Request, S3Server

BANDS = ("blue", "green", "red", "nir")
SMALL = (15.4, 45.6, 15.6, 45.8)


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
