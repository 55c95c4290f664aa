"""What a model is: everything a user of the weights must know, stored inside the weights file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.presets import SIZES, Preset, ReferenceKind
from de_model.radiometry import COMPANDING
from de_model.scene.design import SceneDesign
from de_model.weighting import WeightMode

#: Raised when the meaning of a stored field changes; cards of the second edition have one of their own.
FORMAT, SCENE_FORMAT = "unveil-de/1", "unveil-de/2"
#: A schedule of more is a mistake.
_MOST_TIMESTEPS = 100_000


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
    companding: str = COMPANDING
    #: What the weights were trained on, for people.
    trained_on: str = ""
    #: SHA-256 over the training arrays.
    data_fingerprint: str = ""
    #: Version-control revision of the code that trained them.
    revision: str = ""
    #: The options of training, as JSON.
    training: str = "{}"
    #: What gives the reference; left out, the preset's own.
    reference: ReferenceKind = None  # type: ignore[assignment] # __post_init__ replaces it, no user ever sees None
    #: How W is limited, in training and at inference.
    weight_mode: WeightMode = WeightMode.CLAMP
    #: Of the second edition: everything its networks and sampling depend on; `preset`'s own sizes do not count then.
    scene: SceneDesign | None = None

    def __post_init__(self) -> None:
        try:
            kind = SIZES[self.preset].reference if self.reference is None else ReferenceKind(self.reference)
            mode = WeightMode(self.weight_mode)
        except ValueError as error:
            raise InvalidModelInput(
                f"{error}; references are {', '.join(ReferenceKind)}, weight modes {', '.join(WeightMode)}."
            ) from error
        object.__setattr__(self, "reference", kind)
        object.__setattr__(self, "weight_mode", mode)

    @property
    def stride(self) -> int:
        """Height and width of every input must be divisible by this."""
        if self.scene is not None:
            return self.scene.sizes.stride
        sizes = SIZES[self.preset]
        return max(sizes.predictor.stride, sizes.allocation.stride, self.reference.stride)

    def to_metadata(self) -> dict[str, str]:
        """Return the card as the string map that safetensors stores.

        It has one key, because safetensors writes several in random order, and equal models are to be equal files.
        `scene` is stored where it is set only: cards of other models stay what they were.
        """
        values = dataclasses.asdict(self)
        if self.scene is None:
            del values["scene"]
        kind = FORMAT if self.scene is None else SCENE_FORMAT
        return {"card": json.dumps({"format": kind, **values}, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, origin: str) -> ModelCard:
        """Read a card back; `origin` names the file in messages.

        Raises:
            InvalidCheckpoint: the metadata are missing, of another format, or incomplete.
        """
        values = _stored(metadata or {}, origin)
        if values.get("format") not in (FORMAT, SCENE_FORMAT):
            found = values.get("format", "none")
            raise InvalidCheckpoint(
                f"{origin} is not an Unveil model (format {found}, expected {FORMAT} or {SCENE_FORMAT})."
            )
        try:
            card = cls(**_fields({name: value for name, value in values.items() if name != "format"}))
            _check_values(card)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, InvalidModelInput) as error:
            raise InvalidCheckpoint(
                f"{origin} has an incomplete model card ({error}); train or fetch it again."
            ) from error
        if card.companding != COMPANDING:
            raise InvalidCheckpoint(f"{origin} uses companding {card.companding}, this version knows {COMPANDING}.")
        return card


def _stored(metadata: Mapping[str, str], origin: str) -> dict[str, Any]:
    """Return the stored values and their format, which the first files kept beside the card."""
    try:
        values = json.loads(metadata.get("card", "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidCheckpoint(f"{origin} has a model card that is not JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise InvalidCheckpoint(f"{origin} has a model card that is not a JSON object; fetch it again.")
    outside = {"format": metadata["format"]} if "format" in metadata else {}
    return outside | values


def _check_values(card: ModelCard) -> None:
    """Raise `ValueError` for values of a stored card that no model can have."""
    texts = (card.trained_on, card.data_fingerprint, card.revision, card.training, card.companding)
    if not card.bands or not all(isinstance(text, str) for text in (*card.bands, *texts)):
        raise ValueError("bands and descriptions must be text")
    if any(isinstance(value, bool) for value in (card.gsd_m, card.eta, card.timesteps)):
        raise ValueError("gsd_m, eta and timesteps must be numbers")
    if not (0 < card.gsd_m < math.inf and 0 <= card.eta <= 1):
        raise ValueError(f"gsd_m {card.gsd_m} and eta {card.eta} must be a pixel size in metres and a share 0 to 1")
    if not (isinstance(card.timesteps, int) and 1 <= card.timesteps <= _MOST_TIMESTEPS):
        raise ValueError(f"timesteps {card.timesteps} must be a whole number from 1 to {_MOST_TIMESTEPS}")


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a stored card; the first cards named no reference, because there was only one.

    Earlier cards also said that their networks take no conditions beside the images.
    """
    for name in ("gsd_conditioning", "band_conditioning"):
        if values.pop(name, False) is not False:
            raise ValueError(f"{name} is no longer known; train these weights again")
    kinds: dict[str, Any] = {"preset": Preset(values["preset"]), "bands": tuple(values["bands"])}
    if values.get("scene") is not None:
        kinds["scene"] = SceneDesign.from_values(values["scene"])
    return {"reference": ReferenceKind.LIGHT, **values, **kinds}
