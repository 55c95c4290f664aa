"""What the model is told beside x_t: references from outside, GSD, and which bands are there."""

from __future__ import annotations

import pytest
import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.networks import NoisePredictor, WeightAllocation
from de_model.presets import SIZES, Conditioning, Preset, ReferenceKind

BANDS = ("red", "nir", "swir16")
TINY = SIZES[Preset.TINY]
BOTH = Conditioning(gsd=True, bands=True)
T = torch.tensor([10, 900])
ALL = torch.ones(2, 3, dtype=torch.bool)


def model(**fields: object) -> Enhancer:
    torch.manual_seed(4)
    return Enhancer(ModelCard(Preset.TINY, BANDS, 10.0, **fields)).eval()


def images(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


def test_an_untrained_condition_changes_nothing() -> None:
    """So that weights trained without conditions can be trained on with them."""
    torch.manual_seed(0)
    plain = randomised(NoisePredictor(3, TINY.predictor))
    conditioned = NoisePredictor(3, TINY.predictor, BOTH)
    missing, unexpected = conditioned.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("context.") for name in missing) and not unexpected
    given = conditioned(images(), images(1), T, torch.tensor([10.0, 60.0]), ALL)
    assert torch.equal(given, plain(images(), images(1), T))


def test_gsd_and_mask_reach_both_networks() -> None:
    predictor = randomised(NoisePredictor(3, TINY.predictor, BOTH))
    allocation = randomised(WeightAllocation(3, TINY.allocation, BOTH))
    x = images()
    for network, inputs in ((predictor, (x, x, T)), (allocation, (x, x, x, T))):
        base = network(*inputs, torch.tensor([10.0, 10.0]), ALL)
        coarser = network(*inputs, torch.tensor([10.0, 20.0]), ALL)
        assert torch.equal(base[0], coarser[0]) and not torch.equal(base[1], coarser[1])
        masked = network(*inputs, torch.tensor([10.0, 10.0]), torch.tensor([[True] * 3, [True, False, True]]))
        assert torch.equal(base[0], masked[0]) and not torch.equal(base[1], masked[1])


def test_each_condition_works_alone() -> None:
    gsd = NoisePredictor(3, TINY.predictor, Conditioning(gsd=True))
    bands = NoisePredictor(3, TINY.predictor, Conditioning(bands=True))
    assert gsd(images(), images(), T, gsd=torch.tensor([10.0, 10.0])).shape == images().shape
    assert bands(images(), images(), T, band_mask=ALL).shape == images().shape
    with pytest.raises(InvalidModelInput, match="without band_mask"):
        gsd(images(), images(), T, torch.tensor([10.0, 10.0]), ALL)
    with pytest.raises(InvalidModelInput, match="with gsd; give it"):
        gsd(images(), images(), T)


def test_unconditioned_models_refuse_conditions() -> None:
    with pytest.raises(InvalidModelInput, match="without gsd"):
        model().condition(images(), gsd=torch.tensor([10.0]))
    with pytest.raises(InvalidModelInput, match="without band_mask"):
        model().condition(images(), band_mask=ALL)
    found = model().condition(images())
    assert found.gsd is None and found.band_mask is None


def test_conditioned_models_fall_back_on_their_card() -> None:
    found = model(gsd_conditioning=True, band_conditioning=True).condition(images())
    assert found.gsd is not None and found.gsd.tolist() == [10.0, 10.0]
    assert found.band_mask is not None and found.band_mask.tolist() == ALL.tolist()


@pytest.mark.parametrize("gsd", [[0.0], [-10.0], [float("nan")], [float("inf"), 10.0], [10.0, 10.0, 10.0]])
def test_impossible_gsd_is_refused(gsd: list[float]) -> None:
    with pytest.raises(InvalidModelInput, match="gsd"):
        model(gsd_conditioning=True).condition(images(), gsd=torch.tensor(gsd))


def test_impossible_masks_are_refused() -> None:
    conditioned = model(band_conditioning=True)
    with pytest.raises(InvalidModelInput, match=r"\(2, 3\)"):
        conditioned.condition(images(), band_mask=torch.ones(2, 4))
    with pytest.raises(InvalidModelInput, match="without any band"):
        conditioned.condition(images(), band_mask=torch.tensor([[1, 1, 1], [0, 0, 0]]))


def test_absent_bands_are_hidden_whatever_they_hold() -> None:
    conditioned = randomised(model(band_conditioning=True))
    mask = torch.tensor([[True, False, True]] * 2)
    first, second = images(), images()
    second[:, 1] = torch.rand(2, 16, 16)
    found = [conditioned.condition(image, band_mask=mask) for image in (first, second)]
    assert torch.equal(found[0].cloudy, found[1].cloudy) and torch.equal(found[0].reference, found[1].reference)
    assert (found[0].cloudy[:, 1] == 0).all()


def test_a_given_reference_takes_the_networks_place() -> None:
    enhancer, given = model(), images(7)
    enhancer.reference.stem.weight.data.fill_(float("nan"))
    found = enhancer.condition(images(), given)
    assert torch.equal(found.reference, given * 2 - 1)
    assert torch.equal(found.cloudy, images() * 2 - 1)


def test_a_composite_model_needs_its_reference() -> None:
    composite = model(reference=ReferenceKind.COMPOSITE)
    assert composite.stride == 2
    with pytest.raises(InvalidModelInput, match="reference_unit"):
        composite.condition(images())
    condition = composite.condition(images(), images(7))
    x_t = torch.randn(2, 3, 16, 16)
    assert torch.equal(composite.estimate(x_t, condition, T, 1.0).fused, condition.reference)


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_references_out_of_range_are_refused(bad: float) -> None:
    given = images()
    given[1, 2, 3, 4] = bad
    with pytest.raises(InvalidModelInput, match=r"outside 0\.\.1 or NaN"):
        model().condition(images(), given)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidModelInput, match="one grid"):
        model().condition(images(), images()[..., :8])
    with pytest.raises(InvalidModelInput, match=r"cloudy image has shape .*give \(batch, 3"):
        model().condition(torch.rand(1, 4, 16, 16))
    with pytest.raises(InvalidModelInput, match="reference has shape"):
        model().condition(images(), torch.rand(2, 4, 16, 16))


@pytest.mark.parametrize("kind", [ReferenceKind.MPRNET, ReferenceKind.MSDA])
def test_published_references_serve_any_preset(kind: ReferenceKind) -> None:
    enhancer = model(reference=kind)
    condition = enhancer.condition(images())
    found = enhancer.estimate(torch.randn(2, 3, 16, 16), condition, T, 0.3)
    assert torch.isfinite(found.fused).all()
    assert torch.equal(condition.reference, enhancer.reference.estimate(images()) * 2 - 1)
