"""Networks against the published ones: sizes, attention, references, and W in both modes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.card import ModelCard
from de_model.enhancer import Enhancer, NoisePredictor, WeightAllocation
from de_model.errors import InvalidModelInput
from de_model.presets import SIZES, Preset, ReferenceKind
from de_model.references.base import Reference
from de_model.references.mprnet import MprnetReference
from de_model.references.msda import MsdaReference
from de_model.references.networks import LightReference, build_reference
from de_model.training.objective import enhancement_loss
from de_model.unet import attend
from de_model.weighting import WeightMode, limit
from tests.unit.de_model.training_case import batch_of


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("bands", "predictor", "allocation"), [(3, 32_142_147, 4_658_179), (4, 32_144_740, 4_660_484)])
def test_paper_preset_has_the_published_parameter_counts(bands: int, predictor: int, allocation: int) -> None:
    sizes = SIZES[Preset.PAPER]
    assert count(NoisePredictor(bands, sizes.predictor)) == predictor
    assert count(WeightAllocation(bands, sizes.allocation)) == allocation


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


HEADS, CHANNELS = 2, 8


def qkv(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3 * CHANNELS, height, width, generator=torch.Generator().manual_seed(0))


def written_out(x: torch.Tensor) -> torch.Tensor:
    """Global attention position by position, in the published order: head first, then query, key, value."""
    result = torch.empty(len(x), CHANNELS, *x.shape[-2:], dtype=torch.float64)
    size = CHANNELS // HEADS
    for head in range(HEADS):
        own = x[:, 3 * size * head : 3 * size * (head + 1)].double().flatten(2)
        q, k, v = own.split(size, dim=1)
        share = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(size), dim=-1)
        gathered = torch.einsum("bij,bcj->bci", share, v)
        result[:, size * head : size * (head + 1)] = gathered.view(len(x), size, *x.shape[-2:])
    return result


@pytest.mark.parametrize("window", [12, 13, 1000])
def test_a_map_that_fits_is_attended_to_globally(window: int) -> None:
    x = qkv(12, 10, batch=2)
    assert torch.allclose(attend(x, HEADS, window).double(), written_out(x), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (17, 8), (8, 31), (40, 24)])
def test_windows_cover_a_larger_map_and_their_shares_sum_to_one(height: int, width: int) -> None:
    x = qkv(height, width)
    x[:, 2 * CHANNELS // HEADS : 3 * CHANNELS // HEADS] = 0.7
    found = attend(x, HEADS, 8)
    assert found.shape == (1, CHANNELS, height, width)
    assert torch.allclose(found[:, : CHANNELS // HEADS], torch.tensor(0.7))
    assert torch.isfinite(found).all()


def test_positions_attend_within_a_window_only() -> None:
    x = qkv(32, 32)
    changed = x.clone()
    changed[..., 0, 0] += 5
    difference = (attend(x, HEADS, 8) - attend(changed, HEADS, 8)).abs().amax(dim=(0, 1))
    assert difference[:8, :8].max() > 0
    assert difference[8:].max() == 0 and difference[:, 8:].max() == 0


def test_overlap_spreads_the_seam_between_windows() -> None:
    """Windows side by side jump where they meet; overlapping ones pass over in several small steps."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 48), indexing="ij")
    smooth = torch.stack([torch.sin((1 + c % 5) * x + c) + torch.cos((1 + c % 3) * y) for c in range(3 * CHANNELS)])
    apart = torch.cat([attend(part[None], HEADS, 16) for part in smooth.split(16, dim=-1)], dim=-1)
    overlapping = attend(smooth[None], HEADS, 16)
    jump, step = (found.diff(dim=-1).abs().max() for found in (apart, overlapping))
    assert step < 0.3 * jump


def build(kind: ReferenceKind, bands: int) -> Reference:
    torch.manual_seed(3)
    return build_reference(kind, bands, SIZES[Preset.TINY]).eval()


def macs(network: Reference, side: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, network.bands, side, side))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("bands", "parameters"), [(3, 3_637_249), (4, 3_638_993)])
def test_mprnet_has_the_published_parameter_counts(bands: int, parameters: int) -> None:
    assert count(MprnetReference(bands)) == parameters


def test_mprnet_costs_what_was_published_less_the_cheaper_upsampling() -> None:
    """141.0 GMACs at 256 px; convolving before upsampling saves three quarters of the upward convolutions."""
    pixels = 256 * 256
    fine, middle = 60 * 40 * pixels, 80 * 60 * pixels // 4
    saved = 3 * (6 * fine + 4 * middle) // 4
    found = 16 * macs(MprnetReference(3), 64)
    assert found + saved == pytest.approx(141.0e9, abs=0.05e9)


def test_mprnet_stages_see_quarters_halves_and_the_whole() -> None:
    """Stage 1 decodes top and bottom apart, encoding left and right apart; stage 2 joins them."""
    network, image = build(ReferenceKind.MPRNET, 2), torch.rand(1, 2, 32, 32)
    changed = image.clone()
    changed[..., :16, :16] = 1 - changed[..., :16, :16]
    with torch.no_grad():
        difference = [
            (a - b).abs()
            for a, b in zip(network.training_outputs(image), network.training_outputs(changed), strict=True)
        ]
    assert len(difference) == 3
    assert difference[0][..., 16:, :].max() == 0 and difference[0][..., :16, 16:].max() > 0
    assert difference[1][..., 16:, :].max() > 0
    assert difference[2][..., 16:, :].max() > 0


def test_mprnet_adds_the_cloudy_image_at_every_stage() -> None:
    network, image = build(ReferenceKind.MPRNET, 3), torch.rand(2, 3, 16, 24)
    for layer in (*(module.to_image for module in network.attention), network.tail):
        torch.nn.init.zeros_(layer.weight)
    assert all(torch.equal(output, image) for output in network.training_outputs(image))


def test_msda_has_the_published_parameter_counts() -> None:
    network = MsdaReference(3)
    assert count(network) == 3_907_714
    network(torch.rand(1, 3, 16, 16)).sum().backward()
    assert sum(p.numel() for p in network.parameters() if p.grad is not None) == 2_903_465


def test_msda_costs_what_was_published_less_the_unused_offsets() -> None:
    network = MsdaReference(3)
    offsets = sum(layer.weight.numel() for layer in network.dormant_offsets) * 64 * 64
    assert 16 * macs(network, 64) + offsets == pytest.approx(49.8e9, abs=0.05e9)


@pytest.mark.parametrize("kind", ReferenceKind)
@pytest.mark.parametrize("bands", [1, 3, 4, 10])
def test_references_keep_shape_and_range_for_any_bands(kind: ReferenceKind, bands: int) -> None:
    network, image = build(kind, bands), torch.rand(2, bands, 16, 24)
    found = network.estimate(image)
    assert found.shape == image.shape
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad
    assert all(output.shape == image.shape for output in network.training_outputs(image))


@pytest.mark.parametrize("kind", ReferenceKind)
def test_every_stage_of_a_reference_learns(kind: ReferenceKind) -> None:
    network = build(kind, 2).train()
    cloudy, clear = torch.rand(2, 2, 16, 16), torch.full((2, 2, 16, 16), 0.3)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        stages = torch.stack([(output - clear).abs().mean() for output in network.training_outputs(cloudy)])
        optimiser.zero_grad()
        stages.sum().backward()
        optimiser.step()
        losses.append(stages.detach())
    assert (losses[-1] < 0.98 * losses[0]).all()


@pytest.mark.parametrize("kind", ReferenceKind)
def test_images_that_do_not_fit_are_refused(kind: ReferenceKind) -> None:
    network = build(kind, 3)
    with pytest.raises(InvalidModelInput, match=f"divisible by {network.stride}"):
        network.estimate(torch.rand(1, 3, 16, 18))
    with pytest.raises(InvalidModelInput, match="2 bands"):
        network.estimate(torch.rand(1, 2, 16, 16))


def test_msda_refuses_what_it_cannot_normalise() -> None:
    with pytest.raises(InvalidModelInput, match="at least 8 px"):
        build(ReferenceKind.MSDA, 3).estimate(torch.rand(1, 3, 4, 4))


RAW = torch.linspace(-60, 60, 241)


@pytest.mark.parametrize("mode", WeightMode)
@given(eta=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_weight_lies_between_eta_and_one_and_follows_the_raw_value(mode: WeightMode, eta: float) -> None:
    weight = limit(RAW, eta, mode)
    assert weight.min() >= torch.tensor(eta) - 1e-7 and weight.max() <= 1
    assert (weight.diff() >= 0).all()


@pytest.mark.parametrize("mode", WeightMode)
def test_eta_one_gives_exactly_one(mode: WeightMode) -> None:
    assert torch.equal(limit(RAW, 1.0, mode), torch.ones_like(RAW))


def test_bounded_weights_learn_where_clamped_ones_would_not() -> None:
    raw = torch.tensor([-1.0, 2.0], requires_grad=True)
    limit(raw, 0.3, WeightMode.CLAMP).sum().backward()
    assert raw.grad is not None and raw.grad.abs().max() == 0
    raw.grad = None
    limit(raw, 0.3, WeightMode.BOUNDED).sum().backward()
    assert raw.grad is not None and raw.grad.abs().min() > 0


def test_the_card_decides_for_inference_and_for_the_loss() -> None:
    torch.manual_seed(0)
    card = ModelCard(Preset.TINY, ("red", "nir"), 10.0)
    clamped, bounded = Enhancer(card).eval(), Enhancer(dataclasses.replace(card, weight_mode=WeightMode.BOUNDED)).eval()
    bounded.load_state_dict(clamped.state_dict())
    x0, eps, t = torch.rand(1, 2, 16, 16) * 2 - 1, torch.randn(1, 2, 16, 16), torch.tensor([300])
    condition = clamped.condition(torch.rand(1, 2, 16, 16))
    # At its zero start the allocation returns 0: W is eta when clamped, the middle of [eta, 1] when bounded.
    assert torch.all(clamped.estimate(eps, condition, t, 0.3).weight == 0.3)
    assert torch.allclose(bounded.estimate(eps, condition, t, 0.3).weight, torch.tensor(0.65))
    valid = torch.ones(1, 1, 16, 16)
    x0_hat = clamped.estimate(clamped.schedule.add_noise(x0, eps, t), condition, t, 0.0).x0_hat
    for model, weight in ((clamped, 0.0), (bounded, 0.65)):
        expected = (x0 - (1 - weight) * x0_hat - weight * condition.reference).abs().mean()
        loss = enhancement_loss(model, condition, batch_of(x0, valid, eps, t))
        assert loss.fusion.item() == pytest.approx(expected.item(), 1e-5)
