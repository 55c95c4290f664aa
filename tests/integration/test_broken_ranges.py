"""Rasters on a web server that cuts answers short: read again, or refused; never read wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from stac.errors import UnreadableAsset
from stac.grid.cell import Cell
from stac.io.raster import open_raster
from stac.io.signing import Access
from stac.load.reading import AssetRequest, read_asset
from stac.search.static import sample_catalog
from tests.misbehaving_server import Asked, Reply, web_server

pytestmark = pytest.mark.integration
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
