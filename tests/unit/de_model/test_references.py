"""The reference networks against what was published about them."""

from __future__ import annotations

import pytest
import torch

from de_model.errors import InvalidModelInput
from de_model.presets import SIZES, Preset, ReferenceKind
from de_model.references.base import Reference
from de_model.references.mprnet import MprnetReference
from de_model.references.msda import Dormant, MsdaReference
from de_model.references.networks import LightReference, build_reference


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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


def test_mprnet_shares_one_activation_and_has_no_bias() -> None:
    network = MprnetReference(3)
    assert [name for name, p in network.named_parameters() if p.numel() == 1] == ["slope"]
    assert not [name for name, _ in network.named_parameters() if name.endswith("bias")]


def test_msda_has_the_published_parameter_counts() -> None:
    network = MsdaReference(3)
    assert count(network) == 3_907_714
    network(torch.rand(1, 3, 16, 16)).sum().backward()
    assert sum(p.numel() for p in network.parameters() if p.grad is not None) == 2_903_465


def test_msda_sets_apart_what_it_never_uses() -> None:
    network, image = build(ReferenceKind.MSDA, 3), torch.rand(1, 3, 16, 16)
    before = network.estimate(image)
    dormant = [m for m in network.modules() if isinstance(m, Dormant)] + [network.dormant_offsets]
    assert sum(map(count, dormant)) == 3_907_714 - 2_903_465
    for parameter in (p for module in dormant for p in module.parameters()):
        torch.nn.init.constant_(parameter, float("nan"))
    assert torch.equal(network.estimate(image), before)


def test_msda_costs_what_was_published_less_the_unused_offsets() -> None:
    network = MsdaReference(3)
    offsets = sum(layer.weight.numel() for layer in network.dormant_offsets) * 64 * 64
    assert 16 * macs(network, 64) + offsets == pytest.approx(49.8e9, abs=0.05e9)


def test_msda_looks_past_the_grid_through_its_far_branch() -> None:
    network, image = build(ReferenceKind.MSDA, 3), torch.rand(1, 3, 16, 16)
    near = network.estimate(image)
    with torch.no_grad():
        network.shares[1, 0, 1] = 0
    assert not torch.equal(network.estimate(image), near)


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


def test_the_factory_knows_every_kind() -> None:
    classes = {kind: type(build(kind, 3)) for kind in ReferenceKind}
    assert classes == {
        ReferenceKind.LIGHT: LightReference,
        ReferenceKind.MPRNET: MprnetReference,
        ReferenceKind.MSDA: MsdaReference,
    }
