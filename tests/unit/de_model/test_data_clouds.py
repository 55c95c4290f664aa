"""Synthetic clouds: exact where there are none, physical where there are, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from de_model.data.cloud_draw import Genus, draw_layer, draw_parameters
from de_model.data.clouds import (
    BRIGHTEST,
    THICK,
    CloudLayer,
    CloudParameters,
    CloudyScene,
    Sun,
    add_clouds,
    cloud_albedo,
    parallax_offset,
    shadow_offset,
)
from de_model.data.fractal import FractalField, Texture
from de_model.data.pairs import Mixture, PatchSampler, ScenePair, fingerprint
from de_model.data.spectra import optics_of
from de_model.data.synthetic import SyntheticPair, with_synthetic
from de_model.data.transplant import transplant
from de_model.errors import InvalidModelInput, TrainingFailed

BANDS = ("blue", "green", "red", "nir")
SUN = Sun(35.0, 155.0)
SMOOTH = Texture(scale_m=2_000, decay=2.5)


def ground(size: int = 64, seed: int = 0, nodata: bool = False) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    image = np.array([0.04, 0.07, 0.06, 0.32])[:, None, None] * random.uniform(0.6, 1.4, (1, size, size))
    if nodata:
        image[:, :5, :7] = np.nan
    return image.astype(np.float32)


def one(genus: Genus, coverage: float, seed: int = 0, **changes: float) -> CloudParameters:
    layer = draw_layer(genus, coverage, np.random.default_rng(seed))
    return CloudParameters((replace(layer, **changes),))


def clouded(
    parameters: CloudParameters, seed: int = 0, gsd_m: float = 60.0, sun: Sun = SUN, size: int = 64
) -> CloudyScene:
    return add_clouds(ground(size), BANDS, gsd_m, sun, parameters, seed)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    low=st.floats(0, 0.9),
    width=st.floats(0, 0.1),
    gsd_m=st.sampled_from([0.5, 10.0, 30.0, 120.0]),
    zenith=st.floats(0, 75),
    azimuth=st.floats(0, 360),
)
def test_untouched_pixels_are_bit_identical_and_all_are_physical(
    seed: int, low: float, width: float, gsd_m: float, zenith: float, azimuth: float
) -> None:
    clear = ground(48, seed % 7, nodata=True)
    parameters = draw_parameters(np.random.default_rng(seed), (low, low + width))
    scene = add_clouds(clear, BANDS, gsd_m, Sun(zenith, azimuth), parameters, seed)
    untouched = ~scene.obscured
    assert np.array_equal(scene.reflectance[:, untouched], clear[:, untouched], equal_nan=True)
    assert (scene.tau[~scene.cloud] == 0).all()
    assert np.array_equal(np.isnan(scene.reflectance), np.isnan(clear))
    values = scene.reflectance[np.isfinite(clear)]
    assert scene.reflectance.dtype == np.float32 and values.min() >= 0 and values.max() <= BRIGHTEST
    assert not (scene.thin & scene.thick).any() and not (scene.shadow & scene.cloud).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), low=st.floats(0, 0.8), width=st.floats(0, 0.2))
def test_coverage_meets_the_range_asked_for(seed: int, low: float, width: float) -> None:
    parameters = draw_parameters(np.random.default_rng(seed), (low, low + width))
    covered = float((clouded(parameters, seed).tau > 0).mean())
    assert low - 0.005 <= covered <= low + width + 0.005


@pytest.mark.parametrize("coverage", [0.0, 0.25, 1.0])
def test_coverage_of_one_layer_is_exact(coverage: float) -> None:
    scene = clouded(one(Genus.CUMULUS, coverage))
    assert (scene.tau > 0).mean() == pytest.approx(coverage, abs=1e-3)


def test_the_same_arguments_give_the_same_bytes_and_another_seed_another_sky() -> None:
    parameters = draw_parameters(np.random.default_rng(1), (0.3, 0.6))
    first, again, other = (clouded(parameters, seed) for seed in (5, 5, 6))
    assert first.reflectance.tobytes() == again.reflectance.tobytes()
    assert not np.array_equal(first.tau, other.tau)


def test_no_layer_returns_the_scene_itself() -> None:
    scene = clouded(CloudParameters(()))
    assert np.array_equal(scene.reflectance, ground()) and not scene.obscured.any()


def test_albedo_follows_the_two_stream_law() -> None:
    tau = np.array([0, 1, 7.69, 1e6], np.float32)
    assert np.allclose(cloud_albedo(tau), [0, 0.115, 0.5, 1], atol=1e-3)
    assert cloud_albedo(tau)[0] == 0


def test_a_thick_layer_hides_the_ground_and_a_thin_one_does_not() -> None:
    quiet = {"noise": (0.0, 0.0)}
    thick = replace(one(Genus.STRATUS, 1.0, thickness=500.0, relief=0.0), **quiet)
    thin = replace(one(Genus.HAZE, 1.0, thickness=0.1), **quiet)
    hidden, veiled = (clouded(p).reflectance[3] for p in (thick, thin))
    assert abs(np.corrcoef(hidden.ravel(), ground()[3].ravel())[0, 1]) < 0.2
    assert np.corrcoef(veiled.ravel(), ground()[3].ravel())[0, 1] > 0.8
    assert clouded(thick).thick.mean() > 0.95 and not clouded(thin).thick.any()
    scene = clouded(one(Genus.STRATUS, 0.5))
    assert (scene.tau[scene.thick] >= THICK).all() and (scene.tau[scene.thin] < THICK).all()


def test_haze_is_bluer_than_water_cloud() -> None:
    def blue_over_nir(angstrom: float) -> float:
        parameters = one(Genus.HAZE, 1.0, angstrom=angstrom, blueness=0.0, thickness=0.3)
        black = np.full((4, 64, 64), 1e-4, np.float32)
        added = add_clouds(black, BANDS, 60.0, SUN, replace(parameters, noise=(0.0, 0.0)), 0).reflectance.mean((1, 2))
        return float(added[0] / added[3])

    assert blue_over_nir(0.0) == pytest.approx(1, abs=0.02)
    assert blue_over_nir(1.5) > 1.8


def test_shadows_fall_away_from_the_sun_by_height_and_angle() -> None:
    down, right = shadow_offset(1_000, Sun(45, 180), 10)
    assert (down, right) == pytest.approx((-100, 0), abs=1e-6)  # sun in the south: to the north, up
    down, right = shadow_offset(500, Sun(45, 90), 10)
    assert (down, right) == pytest.approx((0, -50), abs=1e-6)
    parameters = one(Genus.CUMULUS, 0.15, height_m=900.0, thickness=200.0)
    scene = clouded(replace(parameters, noise=(0.0, 0.0)), sun=Sun(45, 180), gsd_m=100.0, size=96)
    # 900 m at 45 degrees are 9 px: what the cloud mask moved up does not cover itself is shadow.
    moved = np.zeros_like(scene.cloud)
    moved[:-9] = (scene.tau > 0)[9:]
    expected = (moved & ~scene.cloud)[:-9]
    assert (scene.shadow[:-9] == expected).mean() > 0.99
    lit = scene.reflectance / ground(96)
    assert (lit[:, scene.shadow] <= 1 + 1e-6).all()


def test_blue_shadows_are_the_faintest() -> None:
    scene = clouded(replace(one(Genus.CUMULUS, 0.3, thickness=300.0), noise=(0.0, 0.0)))
    light = np.array([np.median(scene.reflectance[b, scene.shadow] / ground()[b, scene.shadow]) for b in range(4)])
    assert (np.diff(light) < 0).all() and light[0] > 2 * light[3]
    assert all(0 < optics_of(band).diffuse_share <= 1 for band in ("coastal", *BANDS, "swir22"))


def test_parallax_moves_bands_apart_in_the_order_of_the_detector_lines() -> None:
    blue, nir, red = (np.hypot(*parallax_offset(10_000, optics_of(b).delay_s, 10.0)) for b in ("blue", "nir", "red"))
    assert blue == 0 < nir < red and red == pytest.approx(8.55, abs=0.1)
    layer = CloudLayer(SMOOTH, coverage=0.4, thickness=5.0, profile=1.0, height_m=9_000, brightness=1.0)
    black = np.full((4, 96, 96), 1e-4, np.float32)
    scene = add_clouds(black, BANDS, 10.0, SUN, CloudParameters((layer,), noise=(0.0, 0.0)), 2)
    down, right = (round(n) for n in parallax_offset(9_000, optics_of("red").delay_s, 10.0))
    inner = slice(16, -16)
    moved = np.roll(scene.reflectance[0], (down, right), (0, 1))[inner, inner]
    seen = scene.reflectance[2][inner, inner]
    assert np.abs(moved - seen).mean() < 0.3 * np.abs(scene.reflectance[0][inner, inner] - seen).mean()


def test_fields_move_by_fractions_of_a_pixel_without_loss() -> None:
    field = FractalField((40, 56), 10.0, replace(SMOOTH, scale_m=200, clumping=0.4, lobes=2), np.random.default_rng(0))
    still = field.values()
    assert np.allclose(field.values(3, -4)[3:, :-4], still[:-3, 4:], atol=1e-5)
    assert not np.allclose(field.values(0.5, 0), still, atol=1e-2)
    assert still.shape == (40, 56) and 0.3 < still.std() < 3


def test_stretched_fields_are_longer_along_their_bearing() -> None:
    texture = Texture(scale_m=300, decay=2.2, stretch=6, bearing_deg=90)
    values = FractalField((128, 128), 10.0, texture, np.random.default_rng(0)).values()
    down, right = (np.abs(np.diff(values, axis=axis)).mean() for axis in (0, 1))
    assert down > 2.5 * right  # east-west streaks change faster from north to south


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Texture(0, 2), "scale and decay must be positive"),
        (lambda: CloudLayer(SMOOTH, 1.2, 1, 1, 1), "coverage 1.2 is not a share"),
        (lambda: CloudLayer(SMOOTH, 0.5, -1, 1, 1), "negative"),
        (lambda: Sun(88, 0), "sun zenith angle of 88"),
        (lambda: draw_parameters(np.random.default_rng(0), (0.5, 0.2)), "0.5 to 0.2 is no range"),
        (lambda: add_clouds(ground(), BANDS[:3], 10, SUN, CloudParameters(()), 0), r"with 3 bands.*\(4, 64, 64\)"),
        (lambda: add_clouds(ground(), (*BANDS[:3], "b9"), 10, SUN, CloudParameters(()), 0), "b9 has no known"),
        (lambda: add_clouds(ground(4), BANDS, 10, SUN, CloudParameters(()), 0), "at least 8 px"),
    ],
)
def test_impossible_skies_are_refused(make: object, words: str) -> None:
    with pytest.raises(InvalidModelInput, match=words):
        make()  # type: ignore[operator] # parametrised callables


def test_transplanted_clouds_keep_the_ground_outside_and_the_cloud_inside() -> None:
    source = clouded(one(Genus.CUMULUS, 0.3, thickness=60.0), size=96)
    clear = ground(96, seed=3, nodata=True)
    result = transplant(source.reflectance, source.cloud, clear, source.shadow)
    outside = ~source.obscured
    assert np.array_equal(result[:, outside], clear[:, outside], equal_nan=True)
    opaque = (cloud_albedo(source.tau) > 0.75) & np.isfinite(clear[0])
    assert opaque.any() and np.array_equal(result[:, opaque], source.reflectance[:, opaque])
    assert np.array_equal(np.isnan(result), np.isnan(clear))
    shade = source.shadow & np.isfinite(clear[0])
    assert (result[:, shade] <= clear[:, shade]).all() and result[3, shade].mean() < 0.8 * clear[3, shade].mean()


def test_transplanted_thin_cloud_is_near_the_same_cloud_made_there() -> None:
    """Over ground of another date the approximation errs by less than the cloud itself adds."""
    parameters = replace(one(Genus.CIRRUS, 0.5, height_m=0.0, thickness=1.0), noise=(0.0, 0.0))
    source, clear = clouded(parameters, size=96), ground(96, seed=3)
    made = add_clouds(clear, BANDS, 60.0, SUN, parameters, 0)
    moved = transplant(source.reflectance, source.cloud, clear)
    where = source.cloud
    assert (
        np.abs(moved - made.reflectance)[:3, where].mean() < 0.35 * np.abs(made.reflectance - clear)[:3, where].mean()
    )


def test_transplants_that_cannot_be_are_refused() -> None:
    scene = clouded(one(Genus.CUMULUS, 0.3))
    with pytest.raises(InvalidModelInput, match="differ in size"):
        transplant(scene.reflectance, scene.cloud, ground(32))
    with pytest.raises(InvalidModelInput, match="shows 0 px of open ground"):
        transplant(scene.reflectance, np.ones_like(scene.cloud), ground())


def real_pair(name: str = "real") -> ScenePair:
    scene = clouded(one(Genus.CUMULUS, 0.4), seed=9)
    return ScenePair(name, scene.reflectance, ground(), np.ones((64, 64), bool), scene.obscured)


def test_synthetic_pairs_know_their_truth_exactly() -> None:
    source = SyntheticPair("clear", ground(nodata=True), BANDS, 60.0, sun=SUN)
    pair = source.window(slice(0, 40), slice(10, 50), np.random.default_rng(4))
    open_ground = ~pair.obscured & pair.valid
    assert np.array_equal(pair.clear, source.clear[:, :40, 10:50], equal_nan=True)
    assert open_ground.any() and np.array_equal(pair.cloudy[:, open_ground], pair.clear[:, open_ground])
    assert np.array_equal(pair.valid, np.isfinite(pair.clear).all(axis=0))
    unseen = np.zeros((64, 64), bool)
    assert not replace(source, seen=unseen).window(slice(0, 40), slice(0, 40), np.random.default_rng(4)).valid.any()


def test_a_mixture_draws_each_kind_with_its_weight_and_by_seed_and_step_alone() -> None:
    real = [real_pair(f"real {n}") for n in range(3)]
    flat = np.full((4, 64, 64), 0.9, np.float32)  # brighter ground than any real pair has
    made = [SyntheticPair("made", flat, BANDS, 60.0)]
    mixture = Mixture((real, 3.0), (made, 1.0))
    assert list(mixture) == [*real, *made] and mixture.shares == (0.75, 0.25)
    sampler = PatchSampler(Mixture((real, 1.0), (made, 3.0)), 24, seed=2)
    batch = sampler.batch(7, 200)
    from_made = (batch.clear.amax((1, 2, 3)) > 0.9).float().mean()
    assert abs(float(from_made) - 0.75) < 0.08
    again = PatchSampler(Mixture((real, 1.0), (made, 3.0)), 24, seed=2).batch(7, 8)
    assert torch.equal(again.cloudy, sampler.batch(7, 8).cloudy)
    assert not torch.equal(again.cloudy, sampler.batch(8, 8).cloudy)


def test_real_pairs_are_mixed_with_synthetic_clouds_over_their_clear_dates() -> None:
    real = [real_pair("a"), real_pair("b")]
    mixture = with_synthetic(real, BANDS, 60.0, share=0.4)
    assert [pair.name for pair in mixture] == ["a", "b", "clear date of a", "clear date of b"]
    assert mixture.shares == pytest.approx((0.6, 0.4))
    made = mixture[2].window(slice(0, 64), slice(0, 64), np.random.default_rng(0))
    assert np.array_equal(made.clear, real[0].clear) and np.array_equal(made.valid, real[0].valid)
    assert PatchSampler(mixture, 32).batch(0, 4).cloudy.shape == (4, 4, 32, 32)
    assert len(with_synthetic(real, BANDS, 60.0, share=1.0)) == 2


def test_the_cirrus_band_sees_high_cloud_alone_and_swir_darker_cloud() -> None:
    bands, clear = ("red", "cirrus", "swir22"), np.full((3, 64, 64), 0.002, np.float32)

    def added(genus: Genus) -> NDArray[np.float32]:
        parameters = replace(one(genus, 1.0, blueness=0.0, angstrom=0.0), noise=(0.0, 0.0))
        return add_clouds(clear, bands, 60.0, SUN, parameters, 0).reflectance.mean((1, 2))

    low, high = added(Genus.CUMULUS), added(Genus.CIRRUS)
    assert low[1] == pytest.approx(0.002) and low[0] > 0.2
    assert high[1] > 0.05
    assert low[2] < 0.75 * low[0]


def test_mixtures_that_cannot_be_drawn_from_are_refused() -> None:
    with pytest.raises(TrainingFailed, match="pairs and a positive weight"):
        Mixture(([], 1.0))
    with pytest.raises(TrainingFailed, match="pairs and a positive weight"):
        Mixture(([real_pair()], 0.0))
    three = SyntheticPair("rgb", ground()[:3], BANDS[:3], 60.0)
    with pytest.raises(TrainingFailed, match=r"\[3, 4\] bands"):
        PatchSampler([real_pair(), three], 16)


def test_fingerprints_of_synthetic_pairs_see_their_options() -> None:
    source = SyntheticPair("clear", ground(), BANDS, 60.0)
    changed = [replace(source, coverage=(0.2, 0.3)), replace(source, sun=SUN), replace(source, gsd_m=10.0)]
    assert len({fingerprint([pair]) for pair in (source, *changed)}) == 4


def test_real_pairs_are_drawn_as_before_pairs_had_sources() -> None:
    """The shipped weights name their training; the same seed must still draw the same patches."""
    drawn = PatchSampler([real_pair("a"), real_pair("b")], 24, seed=3).batch(11, 4)
    random = np.random.default_rng([3, 11])
    expected = []
    while len(expected) < 4:
        pair = [real_pair("a"), real_pair("b")][random.integers(2)]
        row, column = (int(random.integers(41)) for _ in range(2))
        part = pair.window(slice(row, row + 24), slice(column, column + 24), random)
        if 0.05 <= part.obscured.mean() <= 0.98:
            turned = np.rot90(part.clear, int(random.integers(4)), (-2, -1))
            expected.append(turned[..., ::-1] if bool(random.integers(2)) else turned)
    assert np.allclose(drawn.clear.numpy(), np.sqrt(np.stack(expected)), atol=1e-6)
