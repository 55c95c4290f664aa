"""Publishing a model version beside the products that it makes: once per catalog, as an item of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from datetime import UTC, datetime, time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open

from de_model import checkpoint
from de_model.calibration import calibration_of
from de_model.card import ModelCard
from flows import __version__
from flows.models.registry import Registry
from flows.models.version import ModelVersion
from flows.planning.workunit import ModelRef
from flows.processing.publishing import catalog_of, own_staging
from flows.settings import RunSettings
from stac.catalog.publish import StaticCatalog
from stac.io.files import write_json, writing
from stac.io.s3 import Location
from stac.product.model_item import (
    CARD_FILE,
    MODELS_COLLECTION,
    TABLE_FILE,
    WEIGHTS_FILE,
    ModelRecord,
    build_model_item,
    model_item_id,
)

_BYTES_OF_FLOAT32 = 4
_INTERVAL = re.compile(r"(\d{4}-\d\d-\d\d)/(\d{4}-\d\d-\d\d)")
_ARCHITECTURE = "Diffusion Enhancement: noise predictor and blending weight W (U-Nets), reference {}"


def ensure_model_item(catalog: StaticCatalog, model: ModelRef) -> Location:
    """Publish the item of a model unless the catalog has it, whole; return its place.

    Args:
        catalog: any collection of the catalog.
        model: a resolved version, its weights fetched.

    Raises:
        InvalidCheckpoint: the weights cannot be read.
        PublishError: the catalog cannot be written; it is as it was.
    """
    models = catalog.beside(MODELS_COLLECTION)
    item_id = model_item_id(model.name, model.sha256)
    if not models.damage(item_id, f"model-{model.sha256}"):
        models.repair()  # a run that was killed may not have linked it
        return models.root / MODELS_COLLECTION / item_id / f"{item_id}.json"
    # Two runs may publish the same model at once, each from a folder of its own.
    with own_staging(models, item_id) as staging:
        record = _staged(model, staging)
        return models.publish(staging, build_model_item(record, staging), {"license": record.licence})


def publish_promoted(settings: RunSettings, registry: Registry, version: ModelVersion) -> None:
    """Publish the item of a version that was promoted, in the catalog of its products; nothing where there is none.

    Raises:
        InvalidCheckpoint: the weights cannot be read.
        PublishError: the catalog cannot be written; the next run publishes the item.
    """
    catalog = catalog_of(settings)
    if catalog.exists():
        weights = str(registry.weights(version))
        ensure_model_item(catalog, ModelRef(version.name, version.version, version.sha256, weights))


def _staged(model: ModelRef, staging: Path) -> ModelRecord:
    """Put the files of a model into a folder; return what its item says."""
    weights = Path(model.weights)
    card = checkpoint.read_card(weights)
    with writing(staging):
        shutil.copyfile(weights, staging / WEIGHTS_FILE)
        write_json(staging / CARD_FILE, _card_document(card))
        if (table := calibration_of(weights)) is not None:
            table.save(staging / TABLE_FILE)
    return record_of(model, card)


def record_of(model: ModelRef, card: ModelCard) -> ModelRecord:
    """Return what is known of a model from its registered version, its card and the shapes in its weights file.

    Raises:
        InvalidCheckpoint: the weights cannot be read.
    """
    parameters = _parameters(Path(model.weights))
    return ModelRecord(
        name=model.name,
        version=model.version,
        sha256=model.sha256,
        bands=card.bands,
        gsd_m=card.gsd_m,
        architecture=_ARCHITECTURE.format(card.reference),
        parameters=parameters,
        memory_bytes=parameters * _BYTES_OF_FLOAT32,
        framework_version=version("torch"),
        software_version=__version__,
        companding=card.companding,
        hyperparameters=_hyperparameters(card),
        trained_on=card.trained_on,
        created=datetime.now(UTC),
        trained_between=_interval(card.trained_on),
    )


def _parameters(weights: Path) -> int:
    """Return how many numbers the weights file holds."""
    with safe_open(weights, framework="pt") as stream:
        return sum(math.prod(stream.get_slice(name).get_shape()) for name in stream.keys())  # noqa: SIM118 - no mapping


def _hyperparameters(card: ModelCard) -> dict[str, Any]:
    training = {f"training.{name}": value for name, value in json.loads(card.training).items()}
    own = {
        "preset": str(card.preset),
        "eta": card.eta,
        "timesteps": card.timesteps,
        "weight_mode": str(card.weight_mode),
    }
    return own | training


def _card_document(card: ModelCard) -> dict[str, Any]:
    """Return the card as JSON, its training options as values and not as text."""
    return dataclasses.asdict(card) | {"training": json.loads(card.training)}


def _interval(trained_on: str) -> tuple[datetime, datetime] | None:
    """Return the dates of the training data where the card names them."""
    found = _INTERVAL.search(trained_on)
    if found is None:
        return None
    first, last = (datetime.fromisoformat(day) for day in found.groups())
    return first.replace(tzinfo=UTC), datetime.combine(last, time(23, 59, 59), UTC)
