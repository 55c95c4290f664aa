"""Models by name: register weights in MLflow, resolve what settings name to a version, fetch its files."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from de_model import checkpoint
from de_model.calibration import CalibrationTable, calibration_of
from de_model.errors import InvalidCheckpoint
from de_model.validation import ValidationRecord, validation_of
from flows.errors import InvalidSettings, ServiceUnavailable, UnknownModel
from flows.models.mlflow_access import (
    database_of,
    dataset_input,
    locked,
    open_client,
    plain_errors,
    prepare_folder,
    registry_uri,
)
from flows.models.registration import (
    BASELINE_FILE,
    CALIBRATION_FILE,
    CALIBRATION_TAG,
    MODEL_ID_TAG,
    VALIDATION_FILE,
    VALIDATION_TAG,
    WEIGHTS_FILE,
    register_weights,
    store_again,
)
from flows.models.version import (
    ListedVersion,
    ModelVersion,
    describe,
    is_whole,
    listed,
    local_folder,
    verify,
)
from flows.planning.workunit import ModelRef, check_bands
from flows.services.prefect_server import without_credentials
from flows.settings import ModelFallback, RunSettings
from flows.settings.fields import DEFAULT_MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

_log = logging.getLogger("unveil")

#: Version of the weights that come with the package, where the registry could not be asked for one.
UNREGISTERED = "shipped"
#: Name and alias of the model that makes today's mosaics.
MODEL_NAME = "unveil-de"
CHAMPION = "champion"

_URI = re.compile(r"models:/(?P<name>[\w. -]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>[1-9]\d*))")


class Registry:
    """The MLflow registry of a state folder, or a configured one. Nothing is opened before the first call.

    Every call raises `ServiceUnavailable` where the registry refuses or does not answer.
    """

    def __init__(self, state_dir: Path, uri: str | None = None) -> None:
        """Choose the registry: `uri` (http, https or sqlite), else a SQLite database in `state_dir`.

        Raises:
            InvalidSettings: the URI is of another kind.
        """
        self.state_dir = state_dir.resolve()
        self.uri = registry_uri(self.state_dir, uri)

    @cached_property
    def _client(self) -> MlflowClient:
        return open_client(self.uri)

    def ensure_shipped(self) -> ModelVersion:
        """Register the weights that come with the package unless they are, calibrated alike; return their version.

        The alias `champion` is given only while this is the model's one version and no alias exists: a champion that
        was chosen is never moved.

        Raises:
            InvalidCheckpoint: the package came without weights.
            NotWritable: the state folder cannot be written.
        """
        with self._only_registrar(), self._session():
            found = self._registered(checkpoint.shipped_weights(), MODEL_NAME)
            aliases = self._aliases(MODEL_NAME)
            if not aliases and len(self._versions(MODEL_NAME)) == 1:
                self._client.set_registered_model_alias(MODEL_NAME, CHAMPION, str(found.version))
                aliases = {CHAMPION: str(found.version)}
        is_champion = aliases.get(CHAMPION) == str(found.version)
        return describe(found, CHAMPION if is_champion else None)

    def register(self, weights: Path, name: str = MODEL_NAME) -> ModelVersion:
        """Register a weights file as the next version of `name`; the same, calibrated alike, is its first one.

        Files of that version which are missing or damaged are stored again.

        Raises:
            InvalidCheckpoint: the file is not an Unveil model.
        """
        with self._only_registrar(), self._session():
            return describe(self._registered(weights, name), None)

    def _registered(self, weights: Path, name: str) -> MlflowVersion:
        """Return the version of a weights file; it is made, or its files are stored again, where they are missing."""
        sha256 = checkpoint.sha256_of(weights)
        found = _same_model(self._versions(name), weights, sha256)
        if found is None:
            return register_weights(self._client, self.uri, weights, sha256, name)
        if not self._is_whole(found):
            store_again(self._client, found, weights, sha256)
        return found

    def resolve(self, uri: str) -> ModelVersion:
        """Return the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now.

        Raises:
            InvalidSettings: `uri` has another form.
            UnknownModel: the registry does not have the model, alias or version.
            InvalidCheckpoint: the version was registered without the checksum of its weights.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise InvalidSettings(f"Model {uri} is not a model URI; give models:/NAME@ALIAS or models:/NAME/VERSION.")
        name, alias = match["name"], match["alias"]
        with self._session():
            found = self._found(name, alias, match["version"])
            if found is not None:
                return describe(found, alias)
            aliases, versions = self._aliases(name), self._versions(name)
        wanted = f"alias {alias}" if alias else f"version {match['version']}"
        named = ", ".join(f"{alias} (version {number})" for alias, number in sorted(aliases.items())) or "none"
        raise UnknownModel(
            f"Model {name} has no {wanted}; its aliases are {named}, its versions "
            f"{', '.join(str(v.version) for v in versions) or 'none'}. Correct --model, or give the alias to a version "
            "in MLflow."
        )

    def weights(self, version: ModelVersion) -> Path:
        """Return the path of the safetensors file of `version`; its checksum is verified, and that of its calibration.

        Beside it lie its calibration (`calibration_path`), its validation record (`validation_path`) and its drift
        baseline (`baseline_path`).

        Raises:
            InvalidCheckpoint: a file is missing, or is not the one that was registered.
        """
        with self._session():
            origin = self._client.get_model_version_download_uri(version.name, version.version)
        folder = local_folder(origin)
        path = self._fetched(version, origin) if folder is None else folder / WEIGHTS_FILE
        verify(path, version)
        return path

    def calibration(self, version: ModelVersion) -> CalibrationTable | None:
        """Return the calibration of the intervals of `version`, verified; None when it has none.

        Raises:
            InvalidCheckpoint: a file is missing, or is not the one that was registered.
        """
        weights = self.weights(version)
        return None if version.calibration == "" else calibration_of(weights)

    def versions(self, name: str = MODEL_NAME) -> list[ListedVersion]:
        """Return all versions of a model, oldest first.

        Raises:
            UnknownModel: the registry does not have the model.
        """
        with self._session():
            aliases = self._aliases(name)
            found = self._versions(name)
        named = {number: tuple(sorted(a for a, n in aliases.items() if n == number)) for number in aliases.values()}
        return [listed(v, named.get(str(v.version), ())) for v in found]

    def aliases(self, name: str) -> dict[str, str]:
        """Return version by alias.

        Raises:
            UnknownModel: the registry does not have the model.
        """
        with self._session():
            return self._aliases(name)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Give an alias to a version; a reader gets the old version or the new one."""
        with self._session():
            self._client.set_registered_model_alias(name, alias, version)

    def delete_alias(self, name: str, alias: str) -> None:
        """Take an alias away."""
        with self._session():
            self._client.delete_registered_model_alias(name, alias)

    def set_tags(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Keep tags with a version."""
        with self._session():
            for name, value in tags.items():
                self._client.set_model_version_tag(version.name, version.version, name, value)

    def log_artifacts(self, version: ModelVersion, folder: Path, under: str) -> None:
        """Keep all files of a folder with the run of a version, below a name."""
        with self._session():
            self._client.log_artifacts(version.run_id, str(folder), under)

    def log_metrics(self, version: ModelVersion, figures: Mapping[str, float], dataset: str, digest: str) -> None:
        """Keep figures of a version as metrics of its run and its model, with the data set they were measured on.

        Args:
            version: what was measured.
            figures: by name; those that are not finite are left out.
            dataset: places, for people.
            digest: SHA-256 of inputs and truths.
        """
        from mlflow.entities import Metric

        data, now = dataset_input("evaluation", dataset, digest, {"sha256": digest}), int(time.time() * 1000)
        about = {"dataset_name": data.dataset.name, "dataset_digest": data.dataset.digest}
        with self._session():
            model = self._client.get_model_version(version.name, version.version).tags.get(MODEL_ID_TAG)
            metrics = [
                Metric(key, float(value), now, 0, model_id=model, **about)
                for key, value in figures.items()
                if math.isfinite(value)
            ]
            self._client.log_inputs(version.run_id, datasets=[data])
            self._client.log_batch(version.run_id, metrics=metrics)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process at a time change aliases: of all that share the database, or, at a server, the state folder.

        Raises:
            ServiceUnavailable: another process holds on for too long.
        """
        prepare_folder(self.state_dir)
        database = database_of(self.uri)
        with locked((database or self.state_dir / "promotion").with_suffix(".promotion.lock")):
            yield

    def has(self, name: str, version: str) -> bool:
        """Whether the model has a version; one that was deleted is gone."""
        with self._session():
            return any(str(found.version) == version for found in self._versions(name))

    def _is_whole(self, found: MlflowVersion) -> bool:
        """Whether the files of a version are there, as far as it can be seen from here."""
        version = describe(found, None)
        folder = local_folder(self._client.get_model_version_download_uri(version.name, version.version))
        return folder is None or is_whole(folder / WEIGHTS_FILE, version)

    def _fetched(self, version: ModelVersion, origin: str) -> Path:
        """Return the weights of a remote version, downloaded once into a folder of its own, with what lies beside."""
        cache = self.state_dir / "models"
        beside = f"{version.calibration or 'plain':.16}-{version.validation or 'plain':.16}"
        place = cache / f"{version.sha256}-{beside}"
        path = place / Path(WEIGHTS_FILE).name
        if is_whole(path, version):
            return path
        prepare_folder(place)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder, self._session():
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            repository = get_artifact_repository(origin, tracking_uri=self.uri, registry_uri=self.uri)
            # The weights last: where they are, everything is.
            kept = {
                CALIBRATION_FILE: version.calibration,
                VALIDATION_FILE: version.validation,
                BASELINE_FILE: version.baseline,
            }
            for name in [*(name for name, there in kept.items() if there), WEIGHTS_FILE]:
                fetched = Path(repository.download_artifacts(name, folder))
                fetched.replace(place / fetched.name)
        return path

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        _ = self._client  # opened first: it prepares the import of MLflow
        with plain_errors(self.uri):
            yield

    @contextlib.contextmanager
    def _only_registrar(self) -> Iterator[None]:
        """Let one process at a time create the database and register; a remote server needs no lock of ours."""
        database = database_of(self.uri)
        if database is None:
            yield
            return
        prepare_folder(database.parent)
        with locked(database.with_suffix(".lock")):
            yield

    def _found(self, name: str, alias: str | None, version: str) -> MlflowVersion | None:
        """Return the version of an alias, or of a number without one; None when it is missing."""
        from mlflow.exceptions import MlflowException

        try:
            if alias:
                return self._client.get_model_version_by_alias(name, alias)
            return self._client.get_model_version(name, version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _versions(self, name: str) -> list[MlflowVersion]:
        """Return all versions of a model, oldest first; none of an unknown model."""
        found: list[MlflowVersion] = []
        token = None
        while token is None or token:
            page = self._client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
            found += page
            token = page.token or ""
        return sorted(found, key=lambda v: int(v.version))

    def _aliases(self, name: str) -> dict[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            model = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            names = [model.name for model in self._client.search_registered_models(max_results=20)]
            raise UnknownModel(
                f"The registry {without_credentials(self.uri)} has no model {name}; it has "
                f"{', '.join(names) or 'none'}. Correct --model, or register a model of that name."
            ) from error
        return {alias: str(number) for alias, number in model.aliases.items()}


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


def look_up(settings: RunSettings) -> ModelRef:
    """Return the model as `resolve` does, for a look: a local registry that does not exist yet is not made.

    The first run would register the shipped weights there, so they are what its default model is.
    """
    database = database_of(registry_uri(settings.state, settings.mlflow_uri))
    if settings.model == DEFAULT_MODEL and database is not None and not database.is_file():
        return _shipped(settings)
    return resolve(settings)


def _shipped(settings: RunSettings) -> ModelRef:
    weights = checkpoint.shipped_weights()
    card = checkpoint.read_card(weights)
    check_bands(settings, card.bands)
    sha256 = checkpoint.sha256_of(weights)
    table, record = calibration_of(weights), validation_of(weights)
    return ModelRef(MODEL_NAME, UNREGISTERED, sha256, str(weights), _checksum(table), _checksum(record), card.scene)


def _checksum(table: CalibrationTable | ValidationRecord | None) -> str:
    return "" if table is None else table.sha256


def _same_model(versions: Sequence[MlflowVersion], weights: Path, sha256: str) -> MlflowVersion | None:
    """Return the first version of the same weights whose intervals are calibrated and that is validated alike."""
    beside = {
        CALIBRATION_TAG: _checksum(calibration_of(weights)),
        VALIDATION_TAG: _checksum(validation_of(weights)),
    }
    same = [v for v in versions if v.tags.get("sha256") == sha256]
    return next((v for v in same if all(v.tags.get(tag, said) == said for tag, said in beside.items())), None)
