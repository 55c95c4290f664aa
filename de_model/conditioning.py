"""Optional conditions beside the images: ground sampling distance, and which bands are there.

Both enter the networks through the time embedding and start as nothing, so that a model trained without
them can be trained on with them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from de_model.errors import InvalidModelInput
from de_model.presets import Conditioning
from de_model.unet import timestep_embedding, zeroed

#: Embedding position per unit of log GSD: 1 % of GSD is one position, as one timestep is.
_POSITIONS_PER_LOG = 100.0


class ContextEmbedding(nn.Module):
    """Turns the conditions into what is added to a network's time embedding."""

    def __init__(self, bands: int, base: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.base, embedding = base, 4 * base
        self.gsd = (
            nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), zeroed(nn.Linear(embedding, embedding)))
            if conditioning.gsd
            else None
        )
        self.absent = zeroed(nn.Linear(bands, embedding, bias=False)) if conditioning.bands else None

    def forward(self, gsd: Tensor | None, band_mask: Tensor | None) -> Tensor | None:
        """Return `(batch, embedding)`, or None for a model without conditions.

        Args:
            gsd: `(batch,)` metres.
            band_mask: `(batch, band)`, true where the cloudy image has the band.

        Raises:
            InvalidModelInput: a condition is given that the model does not know, or one is missing.
        """
        _check_given("gsd", gsd, self.gsd is not None)
        _check_given("band_mask", band_mask, self.absent is not None)
        parts = []
        if self.gsd is not None and gsd is not None:
            position = _POSITIONS_PER_LOG * gsd.float().log()
            # Autocast or a cast model may hold its weights in another type than the embedding's float32.
            parts.append(self.gsd(timestep_embedding(position, self.base).to(next(self.gsd.parameters()).dtype)))
        if self.absent is not None and band_mask is not None:
            parts.append(self.absent(1 - band_mask.to(self.absent.weight.dtype)))
        return torch.stack(parts).sum(dim=0) if parts else None


def refuse_unknown(name: str, value: Tensor | None, known: bool) -> None:
    """Raise `InvalidModelInput` when a condition is given to a model that was trained without it."""
    if value is not None and not known:
        raise InvalidModelInput(f"This model was trained without {name}; leave it out.")


def _check_given(name: str, value: Tensor | None, known: bool) -> None:
    refuse_unknown(name, value, known)
    if value is None and known:
        raise InvalidModelInput(f"This model was trained with {name}; give it.")


def check_gsd(gsd: Tensor, batch: int) -> Tensor:
    """Return `gsd` `(batch,)` in metres; a single value stands for the whole batch.

    Raises:
        InvalidModelInput: the shape does not fit, or a value is not a positive number.
    """
    if gsd.numel() not in (1, batch):
        raise InvalidModelInput(f"gsd has shape {tuple(gsd.shape)}; give ({batch},), metres per image.")
    gsd = gsd.reshape(-1).expand(batch)
    if not all(value > 0 and math.isfinite(value) for value in gsd.tolist()):
        raise InvalidModelInput(f"gsd is {gsd.tolist()}; give positive metres.")
    return gsd


def check_band_mask(mask: Tensor, batch: int, bands: int) -> Tensor:
    """Return the mask as booleans `(batch, band)`.

    Raises:
        InvalidModelInput: the shape does not fit, or an image is left without any band.
    """
    if mask.shape != (batch, bands):
        raise InvalidModelInput(f"band_mask has shape {tuple(mask.shape)}; give ({batch}, {bands}).")
    present = mask.bool()
    if not bool(present.any(dim=1).all()):
        raise InvalidModelInput("band_mask leaves an image without any band; keep at least one.")
    return present
