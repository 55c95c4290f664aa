"""Addresses as archives write them: blanks, percent signs, signatures that expired; pages that overlap."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from stac.errors import UnreadableAsset
from stac.grid.cell import cell_of
from stac.io.signing import Access
from stac.load.stack import ReadOptions, read_stack
from stac.search.opening import open_source
from stac.search.query import Query
from tests.faults.world import BANDS, World, truth
from tests.misbehaving_server import Asked, Reply, web_server

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
