"""The catalog of the demo in a real STAC Browser in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.io import MemoryFile

from flows.ops.serve.app import start_page
from flows.ops.serve.stac_browser import ensure_browser
from tests.installed import Needed, require, require_node
from tests.support.serving import running

# The first run builds STAC Browser and makes the demo.
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1500)]

SCRIPTS = Path(__file__).parent / "browser"
STROKE = 5  # pixels at the edge of the footprint that its outline may cover
MAP_LINKS = ("child", "item", "items", "root", "parent", "collection", "self")


@dataclass(frozen=True, slots=True)
class Visit:
    """What the browser saw, and where its pictures lie."""

    url: str
    folder: Path
    seen: dict[str, Any]

    def inside(self, key: str) -> NDArray[np.float64]:
        """Colours (pixel, rgb) 0-255 of the map of asset `key` inside the item's footprint."""
        shown = self.seen["maps"][key]
        with Image.open(self.folder / shown["picture"]) as file:
            picture = file.convert("RGB")
        ring = [(x, y) for x, y in shown["ring"]]
        mask = Image.new("L", picture.size, 0)
        draw = ImageDraw.Draw(mask)
        draw.polygon(ring, fill=1)
        draw.line([*ring, ring[0]], fill=0, width=2 * STROKE)
        return np.asarray(picture, dtype=float)[np.asarray(mask, dtype=bool)]

    def drawn(self, key: str, size: tuple[int, int]) -> NDArray[np.float64]:
        """The map of asset `key` within the item's box, grey 0-255, scaled to `size` (width, height)."""
        shown = self.seen["maps"][key]
        xs, ys = zip(*shown["ring"], strict=True)
        with Image.open(self.folder / shown["picture"]) as file:
            part = file.convert("L").crop((round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys))))
        return np.asarray(part.resize(size, Image.Resampling.BOX), dtype=float)

    def asset(self, key: str) -> tuple[str, dict[str, Any]]:
        """Address and metadata of an asset of the item on show."""
        asset = httpx.get(self.seen["item"]).json()["assets"][key]
        return urljoin(self.seen["item"], asset["href"]), asset

    def pixels(self, key: str) -> NDArray[Any]:
        """Pixels (band, y, x) of an asset of the item on show, as the server sends them."""
        with MemoryFile(httpx.get(self.asset(key)[0]).content) as memory, memory.open() as file:
            return np.asarray(file.read())


@pytest.fixture(scope="module")
def shown_catalog(request: pytest.FixtureRequest) -> Path:
    given = os.environ.get("UNVEIL_TEST_CATALOG")
    return Path(given) if given else request.getfixturevalue("demo_catalog")


@pytest.fixture(scope="module")
def driver() -> str:
    """Path of node, with playwright-core beside the scripts."""
    require(Needed.CHROMIUM)
    return require_node(SCRIPTS)


@pytest.fixture(scope="module")
def visit(shown_catalog: Path, driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    browser_dir = ensure_browser()
    assert browser_dir is not None
    kept = os.environ.get("UNVEIL_SCREENSHOTS")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    with running(shown_catalog, browser_dir) as url:
        command = [driver, str(SCRIPTS / "explore.mjs"), url, str(folder)]
        subprocess.run(command, check=True, timeout=600, stdin=subprocess.DEVNULL)
        yield Visit(url, folder, json.loads((folder / "seen.json").read_text(encoding="utf-8")))


def test_nothing_went_wrong(visit: Visit) -> None:
    assert visit.seen["problems"] == []


def test_nothing_outside_was_asked(visit: Visit) -> None:
    assert visit.seen["outside"] == []


def test_cards_lead_to_the_item_and_its_address_opens_it(visit: Visit) -> None:
    assert visit.seen["cards"], "the catalog has no list page"
    assert visit.seen["pages"][0]["heading"] == httpx.get(visit.url + "/catalog/catalog.json").json()["title"]
    assert visit.seen["pages"][-1]["heading"] == httpx.get(visit.seen["item"]).json()["properties"]["title"]
    assert visit.seen["reloaded"] == visit.seen["item"]


def test_serve_names_the_page_of_the_mosaics(visit: Visit, shown_catalog: Path) -> None:
    pages = [page["url"].removeprefix(visit.url) for page in visit.seen["pages"]]
    assert start_page(shown_catalog) in pages


def test_collections_and_items_show_a_picture(visit: Visit) -> None:
    collection, *_dates, item = visit.seen["cards"]
    for card in (collection, item):
        assert card["pictures"], f"the card on {card['page']} has no picture"
        assert all(picture["width"] > 0 for picture in card["pictures"])
    assert visit.seen["thumbnail"]["width"] > 0
    assert visit.seen["thumbnail"]["src"] == visit.asset("thumbnail")[0]


def test_the_map_shows_the_visual_asset_by_itself(visit: Visit) -> None:
    colours = visit.inside("visual")
    expected = (visit.pixels("provenance") > 0).mean()
    drawn = np.abs(colours - 255).max(axis=1) > 12
    assert len(colours) > 10_000
    assert drawn.mean() > 0.9 * expected
    assert colours[drawn].std() > 8, "the picture on the map is one colour"
    file = Path(urlsplit(visit.asset("visual")[0]).path).name
    assert visit.seen["ranges"].get(file, 0) >= 2, "the COG was not read by byte ranges"


def test_the_map_has_the_colours_of_the_thumbnail(visit: Visit) -> None:
    colours = visit.inside("visual")
    drawn = np.abs(colours - 255).max(axis=1) > 12
    with Image.open(BytesIO(httpx.get(visit.asset("thumbnail")[0]).content)) as file:
        thumbnail = np.asarray(file.convert("RGBA"), dtype=float).reshape(-1, 4)
    valid = (thumbnail[:, 3] > 0) & (thumbnail[:, :3].max(axis=1) > 0)
    difference = colours[drawn].mean(axis=0) - thumbnail[valid, :3].mean(axis=0)
    assert np.abs(difference).max() < 20


def test_the_map_shows_everything_in_its_place(visit: Visit) -> None:
    with Image.open(BytesIO(httpx.get(visit.asset("thumbnail")[0]).content)) as file:
        size = (min(file.width, 96), min(file.height, 96))
        expected = np.asarray(file.convert("L").resize(size, Image.Resampling.BOX), dtype=float)
    drawn = visit.drawn("visual", size)

    def likeness(other: NDArray[np.float64]) -> float:
        return float(np.corrcoef(drawn.ravel(), other.ravel())[0, 1])

    assert likeness(expected) > 0.5
    for displaced in (expected[::-1], expected[:, ::-1], np.roll(expected, size[0] // 4, axis=1)):
        assert likeness(expected) > likeness(displaced) + 0.2


def test_provenance_has_a_legend_on_its_page(visit: Visit) -> None:
    legend = visit.seen["legends"]["provenance"]
    for entry in visit.asset("provenance")[1]["bands"][0]["classification:classes"]:
        assert entry["title"] in legend["text"]
        red, green, blue = (int(entry["color_hint"][i : i + 2], 16) for i in (0, 2, 4))
        assert f"rgb({red}, {green}, {blue})" in legend["colours"], entry["name"]


def test_the_page_names_the_scenes_that_the_product_comes_from(visit: Visit) -> None:
    links = httpx.get(visit.seen["item"]).json()["links"]
    inside = [link["title"] for link in links if link["rel"] == "derived_from" and "/items/" in link["href"]]
    assert inside and set(inside) <= set(visit.seen["inputs"])


def test_provenance_shows_its_classes_in_their_colours(visit: Visit) -> None:
    colours = visit.inside("provenance")
    pixels = visit.pixels("provenance")[0]
    classes = visit.asset("provenance")[1]["bands"][0]["classification:classes"]
    explained = np.zeros(len(colours), dtype=bool)
    for entry in classes:
        if entry["value"] == 0:
            continue
        hint = np.array([int(entry["color_hint"][i : i + 2], 16) for i in (0, 2, 4)])
        same = np.abs(colours - hint).max(axis=1) <= 8
        explained |= same
        assert same.mean() == pytest.approx((pixels == entry["value"]).mean(), abs=0.06), entry["name"]
    assert explained.mean() > 0.9 * (pixels > 0).mean()


def test_data_is_neither_black_nor_white(visit: Visit) -> None:
    colours = visit.inside("data")
    drawn = np.abs(colours - 255).max(axis=1) > 12
    assert drawn.mean() > 0.8 * (visit.pixels("provenance") > 0).mean()
    assert 40 < colours[drawn].mean() < 200
    assert colours[drawn].std() > 15


def test_every_link_and_asset_resolves(visit: Visit) -> None:
    start = visit.url + "/catalog/catalog.json"
    queue, known = [start], {start}
    for address in queue:
        answer = httpx.get(address)
        assert answer.status_code == 200, address
        document = answer.json()
        for link in document.get("links", []):
            _resolves(visit, address, link)
            target = urljoin(address, link["href"])
            if link["rel"] in MAP_LINKS and target not in known:
                known.add(target)
                queue.append(target)
        for asset in document.get("assets", {}).values():
            _resolves(visit, address, asset)
    assert any(httpx.get(address).json()["type"] == "Feature" for address in queue)


def test_links_on_the_pages_resolve(visit: Visit) -> None:
    own = {link.split("#")[0] for link in visit.seen["links"] if link.startswith(visit.url)}
    assert any("/catalog/" in link for link in own), "no page offers a file"
    for link in own:
        assert httpx.head(link).status_code == 200, link


def _resolves(visit: Visit, base: str, target: dict[str, Any]) -> None:
    """Check one link or asset of the document at `base`, unless it leads to another server."""
    address = urljoin(base, target["href"])
    if not address.startswith(visit.url):
        return
    answer = httpx.head(address)
    assert answer.status_code == 200, f"{base} -> {target['href']}"
    if "type" in target and "profile=" not in target["type"]:
        assert answer.headers["content-type"].split(";")[0] == target["type"].split(";")[0], address
    elif "type" in target:
        assert answer.headers["content-type"] == target["type"], address
