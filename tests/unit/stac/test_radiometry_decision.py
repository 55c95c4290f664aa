"""The decision table, on real items and on every combination that catalogs are known to write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest

from stac.errors import InvalidItem
from stac.load.scaling import RULES, Decision, decide

ITEMS = Path(__file__).parents[2] / "data" / "earth-search-items"
OLD = "older than 04.00"
SUBTRACTED = "has been subtracted from the pixels"
NOT_SUBTRACTED = "was not subtracted"

#: Every archived item: baseline, flag, and what follows.
EXPECTED = {
    "S2A_33TWN_20161202_0_L2A": ("00.01", False, 0.0, OLD),
    "S2A_33TWN_20171005_0_L2A": ("00.01", False, 0.0, OLD),
    "S2B_33TWN_20180521_1_L2A": ("02.07", False, 0.0, OLD),
    "S2B_33TWN_20180806_0_L2A": ("00.01", False, 0.0, OLD),
    "S2B_33TWN_20181005_0_L2A": ("02.08", False, 0.0, OLD),
    "S2B_33TWN_20181104_0_L2A": ("02.09", False, 0.0, OLD),
    "S2A_33TWN_20181119_0_L2A": ("02.10", False, 0.0, OLD),
    "S2B_33TWN_20190503_0_L2A": ("02.11", False, 0.0, OLD),
    "S2A_33TWN_20190707_1_L2A": ("02.12", False, 0.0, OLD),
    "S2A_33TWN_20200202_0_L2A": ("02.13", False, 0.0, OLD),
    "S2A_33TWN_20210328_0_L2A": ("02.14", False, 0.0, OLD),
    "S2A_33TWN_20210629_0_L2A": ("03.00", False, 0.0, OLD),
    # A week before the change.
    "S2A_33TWN_20220122_0_L2A": ("03.01", False, 0.0, OLD),
    # The two early scenes of the new baseline: both declare -0.1, one is subtracted already, the other is not.
    "S2B_33TWN_20220130_0_L2A": ("04.00", True, 0.0, SUBTRACTED),
    "S2B_33TWN_20220226_0_L2A": ("04.00", False, -0.1, NOT_SUBTRACTED),
    "S2A_32TMS_20221207_0_L2A": ("05.09", True, 0.0, SUBTRACTED),
    "S2A_12RWT_20240106_0_L2A": ("05.10", True, 0.0, SUBTRACTED),
}
REFLECTIVE = ("coastal", "blue", "green", "red", "nir", "nir08", "swir16", "swir22")


@pytest.mark.parametrize("path", sorted(ITEMS.glob("*.json")), ids=lambda p: p.stem)
def test_every_archived_item_is_decided_and_explained(path: Path) -> None:
    item = pystac.Item.from_file(str(path))
    baseline, flag, offset, reason = EXPECTED[item.id]
    assert item.properties["s2:processing_baseline"] == baseline
    assert item.properties["earthsearch:boa_offset_applied"] is flag
    decisions = {decide(item, item.assets[band]) for band in REFLECTIVE}
    assert len(decisions) == 1, "all bands of a scene alike"
    decision = decisions.pop()
    assert (decision.scale, decision.offset, decision.nodata) == (0.0001, offset, 0)
    assert reason in decision.reason
    assert baseline in decision.reason


def test_no_archived_item_is_left_out() -> None:
    assert {path.stem for path in ITEMS.glob("*.json")} == set(EXPECTED)


def decided(
    properties: Mapping[str, Any],
    fields: Mapping[str, Any] | None = None,
    *,
    collection: str = "sentinel-2-l2a",
    item_id: str = "x",
    href: str = "x.tif",
) -> Decision:
    item = pystac.Item(item_id, None, None, datetime(2023, 8, 10, tzinfo=UTC), dict(properties), collection=collection)
    asset = pystac.Asset(href, extra_fields=dict(fields or {}))
    item.add_asset("red", asset)
    return decide(item, asset)


OFFSET = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
NO_OFFSET = {"raster:bands": [{"scale": 0.0001, "offset": 0, "nodata": 0}]}
AZURE = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/33/T/WL/B04_10m.tif"


@pytest.mark.parametrize(
    ("properties", "fields", "more", "offset"),
    [
        # Earth Search, Collection 1: as ESA delivers it, offset declared
        (
            {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.00"},
            OFFSET,
            {"collection": "sentinel-2-c1-l2a"},
            -0.1,
        ),
        # Earth Search, version 0: the flag had another name
        ({"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00"}, {}, {}, 0.0),
        # Planetary Computer declares nothing
        ({"s2:processing_baseline": "05.09"}, {}, {"href": AZURE}, -0.1),
        ({"s2:processing_baseline": "03.01"}, {}, {"href": AZURE}, 0.0),
        # Copernicus Data Space: STAC 1.1, baseline as the version of the processing
        ({"processing:version": "05.11"}, {"bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}]}, {}, -0.1),
        # ... or only in the product's name
        ({}, {}, {"item_id": "S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753"}, -0.1),
        ({}, {}, {"item_id": "S2B_MSIL2A_20190302T095029_N0211_R079_T33UXP_20190302T104753"}, 0.0),
        # made by hand: the baseline says nothing
        ({"s2:processing_baseline": "99.99"}, OFFSET, {}, -0.1),
        # harmonised by the service, whatever the baseline
        ({"s2:processing_baseline": "05.09"}, {}, {"collection": "sentinel-2-l2a-harmonised"}, 0.0),
        ({"s2:processing_baseline": "05.09"}, NO_OFFSET, {}, 0.0),
        # Level-1C has the same offset (RADIO_ADD_OFFSET) since the same baseline
        ({"s2:processing_baseline": "05.09"}, {}, {"collection": "sentinel-2-l1c"}, -0.1),
        # nothing known
        ({}, {}, {}, 0.0),
    ],
)
def test_archives_differ(properties: dict[str, Any], fields: dict[str, Any], more: Any, offset: float) -> None:
    decision = decided(properties, fields, **more)
    assert (decision.scale, decision.offset, decision.nodata) == (1e-4, offset, 0)
    assert decision.reason.endswith(".")
    assert "{" not in decision.reason


LANDSAT = {"landsat:collection_number": "02", "landsat:correction": "L2SP"}


@pytest.mark.parametrize("fields", [{}, {"raster:bands": [{"scale": 2.75e-05, "offset": -0.2, "nodata": 0}]}])
def test_landsat_collection_2(fields: dict[str, Any]) -> None:
    decision = decided(LANDSAT, fields, collection="landsat-c2-l2")
    assert (decision.scale, decision.offset, decision.nodata) == (0.0000275, -0.2, 0)


def test_other_sensors_are_taken_at_their_word() -> None:
    found = decided({}, {"raster:bands": [{"scale": 0.0002, "offset": 0.01, "nodata": 65535}]}, collection="planet")
    assert (found.scale, found.offset, found.nodata) == (0.0002, 0.01, 65535)


@pytest.mark.parametrize(
    ("properties", "fields", "sentence"),
    [
        ({}, {"raster:bands": [{"scale": "x"}]}, "not numbers"),
        ({}, {"raster:bands": [{"nodata": "inf"}]}, "not numbers"),
        ({}, {"raster:bands": [{"scale": 0}]}, "scale 0"),
        ({}, {"raster:bands": [{"scale": -1}]}, "scale -1"),
        ({}, {"raster:bands": [{"scale": 1, "offset": -0.1}]}, "one step would be that much"),
        ({}, {"raster:bands": [{"offset": "nan"}]}, "offset nan"),
        ({}, {"raster:bands": [{"scale": 0.0001, "offset": -1000}]}, "in digital numbers"),
        ({"earthsearch:boa_offset_applied": "yes"}, {}, "expected true or false"),
        # flag, baseline and declaration cannot all be true
        ({"s2:processing_baseline": "02.14"}, OFFSET, "older than 04.00"),
        ({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": False}, NO_OFFSET, "declares offset 0"),
        ({"earthsearch:boa_offset_applied": True}, {"raster:bands": [{"scale": 0.001}]}, "with 0.0001"),
        # a thermal band of Landsat is no reflectance
        (LANDSAT, {"raster:bands": [{"scale": 0.00341802, "offset": 149.0}]}, "in digital numbers"),
        (LANDSAT, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, "surface reflectance of Landsat"),
    ],
)
def test_lies_are_refused(properties: dict[str, Any], fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidItem, match=rf"Item x .*{sentence}"):
        decided(properties, fields)


def test_the_sample_needs_no_offset(sample_items: list[pystac.Item]) -> None:
    """Its items declare -0.1 and say that it is applied; subtracting it again would darken the ground below 0."""
    declared = json.dumps(sample_items[0].assets["blue"].to_dict())
    assert '"offset": -0.1' in declared
    found = {decide(item, item.assets[band]).offset for item in sample_items for band in ("blue", "nir")}
    assert found == {0.0}


def test_only_scenes_that_could_hold_an_offset_are_suspected() -> None:
    at_stake = set()
    for path in ITEMS.glob("*.json"):
        item = pystac.Item.from_file(str(path))
        if decide(item, item.assets["red"]).offset_at_stake:
            at_stake.add(item.id)
    assert at_stake == {name for name, (baseline, *_) in EXPECTED.items() if baseline >= "04.00"}


def test_every_row_has_a_reason() -> None:
    assert len({rule.reason for rule in RULES}) == len(RULES)
    assert RULES[-1].scale is None
