"""Mosaics of cells of the sample, made without Prefect: other methods, and ground that no date saw."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from prefect.client.orchestration import get_client
from pydantic import ValidationError

from de_model.checkpoint import sha256_of, shipped_weights
from flows.census import Standing, take_census
from flows.errors import ScenesInvalid, WorkFailed
from flows.ledger.schema import State
from flows.ops.up.setup import begin_catalog
from flows.period_mosaic import MosaicSummary, run_mosaics
from flows.planning.mosaics import MosaicPlan, mosaic_jobs, plan_period
from flows.planning.workunit import ModelRef, MosaicUnit, unit_cell, unit_dates
from flows.processing.product import make_product
from flows.processing.publishing import ITEM_FILE
from flows.progress import listening
from flows.settings.loading import load_settings
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.validation import validate_item
from stac.composite.period import Method
from stac.composite.radiometry import Radiometry
from stac.errors import EmptySearch
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.product.layers import Provenance
from stac.search.opening import open_source
from stac.search.static import sample_catalog
from tests.faults.world import World
from tests.prefect_service import poll

MODEL = ModelRef("unveil-de", "1", sha256_of(shipped_weights()), str(shipped_weights()))


def planned(
    out: Path,
    days: str,
    bbox: str,
    method: Method = Method.MEDIAN,
    source: Path | None = None,
    cell_size: int = 64,
    nbar: bool = False,
    **more: object,
) -> tuple[MosaicPlan, dict[str, pystac.Item]]:
    grid = {"grid": "fixed", "resolution": 120, "cell_size": cell_size, "grid_origin": "60,0"}
    given = load_settings(None, {"out": out, "bbox": bbox, "samples": 1, "steps": 1, **grid, **more})
    (job,) = mosaic_jobs(given, MosaicOptions(method=method, period=days, nbar=nbar))
    items = open_source(str(source or sample_catalog())).search(job.settings.search)
    return plan_period(job, items, MODEL), {item.id: item for item in items}


def looks(plan: MosaicPlan, unit: MosaicUnit, items: dict[str, pystac.Item]) -> Stack:
    settings = plan.job.settings
    return read_stack(unit_dates(unit, items), unit_cell(unit, items, settings), settings.bands, settings.reading)


def made(plan: MosaicPlan, items: dict[str, pystac.Item], unit: MosaicUnit, folder: Path) -> dict[str, np.ndarray]:
    copies = {name: item.clone() for name, item in items.items()}
    make_product(unit, copies, plan.job.settings, MODEL, folder)
    validate_item(json.loads((folder / ITEM_FILE).read_text()))
    layers = {}
    for name in ("data", "count", "provenance"):
        with rasterio.open(folder / f"{name}.tif") as source:
            layers[name] = source.read()
    return layers


@pytest.mark.parametrize("method", [Method.MEDIAN, Method.GEOMEDIAN, Method.MEDOID])
def test_a_composite_of_all_looks_is_made_where_there_is_one_and_called_so(method: Method, tmp_path: Path) -> None:
    plan, items = planned(tmp_path / "out", "2023-08-10/2023-08-20", "15.75,46.08,15.76,46.09", method)
    unit = plan.units[0]
    found = made(plan, items, unit, tmp_path)
    seen = found["count"][0] > 0
    assert seen.mean() > 0.9
    assert (found["provenance"][0][seen] == Provenance.OTHER_DATES).all(), "none is one date's own pixel"
    assert not np.isin(found["provenance"][0][~seen], (Provenance.OBSERVED, Provenance.OTHER_DATES)).any()
    stack = looks(plan, unit, items)
    seen_values = np.where(is_observed(stack.classes)[:, None], stack.dn, np.nan)[:, :, seen]
    inside = (found["data"][:, seen] >= np.nanmin(seen_values, axis=0) * 0.7) & (
        found["data"][:, seen] <= np.nanmax(seen_values, axis=0) * 1.3
    )
    assert inside.mean() > 0.98, "in the range of the looks, as far as the radiometry of one date allows"
    gaps = ~seen & (found["provenance"][0] != Provenance.NODATA)
    level, filled = (np.median(found["data"][:, where], axis=1) for where in (seen, gaps))
    assert (filled > 0.5 * level).all() and (filled < 2 * level).all(), "what no date saw looks like the ground around"
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["fillers"]["pixels"]["model"] == gaps.sum() > 0, "by the model, which other dates say the colours"


def test_a_cell_that_no_date_saw_is_not_invented(tmp_path: Path) -> None:
    plan, items = planned(tmp_path / "out", "2023-08-10/2023-08-10", "15.24,45.55,16.40,46.05")
    for unit in plan.units:
        (classes,) = looks(plan, unit, items).classes
        if not is_observed(classes).any() and (classes != PixelClass.NODATA).any():
            break
    else:
        pytest.fail("every cell has a clear look; choose another date")
    found = made(plan, items, unit, tmp_path)
    assert not found["count"].any() and not found["data"].any()
    assert set(np.unique(found["provenance"])) <= {Provenance.NODATA, Provenance.NOT_RECOVERABLE}
    told = json.loads((tmp_path / ITEM_FILE).read_text())["properties"]
    assert told["unveil:clear_looks"]["without"] == 1.0 and told["unveil:not_recoverable"] == 100.0


def test_the_figures_of_clear_looks_are_those_of_the_layer(tmp_path: Path) -> None:
    plan, items = planned(tmp_path / "out", "2023-08-13/2023-08-13", "15.24,45.55,16.40,46.05")
    for unit in plan.units:
        (classes,) = looks(plan, unit, items).classes
        outside = classes == PixelClass.NODATA
        if outside.any() and (outside | is_observed(classes)).all() and not outside.all():
            break
    else:
        pytest.fail("the edge of the swath is cloudy everywhere; choose another date")
    made(plan, items, unit, tmp_path)
    (band,) = json.loads((tmp_path / ITEM_FILE).read_text())["assets"]["count"]["bands"]
    with rasterio.open(tmp_path / "count.tif") as source:
        count = source.read(1)
    figures = [band["statistics"][name] for name in ("minimum", "maximum", "mean")]
    assert figures == pytest.approx([count.min(), count.max(), count.mean()], abs=1e-4)


def test_a_cell_of_more_than_max_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptySearch, match=r"The first that cannot be used: Cell utm33n.* or raise max_pixels"):
        planned(tmp_path / "out", "2023-08-10/2023-08-20", "15.75,46.08,15.76,46.09", max_pixels=1000)


def test_a_date_that_lies_too_far_off_is_left_out_and_the_rest_is_made(tmp_path: Path) -> None:
    far, source = "S2B_33TWM_20230820_0_L2A", tmp_path / "source" / "catalog.json"
    shutil.copytree(sample_catalog().parent, source.parent)
    for path in (source.parent / far).glob("*.tif"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as scene:
            scene.write(np.roll(scene.read(), (2, 4), (1, 2)))
    bbox = "15.30,46.20,15.35,46.24"
    plan, items = planned(tmp_path / "out", "2023-08-10/2023-08-20", bbox, Method.BEST, source, 256)
    unit = plan.units[0]
    assert any(far in date for date in unit.dates)
    made(plan, items, unit, tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    shift = next(shift for name, shift in metadata["shifts_px"].items() if "20230820" in name)
    assert (shift["rows"], shift["columns"]) == pytest.approx((2, 4), abs=0.3) and not shift["corrected"]
    assert metadata["sources"] and not any("20230820" in scene["id"] for scene in metadata["sources"])
    sources = pystac.Item.from_file(str(tmp_path / ITEM_FILE)).get_links("derived_from")
    assert sources and not any("20230820" in str(link.title) for link in sources)


def test_reflectance_from_straight_above_is_asked_for_made_and_said(tmp_path: Path) -> None:
    days, bbox = "2023-08-10/2023-08-20", "15.75,46.08,15.76,46.09"
    found = {}
    for nbar in (False, True):
        plan, items = planned(tmp_path / "out", days, bbox, nbar=nbar)
        folder = tmp_path / str(nbar)
        folder.mkdir()
        found[nbar] = made(plan, items, plan.units[0], folder)["data"], plan
        item = json.loads((folder / ITEM_FILE).read_text())
        assert ("straight above" in item["properties"]["processing:lineage"]) is nbar
        above = json.loads((folder / "metadata.json").read_text())["mosaic"]["seen_from_above"]
        assert len(above) == (len(plan.units[0].dates) if nbar else 0)
    (plain, before), (corrected, after) = found[False], found[True]
    assert before.units[0].item_id != after.units[0].item_id and "-nbar-" in after.region_item_id
    ratio = np.median(corrected[:, (plain > 0).all(axis=0)] / plain[:, (plain > 0).all(axis=0)], axis=1)
    assert (np.abs(ratio - 1) < 0.04).all() and (ratio != 1).all(), "some percent, as views are at most 12 degrees off"
    # A later run begins with what was published.
    again = Radiometry.from_dict(json.loads(json.dumps(after.radiometry.to_dict())))
    assert again == after.radiometry


def test_a_quantile_is_refused_where_the_method_has_none() -> None:
    with pytest.raises(ValidationError, match="it is of method quantile"):
        MosaicOptions(quantile=0.3)


def test_reflectance_from_straight_above_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="best keeps the pixels of one date"):
        MosaicOptions(method=Method.BEST, nbar=True)
    given = load_settings(None, {"out": tmp_path / "out", "bbox": "15.75,46.08,15.76,46.09"})
    (job,) = mosaic_jobs(given, MosaicOptions(period="2023-08-10/2023-08-20", nbar=True))
    items = open_source(str(sample_catalog())).search(job.settings.search)
    for item in items:
        del item.properties["s2:product_uri"]
    with pytest.raises(EmptySearch, match=r"none of \d+ dates states"):
        plan_period(job, items, MODEL)


@pytest.mark.slow
def test_a_command_searches_and_plans_a_period_once(services_here: None, tmp_path: Path) -> None:
    given = {"grid": "fixed", "resolution": 120, "cell_size": 64, "grid_origin": "60,0", "use_model": False}
    settings = load_settings(None, {"out": tmp_path / "out", "bbox": "15.75,46.08,15.76,46.09", **given})
    said = Counter[str]()
    with listening(lambda event: said.update([event.text.partition(" ")[0], event.text])):
        summary = run_mosaics(settings, MosaicOptions(period="2023-08-10/2023-08-20", name="once"))
    assert {unit.state for unit in summary.units} == {State.SUCCEEDED} and len(summary.regions) == 1
    assert (said["searching"], said["2023-08-10_2023-08-20: matching dates"]) == (1, 1)

    def shown() -> bool:
        with get_client(sync_client=True) as client:
            return "plan 2023-08-10_2023-08-20" in {each.name for each in client.read_task_runs()}

    assert poll(lambda: shown() or None, "the page of the run shows no plan")


def test_mosaics_that_are_wanted_beside_each_other_are_no_versions_of_each_other(tmp_path: Path) -> None:
    """A new version takes the place of those of its name."""
    names = set()
    for options in (
        MosaicOptions(method=Method.QUANTILE, quantile=0.2),
        MosaicOptions(method=Method.QUANTILE, quantile=0.8),
        MosaicOptions(),
        MosaicOptions(nbar=True),
    ):
        for grid in ({}, {"grid": "fixed", "resolution": 60}, {"grid": "fixed", "resolution": 120}):
            given = load_settings(None, {"out": tmp_path, "bbox": "15.75,46.08,15.76,46.09", **grid})
            names |= {job.name for job in mosaic_jobs(given, options.model_copy(update={"period": "2023-08"}))}
    assert len(names) == 12


def with_wrong_grids(folder: Path, *names: str) -> str:
    """Return a copy of the sample in which some scenes declare another grid than their files have."""
    source = Path(shutil.copytree(sample_catalog().parent, folder / "wrong"))
    for path in (each for name in names for each in source.glob(f"{name}/*.json")):
        document = json.loads(path.read_text())
        for asset in document["assets"].values():
            asset["proj:transform"] = [120, 0, 900_000, 0, -120, 100]
        path.write_text(json.dumps(document))
    return str(source)


def test_one_scene_with_a_wrong_grid_does_not_cost_its_square(tmp_path: Path) -> None:
    source = with_wrong_grids(tmp_path, "S2B_33TWL_20230810_0_L2A")
    settings = load_settings(None, {"out": tmp_path / "out", "bbox": "15.45,45.9,15.6,46.1", "source": source})
    (job,) = mosaic_jobs(settings, MosaicOptions(period="2023-08"))
    plan = plan_period(job, open_source(source).search(job.settings.search), MODEL)
    bad, good = sorted(plan.units, key=lambda unit: unit.cell_id)
    assert plan.whole and (len(bad.dates), len(good.dates)) == (4, 5), "its date goes on in the other square"
    (reason,) = bad.left_out
    assert "S2B_33TWL_20230810_0_L2A" in reason and "proj:transform" in reason


@pytest.mark.slow
@pytest.mark.usefixtures("services_here")
def test_the_item_of_a_region_waits_for_a_cell_that_cannot_be_made_unless_that_is_allowed(tmp_path: Path) -> None:
    source = with_wrong_grids(tmp_path, "*33TWL*")
    given = {"out": tmp_path / "out", "bbox": "15.45,45.9,15.6,46.1", "source": source, "use_model": False}
    options = MosaicOptions(period="2023-08-10/2023-08-15", name="part")
    with pytest.raises(ScenesInvalid) as ended:
        run_mosaics(load_settings(None, given), options)
    assert isinstance(ended.value.summary, MosaicSummary) and ended.value.summary.regions == ()
    assert len(run_mosaics(load_settings(None, given | {"allow_invalid": True}), options).regions) == 1


def test_a_month_of_which_nothing_can_be_used_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scene("S2A_33TWM_20230610_0_L2A", "2023-06-10T10:00:00Z")
    world.scene("S2A_33TWM_20230710_0_L2A", "2023-07-10T10:00:00Z")["geometry"] = None
    world.search()
    (tmp_path / "S2A_33TWM_20230610_0_L2A-blue.tif").unlink()
    given = {"source": str(tmp_path), "datetime": "2023-06-01/2023-08-31", "out": tmp_path / "out", "use_model": False}
    settings, options = load_settings(None, given | {"allow_invalid": True}), MosaicOptions(period="month", name="all")
    with pytest.raises(WorkFailed, match=r"Of 1 scenes 1 failed. The first, S2A_33TWM_20230610_0_L2A: ") as ended:
        run_mosaics(settings, options)
    summary = ended.value.summary
    assert isinstance(summary, MosaicSummary) and len(summary.empty) == 3
    (passed,) = summary.left_out
    assert passed.target_id == "S2A_33TWM_20230710_0_L2A" and "no geometry" in passed.reason
    begin_catalog(tmp_path / "out")
    counted = take_census(settings, options)
    standing = {row.scene_id: row.standing for row in counted.scenes}
    assert not counted.complete and list(standing.values()) == [Standing.FAILED, Standing.INVALID]
