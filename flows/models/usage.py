"""How a model is used where nobody says otherwise: in products, and alone below whole clouds."""

from __future__ import annotations

from de_model.card import ModelCard
from de_model.inference.sampling import Sampling
from flows.loading import load_settings
from flows.restoration_options import RestorationOptions


def in_products(card: ModelCard) -> RestorationOptions:
    """Return how a model makes products, by the settings of the environment.

    Raises:
        InvalidSettings, InvalidModelInput: a setting of the environment makes no sense, or does not fit the model.
    """
    return load_settings().fitted_to(card.scene).restoration


def alone(card: ModelCard) -> Sampling:
    """Return how a model restores whole clouds without other dates.

    Raises:
        InvalidSettings, InvalidModelInput: a setting of the environment makes no sense, or does not fit the model.
    """
    return load_settings(None, {"prior": "none"}).fitted_to(card.scene).restoration.sampling


def usual(card: ModelCard) -> tuple[RestorationOptions, Sampling]:
    """Return how a model is used in products, and alone.

    Raises:
        InvalidSettings, InvalidModelInput: a setting of the environment makes no sense, or does not fit the model.
    """
    return in_products(card), alone(card)
