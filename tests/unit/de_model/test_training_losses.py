"""The losses of training: edges, many outputs, what is trained, bounded weights, and shares of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from de_model.enhancer import Enhancer
from de_model.training.objective import (
    Batch,
    Objective,
    charbonnier,
    draw,
    edge_charbonnier,
    laplacian,
)
from de_model.training.stages import Stage, StageOptions
from tests.unit.de_model.training_case import data, tiny


class ThreeOutputs(nn.Module):
    """Supervised at three depths, as MPRNet is."""

    stride = 8

    def __init__(self, offsets: Sequence[float]) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.tensor(offsets))

    def training_outputs(self, cloudy: Tensor) -> list[Tensor]:
        return [cloudy + offset for offset in self.offsets]


def batch(stage: Stage, count: int = 4) -> Batch:
    options = StageOptions(stage, 1, count, 16, 1, 1e-3)
    return draw(data().source(options, 0), options, 0, 0, 1000)


def stirred() -> Enhancer:
    """A model whose outputs are not zero."""
    model = tiny()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


def test_edges_are_what_a_coarser_level_lacks() -> None:
    flat = torch.full((1, 3, 32, 32), 0.4)
    inside = (..., slice(4, -4), slice(4, -4))
    assert laplacian(flat)[inside].abs().max() < 1e-6
    step = flat.clone()
    step[..., 16:] = 0.8
    response = laplacian(step)[inside].abs().amax(dim=(0, 1, 2))
    assert response[11:13].min() > 0.04 and response[:8].max() < 1e-6


@pytest.mark.parametrize("bands", [1, 3, 7])
def test_the_edge_loss_takes_any_number_of_bands_and_ignores_what_has_no_truth(bands: int) -> None:
    truth, valid = torch.rand(2, bands, 16, 16), torch.ones(2, 1, 16, 16)
    assert edge_charbonnier(truth, truth, valid).item() == pytest.approx(1e-3, rel=1e-3)
    estimate = truth.clone()
    estimate[..., 3, 3], valid[..., 3, 3] = 1e6, 0
    assert edge_charbonnier(estimate, truth, valid).item() == pytest.approx(1e-3, rel=1e-3)
    noisy = truth + 0.1 * torch.randn_like(truth)
    assert edge_charbonnier(noisy, truth, valid).item() > 0.05


def test_every_output_of_a_reference_is_supervised() -> None:
    model, found = tiny(), batch(Stage.REFERENCE)
    model.reference = ThreeOutputs([0.0, 0.2, 0.5])  # type: ignore[assignment] # any reference will do
    patches = found.patches
    terms = Objective(model, Stage.REFERENCE)(found)
    outputs = [patches.cloudy + offset for offset in (0.0, 0.2, 0.5)]
    smooth = sum(charbonnier(o, patches.clear, patches.valid).item() for o in outputs)
    edges = sum(edge_charbonnier(o, patches.clear, patches.valid).item() for o in outputs)
    assert terms["charbonnier"].item() == pytest.approx(smooth, rel=1e-5)
    assert terms["edge"].item() == pytest.approx(0.05 * edges, rel=1e-5)


@pytest.mark.parametrize("stage", list(Stage))
def test_shares_of_a_batch_add_up_to_the_whole(stage: Stage) -> None:
    whole, objective = batch(stage, 5), Objective(stirred(), stage)
    with torch.no_grad():
        together = objective(whole)
        parts = [objective(share) for share in whole.shares(3)]
    for name, value in together.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5)
