"""The second edition: standardised reflectance, a reference that cannot leak cloud, sampling, files that carry it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.inference.another_day import level_shift
from de_model.inference.engine import restore, restore_image
from de_model.inference.layers import recalibrated
from de_model.inference.sampling import sampling_for
from de_model.presets import Preset
from de_model.scene.design import AnotherDay, SceneDesign, SceneSizes
from de_model.scene.networks import Inputs
from de_model.scene.observation import Observation, SceneClass, classes_of, levels_of, maps_of
from de_model.scene.shadows import shadows_beside

BANDS = ("blue", "green", "red", "nir")
SIZES = SceneSizes(reference=(8, 8, 8), predictor=(8, 8, 8), allocation=4, scales=(3, 8))
DESIGN = SceneDesign(sizes=SIZES, tile=64, overlap=16)
CARD = ModelCard(Preset.TINY, BANDS, 10.0, scene=DESIGN)


@pytest.fixture(scope="module")
def model() -> Enhancer:
    """A model whose heads are not zero, so that every path has a say."""
    torch.manual_seed(3)
    enhancer = Enhancer(CARD)
    for parameter in enhancer.parameters():
        if parameter.dim() > 1:
            parameter.data.add_(0.004 * torch.randn_like(parameter))
    return enhancer.eval().requires_grad_(False)


def scene(rows: int = 96, columns: int = 112) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Ground of two fields with a bright cloud over their border."""
    random = np.random.default_rng(5)
    level = np.array([0.05, 0.08, 0.06, 0.3], np.float32)[:, None, None]
    ground = level * (1 + 0.05 * random.standard_normal((4, rows, columns), np.float32))
    ground[:, :, columns // 2 :] *= 1.5
    cloud = np.zeros((rows, columns), bool)
    cloud[30:60, 40:75] = True
    return np.where(cloud, np.float32(0.7), ground).astype(np.float32), cloud


def inputs_of(image: NDArray[np.float32], cloud: NDArray[np.bool_], composite: NDArray[np.float32] | None) -> Inputs:
    classes = classes_of(image, cloud)
    maps, numbers = maps_of(Observation(image, classes, composite), levels_of(image, classes))
    return Inputs(torch.from_numpy(maps)[None], torch.from_numpy(numbers)[None], 4)


def test_an_untrained_reference_is_the_composite_and_the_surroundings_where_there_is_none() -> None:
    image, cloud = scene()
    composite = np.where(cloud, np.float32(0.11), np.nan) * np.ones((4, 1, 1), np.float32)
    composite[:, :, 60:] = np.nan
    torch.manual_seed(0)
    network = Enhancer(CARD).scene
    assert network is not None
    inputs = inputs_of(image, cloud, composite)
    mean = network.reference(inputs).mean[0].detach().numpy()
    levels = levels_of(image, classes_of(image, cloud))
    found = levels.reflectance(mean)
    assert np.allclose(found[:, 35:55, 42:60], 0.11, atol=1e-5)
    around = image[:, :, 80:].mean(axis=(1, 2))
    nearest = found[:, 40, 73]
    assert np.all(np.abs(nearest - around) < 0.25 * around)


def test_what_is_under_an_opaque_cloud_cannot_leak(model: Enhancer) -> None:
    image, cloud = scene()
    brighter = np.where(cloud, image + 0.2 * np.random.default_rng(1).random(image.shape, np.float32), image)
    found, other = (restore(model, each, cloud, sampling_for(CARD)) for each in (image, brighter))
    assert np.array_equal(found.image[:, cloud], other.image[:, cloud])
    assert np.isfinite(found.image[:, cloud]).all() and (found.spread[:, cloud] > 0).all()
    hazy = np.where(cloud, image - 0.6, image).astype(np.float32)
    hazier = np.where(cloud, image - 0.58, image).astype(np.float32)
    first, second = (restore(model, each, cloud, sampling_for(CARD)).image[:, cloud] for each in (hazy, hazier))
    assert not np.array_equal(first, second)


def test_another_brightness_and_contrast_of_the_scene_changes_nothing_else(model: Enhancer) -> None:
    image, _ = scene()
    gap = np.zeros(image.shape[1:], bool)
    gap[20:50, 30:60] = True
    gain = np.array([0.75, 0.8, 0.6, 0.7], np.float32)[:, None, None]
    other = image * gain + 0.01
    masked = [np.where(gap, np.float32(0.9), each) for each in (image, other)]
    first, second = (restore(model, each, gap, sampling_for(CARD)).image[:, gap] for each in masked)
    assert np.allclose(first * gain[:, 0] + 0.01, second, atol=2e-4)


def test_blocks_give_the_bits_of_the_whole_image(model: Enhancer) -> None:
    image, cloud = scene(150, 170)
    cloud[100:120, 120:160] = True
    whole, parts = (restore_image(model, image, cloud, sampling_for(CARD), side=side) for side in (1024, 48))
    assert np.array_equal(whole.image[:, cloud], parts.image[:, cloud])


def hazy() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a vegetated scene below haze, with a cloud, and its mask."""
    image, cloud = scene()
    haze = np.array([0.05, 0.03, 0.02, 0.1], np.float32)[:, None, None]
    return np.clip(image + haze, 0, 1).astype(np.float32), cloud


def test_alone_an_image_shows_what_another_clear_day_would(model: Enhancer) -> None:
    image, cloud = hazy()
    expected = AnotherDay(0.5, 0.02, (1.0, 0.8, 0.5), (0.2, 0.5))
    other = Enhancer(replace(CARD, scene=replace(DESIGN, another_day=expected)))
    other.load_state_dict(model.state_dict())
    other.eval()
    plain, found = (restore_image(each, image, cloud, sampling_for(CARD)).image[:, cloud] for each in (model, other))
    levels = levels_of(image, classes_of(image, cloud))
    blue, green, red, nir = (np.float32(value) for value in levels.median)
    assert (nir - red) / (nir + red) > 0.4, "the scene is vegetated"
    darkest = np.percentile(image[:, ~cloud], 2, axis=1)
    haze = np.clip(darkest[0] - darkest[2] / 2 - 0.02, 0, 0.04)
    moved = np.array([-haze, -0.8 * haze, -0.5 * haze, np.clip(0.5 * (0.2 - nir), -0.06, 0.06)], np.float32)
    assert haze > 0.005 and abs(moved[3]) > 0.005
    median = np.array([blue, green, red, nir], np.float32)[:, None]
    assert np.allclose(found, np.clip(median + 0.5 * (plain - median) + moved[:, None], 0, 1), atol=1e-4)
    same = restore_image(other, image, cloud, sampling_for(CARD), another_day=False).image[:, cloud]
    assert np.array_equal(same, plain)
    gap = np.where(cloud, image * 0 + 0.01, image).astype(np.float32)
    in_gap = [restore_image(each, gap, cloud, sampling_for(CARD)).image[:, cloud] for each in (model, other)]
    assert np.array_equal(*in_gap), "without a cloud nothing says that the ground is another day's"


def test_cloud_that_is_filled_otherwise_is_not_ground(model: Enhancer) -> None:
    image, cloud = scene()
    half = cloud.copy()
    half[:, 57:] = False
    whole = restore_image(model, image, cloud, sampling_for(CARD))
    part = restore_image(model, image, half, sampling_for(CARD), hidden=cloud)
    assert np.array_equal(part.image[:, half], whole.image[:, half]) and np.isnan(part.image[:, ~half]).all()
    assert part.shadow_pixels == whole.shadow_pixels
    blind = restore_image(model, image, half, sampling_for(CARD)).image[:, half]
    assert not np.allclose(blind, whole.image[:, half], atol=0.02), "the rest of the cloud was taken for ground"


def shaded() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a vegetated scene with a cloud, its mask, and its shadow."""
    image, cloud = scene(150, 170)
    shadow = np.zeros_like(cloud)
    shadow[45:120, 60:120] = True
    shadow &= ~cloud
    return np.where(shadow, image * np.array([0.6, 0.5, 0.5, 0.3], np.float32)[:, None, None], image), cloud, shadow


def test_shadows_beside_clouds_say_nothing_of_the_level_and_are_not_ground(model: Enhancer) -> None:
    image, cloud, shadow = shaded()
    found = shadows_beside(image, cloud, BANDS, 10.0)
    assert found[shadow].all() and (found & ~shadow).sum() < 20
    whole, parts = (restore_image(model, image, cloud, sampling_for(CARD), side=side) for side in (1024, 48))
    assert whole.shadow_pixels == found.sum() and np.array_equal(whole.image[:, cloud], parts.image[:, cloud])
    known = restore(model, image, cloud, sampling_for(CARD), hidden=cloud | found)
    assert np.allclose(whole.image[:, cloud], known.image[:, cloud], atol=1e-5)
    far = np.zeros_like(cloud)
    far[:2, :2] = True
    assert not shadows_beside(image, far, BANDS, 100.0).any(), "3 km are 30 pixels of 100 m"
    bare = image[[0, 1, 2, 2]]
    for other, cover, bands in ((bare, cloud, BANDS), (image, cloud & False, BANDS), (image, cloud, tuple("abcd"))):
        assert not shadows_beside(other, cover, bands, 10.0).any()
    gap = np.where(cloud, np.float32(0.01), image)
    assert restore_image(model, gap, cloud, sampling_for(CARD)).shadow_pixels == 0, "nothing throws a shadow"


@pytest.mark.parametrize(
    ("ground", "bands"),
    [
        ((0.30, 0.40, 0.45, 0.55), ("blue", "green", "red", "nir")),  # sand
        ((0.80, 0.80, 0.78, 0.75), ("blue", "green", "red", "nir")),  # snow
        ((0.02, 0.04, 0.03, 0.02), ("blue", "green", "red", "nir")),  # water, corrected for the atmosphere
        ((0.20, 0.10, 0.05, 0.05), ("coastal", "green", "nir08", "swir16")),  # nothing is known of these bands
    ],
)
def test_bright_ground_is_not_taken_for_haze_nor_bare_ground_for_vegetation(
    ground: tuple[float, ...], bands: tuple[str, ...]
) -> None:
    image = np.full((4, 40, 40), np.array(ground, np.float32)[:, None, None])
    clear = np.ones((40, 40), bool)
    expected = AnotherDay(0.3, 0.06, (1.0, 0.8, 0.8), (0.27, 0.4))
    levels = levels_of(image, classes_of(image, ~clear))
    assert not level_shift(image, clear, levels, bands, expected).any()


def test_what_little_ground_says_is_drawn_to_the_level_of_the_scene(model: Enhancer) -> None:
    image, _ = scene()
    cloud = np.ones(image.shape[1:], bool)
    cloud[:, :28] = False  # a quarter is clear
    wary = Enhancer(replace(CARD, scene=replace(DESIGN, sizes=replace(SIZES, kept=((0.2, 0.5), (0.3, 0.9))))))
    wary.load_state_dict(model.state_dict())
    plain, drawn = (restore(each, image, cloud, sampling_for(CARD)) for each in (model, wary.eval()))
    levels = levels_of(image, classes_of(image, cloud))
    for one, other in ((plain.image, drawn.image), (plain.reference, drawn.reference)):
        expected = levels.reflectance(0.7 * levels.standardised(one))
        assert np.allclose(other[:, cloud], np.clip(expected, 0, 1)[:, cloud], atol=1e-4)


def test_a_file_carries_the_whole_design(tmp_path: Path, model: Enhancer) -> None:
    sizes = replace(SIZES, kept=((0.1, 0.5), (0.6, 1.0)))
    another_day = AnotherDay(0.4, 0.05, (1.0, 0.5, 0.25), (0.3, 0.2))
    fitted = replace(DESIGN, t_start=150, sizes=sizes, widths=((-1.0, 0.1), (1.0, 0.2)), another_day=another_day)
    card = replace(CARD, scene=fitted)
    enhancer = Enhancer(card)
    enhancer.load_state_dict(model.state_dict())
    path = tmp_path / "model.safetensors"
    checkpoint.save(enhancer, path)
    loaded = checkpoint.load(path)
    assert loaded.card == card
    sampling = sampling_for(card)
    assert (sampling.tile, sampling.overlap, sampling.start, sampling.steps) == (64, 16, 150, DESIGN.steps)
    image, cloud = scene()
    found, again = (restore(each, image, cloud, sampling).image[:, cloud] for each in (enhancer, loaded))
    assert np.allclose(found, again, atol=1e-6)


def test_models_that_correct_their_reference_still_load_and_run(tmp_path: Path) -> None:
    torch.manual_seed(1)
    older = Enhancer(replace(CARD, scene=replace(DESIGN, sizes=replace(SIZES, kind="residual", predictor_factor=2))))
    path = tmp_path / "older.safetensors"
    checkpoint.save(older, path)
    values = dict(asdict(older.card.scene)["sizes"])
    del values["kind"]
    design = SceneDesign.from_values({"sizes": values, "t_start": 200, "steps": 2, "another_day": [0.4, 0.0]})
    assert design.sizes.kind == "residual" and design.another_day == AnotherDay(share=0.4)
    image, cloud = scene()
    found = restore(checkpoint.load(path), image, cloud, sampling_for(older.card))
    assert np.isfinite(found.image[:, cloud]).all()
    assert np.allclose(found.image[:, cloud], found.reference[:, cloud], atol=1e-5), "it was not trained"


def test_what_float16_holds_is_stored_in_it_and_nothing_is_lost(tmp_path: Path, model: Enhancer) -> None:
    halved = Enhancer(CARD)
    halved.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    checkpoint.save(model, full)
    checkpoint.save(halved, half)
    assert half.stat().st_size < 0.75 * full.stat().st_size
    loaded = checkpoint.load(half).state_dict()
    assert all(
        torch.equal(value, loaded[name]) and loaded[name].dtype == value.dtype
        for name, value in halved.state_dict().items()
    )


@pytest.mark.parametrize("kind", ["no clear pixel", "one colour", "one clear pixel", "offset", "factor", "nodata"])
def test_bad_scenes_give_sensible_ground_with_wider_intervals(model: Enhancer, kind: str) -> None:
    image, cloud = scene()
    good = restore(model, image, cloud, sampling_for(CARD))
    if kind == "no clear pixel":
        cloud = np.ones_like(cloud)
    elif kind == "one colour":
        image = np.where(cloud, image, np.float32(0.2))
    elif kind == "one clear pixel":
        cloud = np.ones_like(cloud)
        cloud[0, 0] = False
    elif kind == "offset":
        image = image + np.float32(0.1)
    elif kind == "factor":
        image = image * np.float32(0.1)
    else:
        image[:, :40] = np.nan
    found = restore(model, image, cloud, sampling_for(CARD))
    assert np.isfinite(found.image[:, cloud]).all()
    assert (found.image[:, cloud] >= 0).all() and (found.image[:, cloud] <= 1).all()
    if kind in ("no clear pixel", "one clear pixel"):
        assert np.median(found.image[:, cloud]) < 0.4, "the cloud itself is no ground"
        assert np.median(found.spread[:, cloud]) > np.median(good.spread[:, cloud])


def test_levels_fall_back_from_clear_ground_to_the_composite_to_the_usual() -> None:
    image, cloud = scene()
    classes = classes_of(image, np.ones_like(cloud))
    composite = np.full_like(image, 0.15)
    assert levels_of(image, classes, composite).median == pytest.approx((0.15,) * 4)
    usual = levels_of(image, classes)
    assert usual.clear_share == 0 and max(usual.median) <= 0.25
    clear = levels_of(image, classes_of(image, cloud))
    assert clear.median == pytest.approx(tuple(np.median(image[:, ~cloud], axis=1)), rel=0.05)


def test_classes_separate_thin_cloud_by_brightness() -> None:
    image, cloud = scene()
    image[:3, 30:60, 40:50] = 0.12
    classes = classes_of(image, cloud)
    assert (classes[32:58, 41:49] == SceneClass.THIN).mean() > 0.9
    assert (classes[32:58, 52:74] == SceneClass.THICK).all()
    assert (classes[~cloud] == SceneClass.CLEAR).all()


def test_deviations_are_recalibrated_between_knots() -> None:
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0], np.float32)
    found = recalibrated(values, ((-1.0, 0.1), (1.0, 0.3)))
    assert np.allclose(found, values + np.array([0.1, 0.1, 0.2, 0.3, 0.3]))
    assert np.array_equal(recalibrated(values, ()), values)


def test_w_starts_at_the_inverse_variance_rule_and_has_its_floor() -> None:
    torch.manual_seed(0)
    network = Enhancer(CARD).scene
    assert network is not None
    image, cloud = scene(96, 96)
    inputs = inputs_of(image, cloud, None)
    belief = network.reference(inputs)
    x_t, t = torch.randn(1, 4, 96, 96), torch.tensor([100])
    found = network.estimate(x_t, inputs, belief, t, 0.0)
    expected = 1 / (1 + (belief.log_variance - found.found.log_variance).exp())
    assert torch.allclose(found.weight, expected, atol=1e-5)
    assert float(network.estimate(x_t, inputs, belief, t, 0.7).weight.detach().min()) >= 0.7 - 1e-6
    alone = network.estimate(x_t, inputs, belief, t, 1.0)
    assert torch.equal(alone.fused, belief.mean)
    overcast = inputs_of(image, np.ones_like(cloud), None)
    assert bool((network.estimate(x_t, overcast, belief, t, 0.0).weight == 1).all()), "its levels are a guess"


def test_a_given_reference_is_used_and_believed_as_far_as_it_fits_known_ground(model: Enhancer) -> None:
    image, cloud = scene()
    truth, _ = scene()
    truth[:, cloud] = (
        np.where(np.arange(112) < 56, 1.0, 1.5)[None, :][:, np.nonzero(cloud)[1]]
        * np.array([0.05, 0.08, 0.06, 0.3], np.float32)[:, None]
    )
    noise = 0.05 * np.random.default_rng(2).standard_normal(image.shape).astype(np.float32)
    sampling = replace(sampling_for(CARD), eta=0.0)
    own, good, bad = (
        restore(model, image, cloud, sampling, reference=given) for given in (None, truth, np.abs(truth + noise))
    )
    assert np.allclose(good.reference[:, cloud], truth[:, cloud], atol=1e-5)
    weight = [each.reference_weight[cloud].mean() for each in (own, good, bad)]
    assert weight[1] > weight[0] > weight[2] + 0.1
    assert np.allclose(restore(model, image, cloud, sampling, reference=np.full_like(image, np.nan)).image, own.image)


def test_the_size_of_a_pixel_reaches_the_networks(model: Enhancer) -> None:
    image, cloud = scene()
    own, same, coarse = (restore(model, image, cloud, sampling_for(CARD), gsd_m=gsd) for gsd in (None, 10.0, 120.0))
    assert np.array_equal(own.image[:, cloud], same.image[:, cloud])
    assert not np.array_equal(own.image[:, cloud], coarse.image[:, cloud])
