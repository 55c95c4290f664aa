"""References made worse on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.ablations.degraded import Degradation, blurred, degrade
from de_model.errors import InvalidModelInput


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def reference() -> torch.Tensor:
    return torch.rand(2, 3, 24, 32, generator=generator(1)) * 0.6 + 0.2


@pytest.fixture
def cloudy() -> torch.Tensor:
    return torch.full((2, 3, 24, 32), 0.9)


def test_no_degradation_returns_the_reference(reference: torch.Tensor, cloudy: torch.Tensor) -> None:
    assert torch.equal(degrade(reference, cloudy, Degradation(), generator()), reference)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_blur_is_the_gaussian_of_scipy(reference: torch.Tensor, sigma: float) -> None:
    radius = max(1, int(np.ceil(3 * sigma)))
    expected = gaussian_filter(reference[0, 1].double().numpy(), sigma, mode="nearest", radius=radius)
    assert np.allclose(blurred(reference.double(), sigma)[0, 1].numpy(), expected, atol=1e-12)


def test_blur_keeps_a_flat_image_and_reaches_past_a_small_one() -> None:
    flat = torch.full((1, 2, 4, 4), 0.3)
    assert torch.allclose(blurred(flat, 5.0), flat, atol=1e-6)


def test_bias_and_share_are_what_they_say(reference: torch.Tensor, cloudy: torch.Tensor) -> None:
    assert torch.allclose(degrade(reference, cloudy, Degradation(bias=-0.1), generator()), reference - 0.1)
    mixed = degrade(reference, cloudy, Degradation(cloudy_share=0.25), generator())
    assert torch.allclose(mixed, 0.75 * reference + 0.25 * cloudy)
    assert torch.equal(degrade(reference, cloudy, Degradation(cloudy_share=1.0), generator()), cloudy)


def test_noise_has_its_deviation_and_follows_the_generator(cloudy: torch.Tensor) -> None:
    grey = torch.full_like(cloudy, 0.5)
    once, again, other = (degrade(grey, cloudy, Degradation(noise=0.05), generator(s)) for s in (3, 3, 4))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert (once - grey).std().item() == pytest.approx(0.05, rel=0.05)


def test_results_stay_in_range_and_the_reference_is_untouched(reference: torch.Tensor, cloudy: torch.Tensor) -> None:
    kept = reference.clone()
    worse = degrade(reference, cloudy, Degradation(0.5, 2.0, 0.6, 0.3), generator())
    assert worse.min() >= 0 and worse.max() <= 1
    assert torch.equal(reference, kept)


@pytest.mark.parametrize(
    "values",
    [{"blur_sigma": -1.0}, {"noise": -0.1}, {"cloudy_share": 1.1}, {"bias": float("nan")}, {"noise": float("inf")}],
)
def test_impossible_degradations_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidModelInput, match=next(iter(values))):
        Degradation(**values)


def test_images_of_another_shape_are_refused(reference: torch.Tensor) -> None:
    with pytest.raises(InvalidModelInput, match="one shape"):
        degrade(reference, reference[:, :2], Degradation(bias=0.1), generator())
