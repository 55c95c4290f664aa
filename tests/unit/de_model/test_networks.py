"""Sizes and shapes of the networks against the published ones."""

from __future__ import annotations

import pytest
import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer, NoisePredictor, WeightAllocation
from de_model.errors import InvalidModelInput
from de_model.presets import SIZES, Preset
from de_model.references.networks import LightReference
from de_model.unet import timestep_embedding


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("bands", "predictor", "allocation"), [(3, 32_142_147, 4_658_179), (4, 32_144_740, 4_660_484)])
def test_paper_preset_has_the_published_parameter_counts(bands: int, predictor: int, allocation: int) -> None:
    sizes = SIZES[Preset.PAPER]
    assert count(NoisePredictor(bands, sizes.predictor)) == predictor
    assert count(WeightAllocation(bands, sizes.allocation)) == allocation


@pytest.mark.parametrize("bands", [1, 3, 4, 10])
def test_networks_keep_the_shape(bands: int) -> None:
    sizes = SIZES[Preset.TINY]
    image, t = torch.rand(2, bands, 16, 24), torch.tensor([0, 999])
    assert NoisePredictor(bands, sizes.predictor)(image, image, t).shape == image.shape
    assert WeightAllocation(bands, sizes.allocation)(image, image, image, t).shape == image.shape
    assert LightReference(bands, sizes.reference_base)(image).shape == image.shape


def test_the_whole_paper_preset_has_the_published_parameter_count() -> None:
    enhancer = Enhancer(ModelCard(Preset.PAPER, ("blue", "green", "red", "nir"), 10.0))
    assert count(enhancer) == 32_144_740 + 4_660_484 + 3_638_993


def test_untrained_weight_network_gives_zero_and_reference_gives_its_input() -> None:
    sizes = SIZES[Preset.TINY]
    image = torch.rand(1, 4, 16, 16)
    weight = WeightAllocation(4, sizes.allocation)(image, image, image, torch.tensor([5]))
    assert torch.equal(weight, torch.zeros_like(weight))
    assert torch.allclose(LightReference(4, sizes.reference_base)(image), image, atol=0.2)


def test_the_time_reaches_every_pixel() -> None:
    net = NoisePredictor(2, SIZES[Preset.TINY].predictor)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    image = torch.rand(1, 2, 16, 16)
    early, late = (net(image, image, torch.tensor([t])) for t in (0, 900))
    assert ((early - late).abs() > 0).all()


def test_sides_must_fit_the_stride() -> None:
    net = NoisePredictor(2, SIZES[Preset.SMALL].predictor)
    with pytest.raises(InvalidModelInput, match="divisible by 8"):
        net(torch.rand(1, 2, 20, 16), torch.rand(1, 2, 20, 16), torch.tensor([0]))


def test_timestep_embedding_separates_steps() -> None:
    table = timestep_embedding(torch.arange(1000), 96)
    assert table.shape == (1000, 96)
    assert torch.cdist(table, table).fill_diagonal_(1.0).min() > 1e-3
