"""Attention: global where the map fits, windows of the training size beyond."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from de_model.enhancer import NoisePredictor
from de_model.presets import SIZES, Preset
from de_model.unet import attend

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


def test_cost_grows_with_the_area() -> None:
    def cost(side: int) -> int:
        with FlopCounterMode(display=False) as counter:
            attend(qkv(side, side), HEADS, 16)
        return counter.get_total_flops()

    # Two windows of 16 overlapping by 4 cover 28 positions; twice as many cover 52.
    assert cost(52) == 16 * cost(16)
    assert cost(100) == 64 * cost(16)


def test_a_large_image_runs_and_every_pixel_is_reached() -> None:
    net = NoisePredictor(2, SIZES[Preset.TINY].predictor).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    image = torch.rand(1, 2, 512, 512, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found = net(image, image, torch.tensor([300]))
    assert found.shape == image.shape
    assert torch.isfinite(found).all() and found.std() > 0
