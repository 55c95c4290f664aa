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
from de_model.errors import InvalidCheckpoint
from de_model.inference.sampling import sampling_for
from flows.errors import InvalidSettings, ServiceUnavailable, UnknownModel
from flows.models.mlflow_access import (
    database_of,
    dataset_input,
    open_client,
    plain_errors,
    prepare_folder,
    registry_uri,
)
from flows.models.registration import MODEL_ID_TAG, register_weights, store_again
from flows.models.version import (
    CALIBRATION,
    COMPANIONS,
    VALIDATION,
    WEIGHTS_FILE,
    Companion,
    ModelVersion,
    is_whole,
    local_folder,
    verify,
)
from flows.planning.workunit import ModelRef
from flows.services.state import locked
from flows.settings import ModelFallback, RunSettings
from flows.settings.restoring import DEFAULT_MODEL
from stac.io.secrets import without_secret

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

_log = logging.getLogger("unveil")

#: Seconds that a command waits for another one that registers, or changes aliases.
_LOCK_TIMEOUT_S = 120.0
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

    @classmethod
    def of(cls, settings: RunSettings) -> Registry:
        """Return the registry that the settings of a run name."""
        return cls(settings.state, settings.mlflow_uri)

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
        with self._only_registrar(), self.session() as client:
            found = self._registered(client, checkpoint.shipped_weights(), MODEL_NAME)
            if not self.aliases(MODEL_NAME) and len(self._versions(MODEL_NAME)) == 1:
                client.set_registered_model_alias(MODEL_NAME, CHAMPION, found.version)
            return ModelVersion.of(client.get_model_version(MODEL_NAME, found.version))

    def register(self, weights: Path, name: str = MODEL_NAME) -> ModelVersion:
        """Register a weights file as the next version of `name`; the same, calibrated alike, is its first one.

        Files of that version which are missing or damaged are stored again.

        Raises:
            InvalidCheckpoint: the file is not an Unveil model.
        """
        with self._only_registrar(), self.session() as client:
            return ModelVersion.of(self._registered(client, weights, name))

    def _registered(self, client: MlflowClient, weights: Path, name: str) -> MlflowVersion:
        """Return the version of a weights file; it is made, or its files are stored again, where they are missing."""
        sha256 = checkpoint.sha256_of(weights)
        found = _same_model(self._versions(name), weights, sha256)
        if found is None:
            return register_weights(client, self.uri, weights, sha256, name)
        folder = local_folder(client.get_model_version_download_uri(name, found.version))
        if folder is not None and not is_whole(folder / WEIGHTS_FILE, ModelVersion.of(found)):
            store_again(client, found, weights, sha256)
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
        found = self._found(name, alias, match["version"])
        if found is not None:
            _ = found.sha256  # a version without it cannot be used
            return found
        aliases, versions = self.aliases(name), self._versions(name)
        wanted = f"alias {alias}" if alias else f"version {match['version']}"
        named = ", ".join(f"{alias} (version {number})" for alias, number in sorted(aliases.items())) or "none"
        raise UnknownModel(
            f"Model {name} has no {wanted}; its aliases are {named}, its versions "
            f"{', '.join(str(v.version) for v in versions) or 'none'}. Correct the name, or give the alias to a "
            "version in MLflow."
        )

    def weights(self, version: ModelVersion) -> Path:
        """Return the path of the safetensors file of `version`, verified as are its companions that lie beside it.

        Raises:
            InvalidCheckpoint: a file is missing, or is not the one that was registered.
        """
        with self.session() as client:
            origin = client.get_model_version_download_uri(version.name, version.version)
        folder = local_folder(origin)
        path = self._fetched(version, origin) if folder is None else folder / WEIGHTS_FILE
        verify(path, version)
        return path

    def versions(self, name: str = MODEL_NAME) -> list[ModelVersion]:
        """Return all versions of a model, oldest first.

        Raises:
            UnknownModel: the registry does not have the model.
        """
        aliases = self.aliases(name)
        return [ModelVersion.of(found, aliases) for found in self._versions(name)]

    def aliases(self, name: str) -> dict[str, str]:
        """Return version by alias.

        Raises:
            UnknownModel: the registry does not have the model.
        """
        from mlflow.exceptions import MlflowException

        with self.session() as client:
            try:
                model = client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                names = [model.name for model in client.search_registered_models(max_results=20)]
                raise UnknownModel(
                    f"The registry {without_secret(self.uri)} has no model {name}; it has "
                    f"{', '.join(names) or 'none'}. Correct the name, or register a model of that name."
                ) from error
        return {alias: str(number) for alias, number in model.aliases.items()}

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
        metrics = [
            Metric(key, float(value), now, 0, model_id=version.tags.get(MODEL_ID_TAG), **about)
            for key, value in figures.items()
            if math.isfinite(value)
        ]
        with self.session() as client:
            client.log_inputs(version.run_id, datasets=[data])
            client.log_batch(version.run_id, metrics=metrics)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[MlflowClient]:
        """Let one process at a time change aliases: of all that share the database, or, at a server, the state folder.

        Raises:
            ServiceUnavailable: another process holds on for too long.
        """
        prepare_folder(self.state_dir)
        database = database_of(self.uri)
        with (
            locked((database or self.state_dir / "promotion").with_suffix(".promotion.lock"), _LOCK_TIMEOUT_S),
            self.session() as client,
        ):
            yield client

    def _fetched(self, version: ModelVersion, origin: str) -> Path:
        """Return the weights of a remote version, downloaded once into a folder of its own, with what lies beside."""
        cache = self.state_dir / "models"
        kept = [kind for kind in COMPANIONS if version.checksum(kind)]
        place = cache / "-".join([version.sha256, *(version.checksum(kind)[:16] for kind in kept)])
        path = place / Path(WEIGHTS_FILE).name
        if is_whole(path, version):
            return path
        prepare_folder(place)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder, self.session():
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            repository = get_artifact_repository(origin, tracking_uri=self.uri, registry_uri=self.uri)
            # The weights last: where they are, everything is.
            for name in [*(kind.file for kind in kept), WEIGHTS_FILE]:
                fetched = Path(repository.download_artifacts(name, folder))
                fetched.replace(place / fetched.name)
        return path

    @contextlib.contextmanager
    def session(self) -> Iterator[MlflowClient]:
        """Give the client of the registry; what MLflow raises in this context becomes one of our errors."""
        client = self._client  # opened first: it prepares the import of MLflow
        with plain_errors(self.uri):
            yield client

    @contextlib.contextmanager
    def _only_registrar(self) -> Iterator[None]:
        """Let one process at a time create the database and register; a remote server needs no lock of ours."""
        database = database_of(self.uri)
        if database is None:
            yield
            return
        prepare_folder(database.parent)
        with locked(database.with_suffix(".lock"), _LOCK_TIMEOUT_S):
            yield

    def _found(self, name: str, alias: str | None, version: str) -> ModelVersion | None:
        """Return the version of an alias, or of a number without one; None when it is missing."""
        with self.session() as client:
            from mlflow.exceptions import MlflowException

            try:
                found = (
                    client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
                )
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return ModelVersion.of(found)

    def _versions(self, name: str) -> list[MlflowVersion]:
        """Return all versions of a model, oldest first; none of an unknown model."""
        with self.session() as client:
            return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda found: int(found.version))


def resolve(settings: RunSettings) -> ModelRef:
    """Return the model that the settings name, its weights and calibration fetched and checked.

    With `model_fallback: shipped` the weights that come with the package stand in for a model that cannot be had.

    Raises:
        UnknownModel: the registry has no such model, version or alias.
        InvalidCheckpoint: the artefact is missing or was changed.
        InvalidSettings: the model restores other bands than the settings ask for.
        InvalidModelInput: it cannot be sampled as they say.
        ServiceUnavailable: the registry does not answer.
    """
    try:
        registry = Registry.of(settings)
        shipped, version = registry.ensure_shipped(), registry.resolve(settings.model)
        if version.sha256 == shipped.sha256 and version.checksum(CALIBRATION) != shipped.checksum(CALIBRATION):
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
        InvalidModelInput: it cannot be sampled as they say.
        ServiceUnavailable: the registry does not answer.
    """
    return _reference(settings, version.name, version.version, version.sha256, registry.weights(version))


def _reference(settings: RunSettings, name: str, version: str, sha256: str, weights: Path) -> ModelRef:
    card, asked = checkpoint.read_card(weights), settings.bands
    if tuple(asked) != tuple(card.bands):
        raise InvalidSettings(
            f"Bands {', '.join(asked)} were asked for, the model restores {', '.join(card.bands)}; set bands to these."
        )
    own = sampling_for(card)
    if settings.use_model:
        settings.sampling(own).check(card)
    known = _checksum(CALIBRATION, weights), _checksum(VALIDATION, weights)
    return ModelRef(name, version, sha256, str(weights), *known, own)


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
    return _reference(settings, MODEL_NAME, UNREGISTERED, checkpoint.sha256_of(weights), weights)


def _checksum(kind: Companion, weights: Path) -> str:
    found = kind.of(weights)
    return "" if found is None else found.sha256


def _same_model(versions: Sequence[MlflowVersion], weights: Path, sha256: str) -> MlflowVersion | None:
    """Return the first version of the same weights of which the same is known."""
    said = {"sha256": sha256} | {kind.tag: _checksum(kind, weights) for kind in COMPANIONS}
    return next((v for v in versions if said.items() <= v.tags.items()), None)
