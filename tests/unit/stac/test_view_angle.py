"""Where a Sentinel-2 stood, and what it would show from straight above: by hand, and on real dates of two orbits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from stac.composite.view_angle import c_factor, relative_orbit, towards_nadir, view_of
from stac.grid.cell import Cell, cell_of
from stac.load.scale_check import RadiometryCheck
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import is_observed
from stac.masks.shadow_geometry import Sun
from stac.search.acquisitions import Acquisition, group_passes
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

#: Five scenes on both sides of 180 degrees.
ANTIMERIDIAN = Path(__file__).parents[2] / "data" / "antimeridian"
BANDS = ("blue", "green", "red", "nir")


def sample(square: str) -> list[Acquisition]:
    query = Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL)
    return group_passes([item for item in open_source(str(sample_catalog())).search(query) if square in item.id])


def test_the_factor_is_that_of_the_kernels() -> None:
    """By hand, sun 45 degrees high: Ross-Thick -0.0459 at nadir, 0.3253 in the hot spot; Li-Sparse -1.1070, 0.5858."""
    sun, views = Sun(azimuth=150.0, elevation=45.0), np.array([0.0, 45.0])
    nir = (0.3093 - 0.1535 * 0.04586 - 0.0330 * 1.10704) / (0.3093 + 0.1535 * 0.3253 + 0.0330 * 0.5858)
    assert c_factor([sun], views, np.full(2, 150.0), "nir") == pytest.approx([1.0, nir], abs=2e-4)
    towards, away = (c_factor([sun], np.array([11.0]), np.array([150.0 + turn]), "red")[0] for turn in (0, 180))
    assert towards < 1 < away, "the sun behind the satellite is brighter"
    night = c_factor([Sun(0, -5)], views, views, "red")
    assert c_factor([sun], views, views, "thermal").tolist() == [1, 1] == night.tolist()


def test_a_low_sun_leaves_plausible_factors() -> None:
    """At 4 degrees the kernels' reflectance is negative: red was multiplied by -0.14."""
    azimuth = np.arange(0.0, 360.0, 15.0)
    for elevation in (1.0, 4.0, 8.0, 14.0):
        factors = c_factor([Sun(180.0, elevation)], np.full_like(azimuth, 12.0), azimuth, "red")
        assert 0.85 < factors.min() < 1 < factors.max() < 1.15


def test_the_sun_of_a_place_is_not_that_of_the_middle_of_its_region() -> None:
    date = sample("33TWM")[0]
    own, wide = (
        Cell("region", GeoBox((40, width), Affine(5000, 0, 480_000, 0, -5000, 5_300_000), "EPSG:32633"))
        for width in (40, 400)
    )
    views = [towards_nadir(date, region, ("red",)) for region in (own, wide)]
    shares = [view.at(own) for view in views if view is not None]
    assert np.abs(shares[0]).max() > 0.03 and np.abs(shares[0] - shares[1])[:, :, :20].max() < 0.01


@pytest.mark.parametrize(
    ("orbit", "place", "azimuth"),
    [
        (79, (15.329, 46.953), 104),  # western edges of the data, as footprints of real scenes have them
        (65, (7.786, 46.947), 104),
        (141, (-110.578, 29.83), 102),
        (122, (16.416, 45.995), 286),  # an eastern one
    ],
)
def test_edges_of_swaths_are_seen_from_the_side(orbit: int, place: tuple[float, float], azimuth: float) -> None:
    zenith, seen_at = view_of(orbit, *(np.array([part]) for part in place))
    assert zenith[0] == pytest.approx(11.85, abs=0.3) and seen_at[0] % 360 == pytest.approx(azimuth, abs=2)
    inside = view_of(orbit, np.array([place[0] + (1.8 if azimuth < 180 else -1.8)]), np.array([place[1]]))[0]
    assert inside[0] < 3


def test_two_orbits_agree_better_from_straight_above() -> None:
    dates = {date.id: date for date in sample("33TWM")}
    cell = cell_of(next(iter(dates.values())).items[0], "blue")
    options = ReadOptions(radiometry_check=RadiometryCheck.OFF, temporal=True)
    stack = read_stack(list(dates.values()), cell, BANDS, options)
    east, west = (next(i for i, n in enumerate(stack.item_ids) if day in n) for day in ("0813", "0815"))
    assert [relative_orbit(dates[stack.item_ids[i]].items[0]) for i in (east, west)] == [122, 79]
    both = is_observed(stack.classes[east]) & is_observed(stack.classes[west])
    looks = [stack.reflectance(i) for i in (east, west)]
    shares = [towards_nadir(dates[stack.item_ids[i]], stack.cell, BANDS) for i in (east, west)]
    above = [look * (1 + share.at(stack.cell)) for look, share in zip(looks, shares, strict=True) if share is not None]
    apart, left = (
        np.abs(np.median((a / b)[:, both], axis=1) - 1) for a, b in ((looks[0], looks[1]), (above[0], above[1]))
    )
    assert (left < apart - 0.04).all() and left[3] < 0.03


def test_an_orbit_that_nothing_states_is_not_guessed() -> None:
    (date, *_), cell = sample("33TWM"), cell_of(sample("33TWM")[0].items[0], "blue")
    item = date.items[0].clone()
    assert relative_orbit(item) == 79
    item.properties["sat:relative_orbit"] = 22
    assert relative_orbit(item) == 22
    del item.properties["sat:relative_orbit"], item.properties["s2:product_uri"]
    assert relative_orbit(item) is None and towards_nadir(replace(date, items=(item,)), cell, BANDS) is None
    item.properties |= {"sat:relative_orbit": 22, "platform": "landsat-8"}
    assert relative_orbit(item) is None


def test_a_region_across_the_antimeridian_has_its_sun_and_its_views() -> None:
    items = [pystac.Item.from_file(str(path)) for path in sorted(ANTIMERIDIAN.glob("*/*.json"))]
    dates = {relative_orbit(date.items[0]): date for date in group_passes(items)}
    region = Cell("region", GeoBox((400, 400), Affine(1000, 0, 300_000, 0, -1000, 7_700_000), "EPSG:32601"))
    shares = {orbit: towards_nadir(date, region, ("red",)) for orbit, date in dates.items()}
    assert set(shares) == {16, 30, 116}
    for share in shares.values():
        assert share is not None
        values = share.at(region)
        assert values.min() < -0.005 and values.max() > 0.005, "both sides of a swath"
        assert np.abs(np.diff(values, axis=2)).max() < 0.002, "no step at 180 degrees"
