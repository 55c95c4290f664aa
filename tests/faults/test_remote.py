"""Rasters on web servers: addresses as archives write them, answers that are cut short or never come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from stac.errors import UnreadableAsset
from stac.grid.cell import Cell, cell_of
from stac.io.raster import open_raster
from stac.io.signing import Access
from stac.load.reading import AssetRequest, read_asset, read_thinned
from stac.load.stack import ReadOptions, read_stack
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import sample_catalog
from tests.faults.world import BANDS, World, truth
from tests.misbehaving_server import Asked, Reply, web_server

pytestmark = pytest.mark.integration
QUERY = Query.parse("sentinel-2-l2a", None, "2023-08-10")


@pytest.mark.parametrize(
    ("on_disk", "href", "wanted"),
    [
        ("my data", "my data", {}),
        ("my data", "my%20data", {}),
        ("a+b", "a+b", {}),
        ("a#b", "a%23b", {}),
        ("signed", "signed?sig=a%2Bb%2Fc%3D", {"sig": ["a+b/c="]}),
        ("expired", "expired?sig=old", {"sig": ["new"]}),
    ],
)
def test_remote_hrefs(tmp_path: Path, on_disk: str, href: str, wanted: dict[str, list[str]]) -> None:
    world = World(tmp_path)
    path, _, query = href.partition("?")
    asset = world.scene()["assets"]["blue"]
    (tmp_path / asset["href"]).rename(tmp_path / f"{on_disk}.tif")
    asset["href"] = f"./{path}.tif" + (f"?{query}" if query else "")
    world.search()

    def answer(asked: Asked) -> Reply:
        file = tmp_path / unquote(asked.path).lstrip("/")
        if file.name == f"{on_disk}.tif" and asked.query != wanted:
            return Reply(403, content=b"AuthenticationFailed")
        return Reply(content=file.read_bytes()) if file.is_file() else Reply(404)

    with web_server(answer) as url:
        (item,) = open_source(f"{url}catalog.json").search(QUERY)
        options = ReadOptions(access=Access(hosts=frozenset({"127.0.0.1"}), timeout_s=5))
        if on_disk == "expired":
            with pytest.raises(UnreadableAsset, match=r"403.*signature in the address may have expired"):
                read_stack([item], cell_of(item, "green"), BANDS, options)
        else:
            assert np.array_equal(read_stack([item], cell_of(item, "green"), BANDS, options).dn[0], truth())


NAME = "S2A_33TWL_20230818_0_L2A"
FILE = sample_catalog().parent / NAME / "B02.tif"
WHOLE = FILE.read_bytes()


def cell() -> Cell:
    with open_raster(str(FILE), NAME) as file:
        return Cell("x", GeoBox(file.shape, file.transform, file.crs.to_wkt()))


def pixels(href: str) -> np.ndarray:
    return read_asset(AssetRequest(NAME, "blue", href, 0, Resampling.nearest), Access(timeout_s=5), cell())


Trouble = Callable[[Asked], Reply]


def served(troubles: list[Trouble], skip: int = 0) -> Callable[[Asked], Reply]:
    """Serve the file; after `skip` good answers, one trouble an answer until there are none left."""
    left = [skip]

    def answer(asked: Asked) -> Reply:
        if left[0] > 0:
            left[0] -= 1
            return Reply(content=WHOLE)
        return troubles.pop(0)(asked) if troubles else Reply(content=WHOLE)

    return answer


def half(asked: Asked) -> Reply:
    first, last = (
        int(n) for n in asked.headers.get("range", f"bytes=0-{len(WHOLE)}").removeprefix("bytes=").split("-")
    )
    return Reply(content=WHOLE, cut_at=(min(last, len(WHOLE) - 1) - first) // 2)


def nothing(asked: Asked) -> Reply:
    return Reply(content=WHOLE, cut_at=0)


def busy(asked: Asked) -> Reply:
    return Reply(503, b"")


@pytest.mark.parametrize("trouble", [half, nothing, busy])
@pytest.mark.parametrize("skip", [0, 1])
def test_an_answer_that_is_cut_once_is_asked_for_again(trouble: Trouble, skip: int) -> None:
    with web_server(served([trouble], skip)) as url:
        assert np.array_equal(pixels(f"{url}B02.tif"), pixels(str(FILE)))


@pytest.mark.parametrize("trouble", [half, nothing])
@pytest.mark.parametrize("skip", [0, 1])
def test_answers_that_are_always_cut_are_an_error(trouble: Trouble, skip: int) -> None:
    with web_server(served([trouble] * 500, skip)) as url, pytest.raises(UnreadableAsset, match="cannot be read"):
        pixels(f"{url}B02.tif")


@pytest.mark.slow
def test_a_server_that_hangs_holds_an_asset_for_one_deadline() -> None:
    asked: list[str] = []

    def silent(question: Asked) -> Reply:
        asked.append(question.path)
        return Reply(200, b"", silence_s=30)

    with web_server(silent) as url:
        request = AssetRequest("scene", "blue", f"{url}B02.tif", 0, Resampling.nearest)
        for _ in range(3):  # as the retries of a task do
            with pytest.raises(UnreadableAsset, match=r"B02\.tif cannot be read"):
                read_asset(request, Access(timeout_s=1), cell())
            with pytest.raises(UnreadableAsset, match=r"B02\.tif cannot be read"):
                read_thinned(request, Access(timeout_s=1), 64)
    assert len(asked) <= 4, "what GDAL asks to open a file, once"
