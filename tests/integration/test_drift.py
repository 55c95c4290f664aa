"""Scenes whose offset was not taken off, through the real flow: the alarm reaches the Prefect server and the pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rasterio

from flows.services.state import Login
from stac.catalog.publish import StaticCatalog
from stac.search.static import sample_catalog
from tests.command import TINY_BBOX, Outcome, unveil
from tests.prefect_service import ask, poll

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A run on spoilt scenes."""

    root: Path
    outcome: Outcome
    home: Path


SCENES = "S2?_33TWM_*"


def spoil(folder: Path) -> Path:
    """Copy the sample; add what an offset of -0.1 would have taken off to one square."""
    shutil.copytree(sample_catalog().parent, folder)
    for path in folder.glob(f"{SCENES}/B*.tif"):
        with rasterio.open(path) as source:
            pixels, profile = source.read(), source.profile
        pixels[pixels > 0] += 1000
        with rasterio.open(path, "w", **profile) as target:
            target.write(pixels)
    return folder / "catalog.json"


@pytest.fixture(scope="module")
def spoilt(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Spoilt:
    folder = tmp_path_factory.mktemp("drift")
    root, home = folder / "catalog", folder / "home"
    extra = services | {"UNVEIL_RADIOMETRY_CHECK": "warn", "UNVEIL_GATE": "off"}
    source = spoil(folder / "scenes")
    outcome = unveil("run", "--source", source, "--bbox", TINY_BBOX, "--out", root, "--json", home=home, extra=extra)
    assert outcome.status == 0, outcome.err
    return Spoilt(root, outcome, home)


def events(url: str, login: Login, name: str, run_id: str) -> list[dict[str, Any]]:
    """What the Prefect server holds of a run under the name of an event."""
    body = {"filter": {"event": {"name": [name]}}}
    auth = (login.user, login.password)
    found = ask("POST", f"{url}/events/filter", body, auth)["events"]
    every = [event["payload"] | {"resource": event["resource"]["prefect.resource.id"]} for event in found]
    return [event for event in every if event["run_id"] == run_id]


@pytest.fixture
def told(spoilt: Spoilt, prefect_url: str, prefect_login: Login) -> Callable[[str], dict[str, Any]]:
    """Returns the one event of a name that the run has sent; the server writes it some seconds later."""

    def wait(name: str) -> dict[str, Any]:
        run_id = spoilt.outcome.document["run_id"]
        found = poll(lambda: events(prefect_url, prefect_login, name, run_id) or None, f"no event {name} arrived")
        assert len(found) == 1
        return found[0]

    return wait


def test_the_alarm_is_an_event_with_figures(spoilt: Spoilt, told: Callable[[str], dict[str, Any]]) -> None:
    event = told("unveil.drift.alarm")
    assert event["resource"] == "unveil.model.unveil-de" and event["verdict"] == "alarm" and event["units"] == 2
    blue = next(feature for feature in event["features"] if feature["feature"] == "reflectance.blue")
    assert blue["shift"] > blue["shift_alarm"] and blue["psi"] > blue["psi_alarm"]
    assert event["collection"] == "sentinel-2-l2a" and str(spoilt.root) not in json.dumps(event)


def test_the_table_is_an_artifact(spoilt: Spoilt, prefect_url: str, prefect_login: Login) -> None:
    body = {"artifacts": {"key": {"any_": ["drift"]}}, "sort": "CREATED_DESC"}
    auth = (prefect_login.user, prefect_login.password)
    found = ask("POST", f"{prefect_url}/artifacts/filter", body, auth)
    mine = next(a for a in found if a["description"] == spoilt.outcome.document["drift"]["sentence"])
    assert {"feature", "psi", "psi_alarm", "shift", "shift_alarm", "verdict"} <= set(json.loads(mine["data"])[0])


def test_run_and_product_say_so(spoilt: Spoilt) -> None:
    assert spoilt.outcome.document["drift"]["verdict"] == "alarm"
    item = next(iter(StaticCatalog(spoilt.root).items()))
    folder = Path(str(item.get_self_href())).parent
    report = (folder / "report.html").read_text("utf-8")
    assert "Drift alarm: 1 unit differs" in report and 'aria-label="Reflectance of clear ground by band' in report
    blue = json.loads((folder / "metadata.json").read_text())["drift"]["statistics"]["features"]["reflectance.blue"]
    assert blue["sum"] / sum(blue["counts"]) > 0.1


def test_the_command_shows_it_and_can_fail_on_it(spoilt: Spoilt, services: dict[str, str]) -> None:
    found = unveil("drift", "--out", spoilt.root, "--json", home=spoilt.home, extra=services)
    assert found.status == 0 and found.document["verdict"] == "alarm" and found.document["units"] == 2
    last = ("drift", "--out", spoilt.root, "--last", "1", "--fail-on-alarm")
    failed = unveil(*last, home=spoilt.home, extra=services)
    assert failed.status == 1 and "Reflectance of clear ground, blue" in failed.out and "1 unit " in failed.out


def test_the_sample_as_it_is_raises_no_alarm(tiny_run: Any) -> None:
    found = tiny_run.outcome.document["drift"]
    assert found is not None
    inputs = [f for f in found["features"] if f["name"].startswith("reflectance") or f["name"] in ("ndvi", "sky")]
    assert len(inputs) >= 5 and not [f["sentence"] for f in inputs if f["verdict"] == "alarm"]
