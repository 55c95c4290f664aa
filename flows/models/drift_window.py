"""The last restored units against the training set of their model."""

from __future__ import annotations

from flows.drift.baseline import baseline_of
from flows.drift.compare import DriftReport, compare
from flows.drift.store import NO_BASELINE, last
from flows.errors import InvalidBaseline, InvalidSettings
from flows.models.registry import Registry
from flows.settings import RunSettings


def look(settings: RunSettings) -> DriftReport:
    """Return how the last units that the settings' model restored compare with its training set.

    Raises:
        InvalidSettings: no unit was restored by this model with this state folder.
        InvalidBaseline: the model has no baseline, or one that cannot be read.
        UnknownModel, ServiceUnavailable: the model cannot be had.
    """
    if not (settings.state / "drift").is_dir():
        raise InvalidSettings(f"{settings.state} holds no statistics of units; start unveil run first, or name --out.")
    registry = Registry(settings.state, settings.mlflow_uri)
    version = registry.resolve(settings.model)
    baseline = baseline_of(registry.weights(version))
    if baseline is None:
        raise InvalidBaseline(NO_BASELINE)
    units = last(settings.state, settings.drift_last, version.sha256)
    if not units:
        raise InvalidSettings(
            f"{version.name} version {version.version} has restored nothing yet with {settings.state}; "
            "start unveil run first, or name another --model."
        )
    return compare(units, baseline, settings.drift_limits)
