"""What the model is given beside x_t: the cloudy image, and a reference from outside."""

from __future__ import annotations

import pytest
import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.presets import Preset, ReferenceKind

BANDS = ("red", "nir", "swir16")
T = torch.tensor([10, 900])


def model(**fields: object) -> Enhancer:
    torch.manual_seed(4)
    return Enhancer(ModelCard(Preset.TINY, BANDS, 10.0, **fields)).eval()


def images(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


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
