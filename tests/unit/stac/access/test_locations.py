"""Where a catalog may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.errors import InvalidSettings
from flows.settings.loading import load_settings
from stac.errors import InvalidQuery
from stac.io.s3 import S3Location, S3Options, parse_location
from stac.search.hrefs import resolve


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


def test_it_is_joined_like_a_path() -> None:
    place = S3Location("eo", "a") / "b/c.json"
    assert (str(place), place.name, place.stem, str(place.parent)) == (
        "s3://eo/a/b/c.json",
        "c.json",
        "c",
        "s3://eo/a/b",
    )
    assert str(S3Location("eo") / "x") == "s3://eo/x" and S3Location("eo", "x").parent == S3Location("eo")


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


def test_a_signing_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="signing"):
        load_settings(None, {"signing": "magic"})
