"""LPIPS with random weights against a computation written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.metrics.lpips import Lpips, load_lpips

#: torchvision's AlexNet: place, output channels, input channels, kernel, stride, padding, pooled before.
LAYERS = [
    (0, 64, 3, 11, 4, 2, False),
    (3, 192, 64, 5, 1, 2, True),
    (6, 384, 192, 3, 1, 1, True),
    (8, 256, 384, 3, 1, 1, False),
    (10, 256, 256, 3, 1, 1, False),
]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tensors = {"classifier.1.weight": torch.zeros(2, 2)}
    for place, out, into, kernel, *_ in LAYERS:
        tensors[f"features.{place}.weight"] = torch.randn(out, into, kernel, kernel, generator=generator) * 0.05
        tensors[f"features.{place}.bias"] = torch.randn(out, generator=generator) * 0.1
    return tensors


@pytest.fixture(scope="module")
def heads() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return {
        f"lin{k}.model.1.weight": torch.rand(1, out, 1, 1, generator=generator) for k, (_, out, *_) in enumerate(LAYERS)
    }


@pytest.fixture(scope="module")
def files(state: dict[str, Tensor], heads: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("lpips")
    save_file(state, folder / "alexnet.safetensors")
    save_file(heads, folder / "heads.safetensors")
    return [folder / "alexnet.safetensors", folder / "heads.safetensors"]


@pytest.fixture(scope="module")
def model(files: list[Path]) -> Lpips:
    loaded = load_lpips(*files)
    assert loaded is not None
    return loaded


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    one, other = (torch.rand(2, 3, 64, 80, generator=generator) * 2 - 1 for _ in range(2))
    return one, other


def by_hand(one: Tensor, other: Tensor, state: dict[str, Tensor], heads: dict[str, Tensor]) -> Tensor:
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = ((x - shift[:, None, None]) / scale[:, None, None] for x in (one, other))
    total = torch.zeros(len(one))
    for k, (place, _, _, _, stride, padding, pooled) in enumerate(LAYERS):
        weight, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
        unit = []
        for x in (a, b):
            x = functional.max_pool2d(x, 3, 2) if pooled else x
            x = functional.relu(functional.conv2d(x, weight, bias, stride=stride, padding=padding))
            unit.append((x, x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-10)))
        a, b = unit[0][0], unit[1][0]
        difference = (unit[0][1] - unit[1][1]) ** 2
        total += torch.einsum("bcyx,c->byx", difference, heads[f"lin{k}.model.1.weight"].flatten()).mean((1, 2))
    return total


def test_it_equals_the_computation_by_hand(model: Lpips, state: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
    one, other = images()
    assert torch.allclose(model(one, other), by_hand(one, other, state, heads), rtol=1e-4)


def test_it_is_zero_for_equal_images_positive_and_symmetric(model: Lpips) -> None:
    one, other = images()
    assert torch.equal(model(one, one), torch.zeros(2))
    assert (model(one, other) > 0).all()
    assert torch.allclose(model(one, other), model(other, one))


def test_more_noise_is_further_away(model: Lpips) -> None:
    one, other = images()
    near, far = (model(one, one + (other - one) * share) for share in (0.1, 0.5))
    assert (near < far).all()


def test_bands_are_grey_images_and_rgb_is_picked(model: Lpips) -> None:
    one, other = (x[0] for x in images())
    four, four_other = torch.cat([one, one[:1]]), torch.cat([other, other[:1]])
    greys = model(four[:, None].expand(-1, 3, -1, -1), four_other[:, None].expand(-1, 3, -1, -1))
    assert model.distance(four, four_other, None) == pytest.approx(float(greys.mean()), rel=1e-6)
    picked = model.distance(one.flip(0), other.flip(0), (2, 1, 0))
    assert picked == pytest.approx(float(model(one[None], other[None])), rel=1e-6)


def test_without_weights_it_is_not_computed(files: list[Path]) -> None:
    assert load_lpips(None, None) is None
    with pytest.raises(InvalidModelInput, match="heads"):
        load_lpips(files[0], None)


def test_unfit_files_are_refused(files: list[Path], state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="cannot be read"):
        load_lpips(tmp_path / "none.safetensors", files[1])
    with pytest.raises(InvalidCheckpoint, match=r"no tensor features\.0\.weight"):
        load_lpips(files[1], files[1])
    save_file(state | {"features.3.bias": torch.zeros(7)}, tmp_path / "odd.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"features\.3\.bias has shape \(7,\)"):
        load_lpips(tmp_path / "odd.safetensors", files[1])
    (tmp_path / "cut.safetensors").write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(InvalidCheckpoint, match="cannot be read"):
        load_lpips(tmp_path / "cut.safetensors", files[1])


def test_small_images_are_refused_and_the_smallest_works(model: Lpips) -> None:
    with pytest.raises(InvalidModelInput, match="31 px"):
        model(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    assert model(torch.zeros(1, 3, 31, 31), torch.ones(1, 3, 31, 31)).shape == (1,)
