"""LPIPS v0.1 with AlexNet (Zhang, Isola, Efros, Shechtman and Wang 2018) without torchvision and without downloads.

No weights are shipped and none are fetched: without both files LPIPS is "not computed". Both are safetensors, and the
names of their tensors are those under which the originals are published:

| file | tensors | original |
|---|---|---|
| backbone | `features.N.weight`, `features.N.bias`, N in 0, 3, 6, 8, 10; others are ignored | torchvision's AlexNet |
| heads | `linK.model.1.weight` `(1, channel, 1, 1)`, K in 0..4 | `alex.pth` of LPIPS v0.1, also inside torchmetrics |

A state dictionary of either becomes such a file with `safetensors.torch.save_file(state, path)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from de_model.errors import InvalidCheckpoint, InvalidModelInput

#: Channels of the five convolutions, and their places in torchvision's `features`.
_CHANNELS = (64, 192, 384, 256, 256)
_CONVOLUTIONS = (0, 3, 6, 8, 10)
#: Places of the activations that are compared: the ReLU after each convolution.
_TAPS = (1, 4, 7, 9, 11)
#: Mean and deviation of ImageNet, on the scale [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: Keeps the length of an all-zero feature vector from dividing by 0.
_EPSILON = 1e-10
#: Below this the last pooling has nothing to pool.
_SMALLEST = 31


class Lpips(nn.Module):
    """Perceptual distance of RGB images: 0 for equal ones, larger for less similar ones."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, _CHANNELS[0], 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(_CHANNELS[0], _CHANNELS[1], 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(_CHANNELS[1], _CHANNELS[2], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_CHANNELS[2], _CHANNELS[3], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_CHANNELS[3], _CHANNELS[4], 3, padding=1),
            nn.ReLU(),
        )
        self.heads = nn.ParameterList(torch.zeros(1, c, 1, 1) for c in _CHANNELS)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        self.shift: Tensor
        self.scale: Tensor

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distance `(batch,)` of images `(batch, 3, y, x)`, red, green, blue.

        Args:
            one: on the scale [-1, 1] for standard LPIPS. The paper's protocol feeds 0..255 instead.
            other: the same shape and scale.

        Raises:
            InvalidModelInput: the images are no RGB images of equal shape, or smaller than 31 px.
        """
        if one.shape != other.shape or one.dim() != 4 or one.shape[1] != 3 or min(one.shape[2:]) < _SMALLEST:
            raise InvalidModelInput(
                f"LPIPS of shapes {tuple(one.shape)} and {tuple(other.shape)}; it wants two equal (batch, 3, y, x) of "
                f"{_SMALLEST} px or more."
            )
        distance = torch.zeros(len(one), device=one.device)
        for a, b, head in zip(self._activations(one), self._activations(other), self.heads, strict=True):
            distance = distance + (head * (a - b).square()).sum(dim=1).mean(dim=(1, 2))
        return distance

    def _activations(self, image: Tensor) -> list[Tensor]:
        """Return the five activations, each of unit length over channels."""
        h, found = (image - self.shift) / self.scale, []
        for place, layer in enumerate(self.features):
            h = layer(h)
            if place in _TAPS:
                found.append(h / (h.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON))
        return found

    @torch.inference_mode()
    def distance(self, one: Tensor, other: Tensor, rgb: tuple[int, int, int] | None) -> float:
        """Return the distance of two images `(band, y, x)`.

        Args:
            one: on the scale that `forward` is to be fed.
            other: the same shape.
            rgb: channels of red, green and blue. None shows each band as grey and returns the mean over bands, the
                way of the paper's evaluation for RGB with near infrared (DE section 6.3).
        """
        device = self.shift.device
        pair = [image.to(device, torch.float32) for image in (one, other)]
        if rgb is not None:
            a, b = (image[list(rgb)].unsqueeze(0) for image in pair)
        else:
            a, b = (image.unsqueeze(1).expand(-1, 3, -1, -1) for image in pair)
        return float(self(a, b).mean())


def load_lpips(backbone: Path | None, heads: Path | None, device: str = "cpu") -> Lpips | None:
    """Return LPIPS with the weights of two files, or None, "not computed", when neither is given.

    Args:
        backbone: safetensors with the convolutions of AlexNet.
        heads: safetensors with the linear heads.
        device: where it runs.

    Raises:
        InvalidModelInput: only one of the files is given.
        InvalidCheckpoint: a file cannot be read, or lacks a tensor, or has one of another shape.
    """
    if backbone is None and heads is None:
        return None
    if backbone is None or heads is None:
        missing = "backbone" if backbone is None else "heads"
        raise InvalidModelInput(f"LPIPS needs two weights files; the one of the {missing} is not given.")
    model = Lpips()
    names = [f"features.{place}.{kind}" for place in _CONVOLUTIONS for kind in ("weight", "bias")]
    _fill(model, {name: name for name in names}, backbone)
    _fill(model, {f"lin{k}.model.1.weight": f"heads.{k}" for k in range(len(_CHANNELS))}, heads)
    return model.to(torch.device(device)).eval().requires_grad_(False)


@torch.no_grad()
def _fill(model: Lpips, names: Mapping[str, str], path: Path) -> None:
    """Copy the tensors of `path` into the parameters they belong to."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read as safetensors ({error}); convert it again.") from error
    parameters = dict(model.named_parameters())
    for stored, own in names.items():
        if stored not in tensors:
            raise InvalidCheckpoint(f"{path} has no tensor {stored}; LPIPS wants {', '.join(names)}.")
        if tensors[stored].shape != parameters[own].shape:
            raise InvalidCheckpoint(
                f"{path}: {stored} has shape {tuple(tensors[stored].shape)}, expected {tuple(parameters[own].shape)}."
            )
        parameters[own].copy_(tensors[stored])
