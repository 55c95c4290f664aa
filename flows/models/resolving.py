"""From the model that settings name to the files of one version: resolved once per run."""

from __future__ import annotations

import logging

from de_model import checkpoint
from de_model.calibration import CalibrationTable, calibration_of
from de_model.errors import InvalidCheckpoint
from de_model.validation import ValidationRecord, validation_of
from flows.errors import ServiceUnavailable, UnknownModel
from flows.models.registry import MODEL_NAME, Registry
from flows.models.version import ModelVersion
from flows.planning.workunit import ModelRef, check_bands
from flows.settings import ModelFallback, RunSettings

_log = logging.getLogger("unveil")

#: Version of the weights that come with the package, where the registry could not be asked for one.
UNREGISTERED = "shipped"


def resolve(settings: RunSettings) -> ModelRef:
    """Return the model that the settings name, its weights and calibration fetched and checked.

    With `model_fallback: shipped` the weights that come with the package stand in for a model that cannot be had.

    Raises:
        UnknownModel: the registry has no such model, version or alias.
        InvalidCheckpoint: the artefact is missing or was changed.
        InvalidSettings: the model restores other bands than the settings ask for.
        ServiceUnavailable: the registry does not answer.
    """
    try:
        registry = Registry(settings.state, settings.mlflow_uri)
        shipped, version = registry.ensure_shipped(), registry.resolve(settings.model)
        if version.sha256 == shipped.sha256 and version.calibration not in (None, shipped.calibration):
            _log.warning(
                "%s has the weights that come with Unveil, and an older calibration of their intervals; %s has the "
                "present one: `unveil promote %s --force` makes it the champion.",
                version.uri, shipped.uri, shipped.version,
            )  # fmt: skip
        return model_of(settings, registry, version)
    except (UnknownModel, InvalidCheckpoint, ServiceUnavailable) as error:
        if settings.model_fallback is ModelFallback.ERROR:
            raise
        _log.warning("the shipped weights stand in for %s: %s", settings.model, error)
        return _shipped(settings)


def model_of(settings: RunSettings, registry: Registry, version: ModelVersion) -> ModelRef:
    """Return the model of a run for a version of the registry.

    Raises:
        InvalidCheckpoint: the artefact is missing or was changed.
        InvalidSettings: the model restores other bands than the settings ask for.
        ServiceUnavailable: the registry does not answer.
    """
    weights = registry.weights(version)
    card = checkpoint.read_card(weights)
    check_bands(settings, card.bands)
    table = registry.calibration(version)
    record = _checksum(validation_of(weights))
    return ModelRef(version.name, version.version, version.sha256, str(weights), _checksum(table), record, card.scene)


def _shipped(settings: RunSettings) -> ModelRef:
    weights = checkpoint.shipped_weights()
    card = checkpoint.read_card(weights)
    check_bands(settings, card.bands)
    sha256 = checkpoint.sha256_of(weights)
    table, record = calibration_of(weights), validation_of(weights)
    return ModelRef(MODEL_NAME, UNREGISTERED, sha256, str(weights), _checksum(table), _checksum(record), card.scene)


def _checksum(table: CalibrationTable | ValidationRecord | None) -> str:
    return "" if table is None else table.sha256
