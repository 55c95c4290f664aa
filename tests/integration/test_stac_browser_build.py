"""How a build of STAC Browser ends; small programs stand in for `npm` and `node`, so nothing is downloaded."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from flows.errors import ServiceUnavailable
from flows.ops.serve import stac_browser
from flows.ops.serve.stac_browser import (
    build_key,
    cached_browser,
    default_cache,
    ensure_browser,
    public_browser_link,
)
from flows.progress import listening

pytestmark = pytest.mark.integration

NPM = """#!/bin/sh
echo run >> "$COUNT"
mkdir -p node_modules/@radiantearth/stac-browser/src
echo pages > node_modules/@radiantearth/stac-browser/src/main.js
"""
NODE = """#!/bin/sh
if [ "$1" = --version ]; then echo "${NODE_SAYS:-v18.20.4}"; exit 0; fi
sleep 0.2
mkdir dist && cat src/main.js > dist/index.html && grep -q graticule basemaps.config.js
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _program(folder / "npm", NPM)
    _program(folder / "node", NODE)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    return folder


def _program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _left_over(cache: Path) -> list[Path]:
    return list(cache.glob(".stac-browser-*"))


def test_a_build_is_kept_and_not_repeated(tools: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with listening(lambda event: said.append(event.text)):
        built = ensure_browser()
    assert built is not None
    assert built.name == build_key()
    assert (built / "index.html").read_text(encoding="utf-8") == "pages\n"
    assert [text.split()[0] for text in said] == ["STAC", "Installing", "Building"]
    assert _left_over(tmp_path / "unveil") == []
    (tools / "npm").unlink()  # from here on nothing but the cache can answer
    assert ensure_browser() == built
    assert cached_browser() == built


def test_two_commands_build_once(tools: Path, tmp_path: Path) -> None:
    found: list[Path | None] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_browser())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [tmp_path / "unveil" / build_key()] * 3
    assert (tmp_path / "count").read_text(encoding="utf-8") == "run\n"


def test_without_node_the_browser_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ensure_browser() is None


def test_an_old_node_is_not_used(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_SAYS", "v16.20.0")
    assert ensure_browser() is None


@pytest.mark.parametrize("broken", ["npm", "node"])
def test_a_failed_build_shows_the_end_of_its_log(tools: Path, tmp_path: Path, broken: str) -> None:
    version = 'if [ "$1" = --version ]; then echo v20.1.0; exit 0; fi'
    _program(tools / broken, f"#!/bin/sh\n{version}\necho the disk is on fire\nexit 3\n")
    cache = tmp_path / "unveil"
    with pytest.raises(ServiceUnavailable, match=r"(?s)status 3.*disk is on fire") as caught:
        ensure_browser()
    log = cache / f"{build_key()}.log"
    assert str(log) in str(caught.value)
    assert "the disk is on fire" in log.read_text(encoding="utf-8")
    assert cached_browser() is None
    assert _left_over(cache) == []


def test_a_build_that_hangs_is_ended_with_its_children(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tools / "npm", f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/child\nwait\n")
    monkeypatch.setattr(stac_browser, "INSTALL_TIMEOUT_S", 0.5)
    with pytest.raises(ServiceUnavailable, match="within 0 s"):
        ensure_browser()
    child = int((tmp_path / "child").read_text(encoding="utf-8"))
    assert _ends(child)
    assert _left_over(tmp_path / "unveil") == []


def _ends(pid: int) -> bool:
    """Return whether the process is gone (or a zombie of its adopter) within two seconds."""
    for _ in range(40):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text(encoding="utf-8").split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_a_killed_build_left_is_cleared(tools: Path, tmp_path: Path) -> None:
    left = tmp_path / "unveil" / f".{build_key()}-killed"
    left.mkdir(parents=True)
    ensure_browser()
    assert _left_over(tmp_path / "unveil") == []


def test_a_cache_that_cannot_be_written_is_named(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(ServiceUnavailable, match="XDG_CACHE_HOME"):
        ensure_browser()


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/mine")
    assert default_cache() == Path("/somewhere/mine/unveil")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == Path.home() / ".cache/unveil"


def test_the_lock_file_names_no_registry() -> None:
    recipe = Path(stac_browser.__file__).parent / "browser/package-lock.json"
    assert '"resolved"' not in recipe.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("catalog", "link"),
    [
        ("https://example.com/c/catalog.json", "#/external/example.com/c/catalog.json"),
        ("http://127.0.0.1:8080/catalog.json", "#/external/http://127.0.0.1:8080/catalog.json"),
    ],
)
def test_the_public_link_opens_the_catalog(catalog: str, link: str) -> None:
    assert public_browser_link(catalog).endswith(link)
