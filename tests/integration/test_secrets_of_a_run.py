"""Fake secrets in every setting: commands use them, and no byte that they leave behind holds one."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stac.search.static import sample_catalog
from tests.command import TINY_BBOX, TINY_SETTINGS, Outcome, unveil
from tests.misbehaving_server import Asked, Reply, web_server

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

#: In each value that follows; nothing else holds it.
HUSH = "hush5ecret"
LOGIN = base64.b64encode(f"me:{HUSH}1".encode()).decode()


@pytest.fixture
def guarded() -> Iterator[str]:
    """The sample behind a login, with a signature in the address of each asset; yields its address with the login."""
    root = sample_catalog().parent

    def answer(asked: Asked) -> Reply:
        path = root / asked.path.removeprefix("/cat/")
        if asked.headers.get("authorization") != f"Basic {LOGIN}":
            return Reply(401, b"")
        if not path.is_file():
            return Reply(404, b"")
        if path.suffix == ".tif":
            return Reply(content=path.read_bytes()) if asked.query.get("sig") == [f"{HUSH}2"] else Reply(403, b"")
        document = json.loads(path.read_bytes())
        for asset in document.get("assets", {}).values():
            asset["href"] += f"?sv=1&sig={HUSH}2"
        return Reply(content=document)

    with web_server(answer) as url:
        yield url.replace("http://", f"http://me:{HUSH}1@") + f"cat/catalog.json?key={HUSH}3"


def no_secret_in(folder: Path, outcome: Outcome) -> None:
    assert HUSH not in outcome.out + outcome.err
    for path in folder.rglob("*"):
        assert HUSH not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert HUSH.encode() not in content and LOGIN.encode() not in content, path


@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_a_source_behind_logins_and_signatures_leaves_none(guarded: str, tmp_path: Path, runner: str) -> None:
    few = {**TINY_SETTINGS, "UNVEIL_SAMPLES": "1", "UNVEIL_STEPS": "1", "UNVEIL_USE_MODEL": "false"}
    extra = {**few, "UNVEIL_SOURCE": guarded, "UNVEIL_RUNNER": runner}
    out = tmp_path / "out"
    done = unveil(
        "run", "--out", out, "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--json",
        home=tmp_path / "home", extra=extra, timeout=400,
    )  # fmt: skip
    assert done.status == 0, done.err[-3000:]
    assert list(out.glob("unveil-*/*/data.tif")), "pixels were read"
    no_secret_in(tmp_path, done)


SETTINGS = {
    "UNVEIL_S3_ENDPOINT": f"https://me:{HUSH}@s3.invalid",
    "UNVEIL_DASK_SCHEDULER": f"tcp://me:{HUSH}@127.0.0.1:1",
    "UNVEIL_LEDGER_URL": f"postgresql://me:{HUSH}@127.0.0.1:1/ledger?connect_timeout=2",
    "UNVEIL_MLFLOW_URI": f"http://me:{HUSH}@127.0.0.1:1/?password={HUSH}",
    "UNVEIL_INDEXES": f"http://me:{HUSH}@127.0.0.1:1/stac?subscription-key={HUSH}",
    "UNVEIL_SIGNING_URL": f"https://me:{HUSH}@sas.invalid/?code={HUSH}",
    "UNVEIL_PUBLIC_ROOT": f"https://me:{HUSH}@catalog.invalid/?token={HUSH}",
    "UNVEIL_SOURCE": f"http://me:{HUSH}@127.0.0.1:1/cat?subscription-key={HUSH}",
    "UNVEIL_OUT": f"http://me:{HUSH}@127.0.0.1/x?sig={HUSH}",
    "PREFECT_API_URL": f"http://me:{HUSH}@127.0.0.1:1/api",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_secret_in_a_setting_is_not_repeated(name: str, tmp_path: Path) -> None:
    extra = {
        "UNVEIL_SEARCH_S": "5",
        "UNVEIL_TIMEOUT_S": "2",
        "UNVEIL_SEARCH_RETRIES": "0",
        "UNVEIL_OUT": str(tmp_path / "o"),
    }
    extra |= {name: SETTINGS[name], "UNVEIL_INDEX_TOKEN": HUSH, "SH_CLIENT_SECRET": HUSH, "AWS_SECRET_ACCESS_KEY": HUSH}
    runner = {"UNVEIL_RUNNER": "dask"} if name == "UNVEIL_DASK_SCHEDULER" else {}
    arguments = ("run", "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--json")
    done = unveil(*arguments, home=tmp_path / "home", extra={**TINY_SETTINGS, **extra, **runner}, timeout=300)
    no_secret_in(tmp_path, done)
