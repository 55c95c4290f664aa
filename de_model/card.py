"""What a model is: everything a user of the weights must know, stored inside the weights file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from de_model.errors import InvalidCheckpoint
from de_model.presets import Preset
from de_model.radiometry import COMPANDING

#: Raised when the meaning of a stored field changes.
FORMAT = "unveil-de/1"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Identity and limits of one set of weights."""

    preset: Preset
    #: Common names in channel order.
    bands: tuple[str, ...]
    #: Ground sampling distance of the training imagery, metres.
    gsd_m: float
    #: Floor of the reference's share at inference (DE section 1.5).
    eta: float = 0.3
    timesteps: int = 1000
    #: How W is limited: a `weighting.WeightMode`.
    weight_mode: str = "clamp"
    companding: str = COMPANDING
    #: What the weights were trained on, for people.
    trained_on: str = ""
    #: SHA-256 over the training arrays.
    data_fingerprint: str = ""
    #: Version-control revision of the code that trained them.
    revision: str = ""
    #: The options of training, as JSON.
    training: str = "{}"

    def to_metadata(self) -> dict[str, str]:
        """Return the card as the string map that safetensors stores."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"format": FORMAT, "card": json.dumps(values, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, origin: str) -> ModelCard:
        """Read a card back; `origin` names the file in messages.

        Raises:
            InvalidCheckpoint: the metadata are missing, of another format, or incomplete.
        """
        if not metadata or metadata.get("format") != FORMAT:
            found = (metadata or {}).get("format", "none")
            raise InvalidCheckpoint(f"{origin} is not an Unveil model (format {found}, expected {FORMAT}).")
        try:
            values = json.loads(metadata["card"])
            card = cls(**{**values, "preset": Preset(values["preset"]), "bands": tuple(values["bands"])})
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCheckpoint(
                f"{origin} has an incomplete model card ({error}); train or fetch it again."
            ) from error
        if card.companding != COMPANDING:
            raise InvalidCheckpoint(f"{origin} uses companding {card.companding}, this version knows {COMPANDING}.")
        return card
