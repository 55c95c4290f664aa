"""Settings take the walk and the tiles of a model's design where the user did not choose."""

from __future__ import annotations

from de_model.scene.design import SceneDesign
from flows.settings.loading import load_settings

DESIGN = SceneDesign(t_start=150, steps=3, samples=1, tile=192, overlap=48)


def test_what_is_left_out_is_the_designs() -> None:
    fitted = load_settings(None, {}).fitted_to(DESIGN)
    sampling = fitted.restoration.sampling
    assert (sampling.start, sampling.steps, sampling.samples) == (150, 3, 1)
    assert (sampling.tile, sampling.overlap, sampling.sampler) == (192, 48, "ddim")
    assert fitted.fitted_to(DESIGN) == fitted


def test_what_is_named_stays() -> None:
    sampling = load_settings(None, {"steps": 1, "tile": 128}).fitted_to(DESIGN).restoration.sampling
    assert (sampling.steps, sampling.tile) == (1, 128)
    assert sampling.overlap < 128 // 2 and sampling.start == 150


def test_models_of_the_first_edition_leave_settings_alone() -> None:
    settings = load_settings(None, {})
    assert settings.fitted_to(None) is settings
