"""Signing at read time, against an archive that refuses missing and expired tokens."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pystac
import pytest

from stac.errors import AccessRefused, SourceUnavailable, UnreadableAsset
from stac.grid.cell import cell_of
from stac.io.raster import open_raster
from stac.io.secrets import holds_secret, redact, without_secret
from stac.io.signing import Access, Signing, SigningOptions, sign, tokens_of
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.search.static import sample_catalog
from tests.misbehaving_server import Asked, Reply, web_server

SCENE = "S2A_33TWL_20230815_0_L2A"
SMALL = (15.4, 45.6, 15.6, 45.8)


@dataclass
class Archive:
    """An archive that gives short-lived tokens and serves files only to those who show one."""

    folder: Path
    url: str = ""
    #: How long it says that tokens live, and how long they really do.
    life_s: float = 3600
    #: Tokens that are good now.
    valid: set[str] = field(default_factory=set)
    #: Collections that tokens were asked for.
    asked: list[str] = field(default_factory=list)
    #: Status of every answer to a request for data.
    answers: list[int] = field(default_factory=list)
    #: Answers to give instead of the next tokens.
    trouble: list[Reply] = field(default_factory=list)

    @property
    def access(self) -> Access:
        """How its hrefs are signed."""
        signing = SigningOptions(Signing.PLANETARY_COMPUTER, f"{self.url}token", ("127.0.0.1",))
        return Access(signing=signing, timeout_s=5)

    def href(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.url}data/{name}"

    def revoke(self) -> None:
        """Let every token expire before its time."""
        self.valid.clear()

    def __call__(self, asked: Asked) -> Reply:
        kind, _, name = asked.path[1:].partition("/")
        if kind == "token":
            return self.new_token(name)
        reply = self.data(name, asked.query.get("sig", [""])[0])
        self.answers.append(206 if reply.status == 200 and "range" in asked.headers else reply.status)
        return reply

    def new_token(self, collection: str) -> Reply:
        """Answer a request for a token."""
        self.asked.append(collection)
        if self.trouble:
            return self.trouble.pop(0)
        if collection != "s2":
            return Reply(404, b"sig=never-shown")
        name = f"hidden{len(self.asked)}"
        self.valid.add(name)
        expiry = (datetime.now(UTC) + timedelta(seconds=self.life_s)).isoformat()
        return Reply(content={"msft:expiry": expiry, "token": f"st=1&sig={name}"})

    def data(self, name: str, signature: str) -> Reply:
        """Answer a request for (a range of) a file."""
        if signature not in self.valid:
            return Reply(403, f"AuthenticationFailed sig={signature}".encode())
        return Reply(content=(self.folder / name).read_bytes())


@pytest.fixture
def archive() -> Iterator[Archive]:
    tokens_of.cache_clear()
    served = Archive(sample_catalog().parent / SCENE)
    with web_server(served) as served.url:
        yield served


@pytest.fixture
def scene(archive: Archive, twl: list[pystac.Item]) -> pystac.Item:
    """The scene with its assets in the archive."""
    found = next(item for item in twl if item.id == SCENE)
    found.collection_id = "s2"
    for asset in found.assets.values():
        asset.href = archive.href(Path(asset.href).name)
    return found


def stack_of(archive: Archive, scene: pystac.Item) -> Stack:
    options = ReadOptions(access=archive.access)
    return read_stack([scene], cell_of(scene, "blue", SMALL), ("blue", "green", "red", "nir"), options)


def test_all_threads_share_one_token(archive: Archive, scene: pystac.Item, twl: list[pystac.Item]) -> None:
    signed = stack_of(archive, scene)
    assert archive.asked == ["s2"] and set(archive.answers) == {200, 206}
    for asset in scene.assets.values():
        asset.href = str(archive.folder / Path(asset.href).name)
    assert np.array_equal(signed.dn, stack_of(archive, scene).dn)
    assert archive.asked == ["s2"], "a local file wants no token"


def test_a_token_that_was_refused_is_replaced(archive: Archive, scene: pystac.Item) -> None:
    stack_of(archive, scene)
    archive.revoke()
    stack_of(archive, scene)
    assert archive.answers.count(403) >= 1 and archive.answers[-1] == 206
    assert len(archive.asked) == 2, "five threads are refused, one new token serves them all"


def test_a_token_that_expires_while_a_file_is_read_is_replaced(archive: Archive, scene: pystac.Item) -> None:
    with (
        pytest.raises(UnreadableAsset) as failed,
        open_raster(scene.assets["blue"].href, "Item X, asset blue", archive.access, "s2") as source,
    ):
        archive.revoke()
        source.read(1)
    assert failed.value.retryable
    stack_of(archive, scene)
    assert archive.asked == ["s2", "s2"]


def test_a_token_is_renewed_shortly_before_it_expires(archive: Archive, scene: pystac.Item) -> None:
    archive.life_s = 0.4
    href = scene.assets["blue"].href
    one = sign(href, "s2", archive.access)
    assert sign(href, "s2", archive.access).address == one.address
    service = tokens_of(archive.access.signing.token_url)
    service._now = lambda: datetime.now(UTC) + timedelta(seconds=0.38)
    assert sign(href, "s2", archive.access).address != one.address


def test_the_token_is_nowhere_to_be_seen(
    archive: Archive, scene: pystac.Item, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    before = scene.to_dict(include_self_link=False)
    archive.data = lambda *_: Reply(403, b"AuthenticationFailed")  # type: ignore[method-assign]
    with pytest.raises(
        UnreadableAsset, match=r"asset \w+: http://127.0.0.1:\d+/data/B\d\d.tif cannot be read"
    ) as failed:
        stack_of(archive, scene)
    shown = "".join(traceback.format_exception(failed.value)) + caplog.text
    signed = sign(scene.assets["blue"].href, "s2", archive.access)
    shown += repr(signed) + repr(archive.access) + repr(tokens_of(archive.access.signing.token_url)._tokens)
    (token,) = re.findall(r"sig=(\w+)", signed.address)
    assert token.startswith("hidden") and "hidden" not in shown
    assert scene.to_dict(include_self_link=False) == before
    assert len(archive.asked) <= 20, "attempts are bounded"


def test_a_busy_token_service_is_asked_again(archive: Archive) -> None:
    archive.trouble = [Reply(429, headers={"Retry-After": "0"}), Reply(503)]
    assert sign(archive.href("B02.tif"), "s2", archive.access).signed
    assert len(archive.asked) == 3
    archive.trouble = [Reply(503)] * 9
    tokens_of.cache_clear()
    with pytest.raises(SourceUnavailable, match=r"token service .*collection s2.* answers 503"):
        sign(archive.href("B02.tif"), "s2", archive.access)
    assert len(archive.trouble) == 4


def test_a_service_that_refuses_or_talks_nonsense_is_named(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessRefused, match=r"collection other.* answers 404"):
        sign(archive.href("B02.tif"), "other", archive.access)
    archive.trouble = [Reply(content=b"sig=never-shown")] * 5
    with pytest.raises(SourceUnavailable, match="no token and expiry") as failed:
        sign(archive.href("B02.tif"), "s2", archive.access)
    assert "never-shown" not in "".join(traceback.format_exception(failed.value))


def test_tokens_go_to_the_archive_alone(archive: Archive) -> None:
    options = Access(signing=SigningOptions(Signing.PLANETARY_COMPUTER, archive.access.signing.token_url), timeout_s=5)
    for href in (
        "https://example.org/a.tif",
        "https://blob.core.windows.net.example.org/a.tif",
        "https://x.blob.core.windows.net@example.org/a.tif",
        "https://x.blob.core.windows.net/a.tif?sig=given",
        "s3://x.blob.core.windows.net/a.tif",
        "/data/a.tif",
    ):
        assert sign(href, "s2", options).address == href
    assert archive.asked == []
    assert sign("https://x.blob.core.windows.net/a.tif", "s2", options).signed
    assert not sign(archive.href("B02.tif"), "s2", Access()).signed


def test_many_threads_ask_once(archive: Archive) -> None:
    with ThreadPoolExecutor(16) as pool:
        signed = list(pool.map(lambda _: sign(archive.href("B02.tif"), "s2", archive.access).address, range(64)))
    assert len(set(signed)) == 1 and archive.asked == ["s2"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://a/b?sig=x&se=1 failed", "GET https://a/b?... failed"),
        ("'/vsicurl/https://a/b.tif?st=1&sig=y' does not exist", "'/vsicurl/https://a/b.tif?...' does not exist"),
        ("https://me:pass@host/x", "https://host/x"),
        ("bad sig=abc, token=def", "bad sig=... token=..."),
        ("plain words, even? yes", "plain words, even? yes"),
        ("no postgresql+psycopg://me:pass@db:5432/x", "no postgresql+psycopg://me:...@db:5432/x"),
        ("host=db user=me password=pass", "host=db user=me password=..."),
        ("http://127.0.0.1:5000/models:/unveil-de@champion", "http://127.0.0.1:5000/models:/unveil-de@champion"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("address", "published"),
    [
        ("https://me:pass@host:1/x.json?page=2", "https://host:1/x.json?page=2"),
        ("https://host/x.json?sv=1&sig=pass", "https://host/x.json"),
        ("https://host/x.json?page=2", None),
        ("/home/me/a@b.json", None),
        ("s3://bucket/key", None),
    ],
)
def test_a_secret_is_not_published(address: str, published: str | None) -> None:
    assert holds_secret(address) == (published is not None)
    assert without_secret(address) == (published or address)
