"""`unveil run` from a catalog in S3 to a catalog in S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stac.search.static import sample_catalog
from tests.command import TINY_BBOX, unveil
from tests.s3_server import S3Server

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_a_run_reads_from_s3_and_publishes_to_s3(s3: S3Server, services: dict[str, str], tmp_path: Path) -> None:
    scenes, out = s3.bucket("scenes"), s3.bucket("mosaics")
    s3.upload(sample_catalog().parent, scenes, "sample")
    state = tmp_path / "state"
    command = ("run", "--source", f"s3://{scenes}/sample", "--bbox", TINY_BBOX, "--out", f"s3://{out}/eo", "--json")
    extra = services | {"UNVEIL_S3_ENDPOINT": s3.url, "UNVEIL_S3_REGION": "us-east-1"}
    first = unveil(*command, "--state-dir", state, home=tmp_path / "home", extra=extra)
    assert first.status == 0, first.err
    units = first.document["units"]
    assert units and all(unit["state"] == "SUCCEEDED" for unit in units)
    objects = s3.keys(out)
    for unit in units:
        item = json.loads(objects[unit["item_href"].removeprefix(f"s3://{out}/")])
        assert item["properties"]["unveil:work_id"] == unit["work_id"]
    nodes = [json.loads(text) for name, text in objects.items() if "/_dates/" in name and "unveil-models" not in name]
    assert sum(link["rel"] == "item" for node in nodes for link in node["links"]) == len(units)
    assert not list((state / "staging").iterdir())
    everything = first.out + first.err + "".join(p.read_text("utf-8", "ignore") for p in state.rglob("*.json"))
    assert "very-secret" not in everything and b"very-secret" not in b"".join(objects.values())
    s3.requests.clear()
    again = unveil(*command, "--state-dir", state, home=tmp_path / "home", extra=extra)
    assert again.status == 0 and len(again.document["already_done"]) == len(units)
    assert s3.keys(out) == objects
    nowhere = unveil(*command[:-2], "s3://no-such-place/eo", "--json", home=tmp_path / "home", extra=extra)
    assert nowhere.status == 1 and "bucket no-such-place does not exist" in nowhere.err + nowhere.out
