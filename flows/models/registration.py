"""One weights file becomes one version in MLflow: run, logged model (code, weights, signature), registered version."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from de_model import checkpoint, packaging
from de_model.calibration import calibration_of
from de_model.card import ModelCard
from de_model.checkpoint import Knowledge
from flows import __version__
from flows.models.mlflow_access import TRAINING_EXPERIMENT, experiment_of
from flows.models.version import COMPANIONS, WEIGHTS_FILE, Companion
from stac.io.files import make_private

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

EXPERIMENT = "unveil"
#: The model card for people, in the package.
CARD_FILE = "README.md"
#: Tag with the id of the logged model: MLflow does not give it back with a version.
MODEL_ID_TAG = "unveil_model_id"
#: How MLflow calls the types of sampling parameters; what may be left out is a whole number.
_PARAMETER_TYPES = {float: "double", int: "long", str: "string", type(None): "long"}


@dataclass(frozen=True, slots=True)
class _Source:
    """What is registered."""

    weights: Path
    sha256: str
    card: ModelCard
    #: What lies beside the weights, by kind.
    beside: Mapping[Companion, Knowledge]

    @classmethod
    def of(cls, weights: Path, sha256: str) -> _Source:
        """Return the weights with their card and with the files that lie beside them."""
        beside = {kind: known for kind in COMPANIONS if (known := kind.of(weights)) is not None}
        return cls(weights, sha256, checkpoint.read_card(weights), beside)

    @property
    def tags(self) -> dict[str, str]:
        checksums = {kind.tag: self.beside[kind].sha256 if kind in self.beside else "" for kind in COMPANIONS}
        return packaging.tags_of(self.card, self.sha256) | checksums | {"unveil_version": __version__}

    @property
    def description(self) -> str:
        return packaging.describe(self.card, self.sha256, calibration_of(self.weights))


def register_weights(client: MlflowClient, uri: str, weights: Path, sha256: str, name: str) -> ModelVersion:
    """Register the safetensors file `weights` as the next version of model `name`, from the run that trained it.

    What lies beside the weights is packaged, too; the card becomes tags. The client is used throughout, never MLflow's
    global state, so that threads do not disturb each other. The version is created last and with all its tags: readers
    see it whole.

    Raises:
        InvalidCheckpoint: the file is not an Unveil model, or a file beside it belongs to another.
        MlflowException: the registry refuses.
    """
    source = _Source.of(weights, sha256)
    tags = source.tags
    trained = _training_run(client, sha256)
    if trained is not None:
        run = trained.info
        return _create_version(
            client, name, _log_model(client, run.experiment_id, run.run_id, name, source), run.run_id, source
        )
    experiment = experiment_of(client, uri, EXPERIMENT)
    run_id = client.create_run(experiment, run_name=f"register {sha256[:8]}", tags=tags).info.run_id
    status = "FAILED"
    try:
        model = _log_model(client, experiment, run_id, name, source)
        version = _create_version(client, name, model, run_id, source)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return version


def _training_run(client: MlflowClient, sha256: str) -> Run | None:
    """Return the run that trained the weights, the latest of several; None where they were trained elsewhere."""
    experiment = client.get_experiment_by_name(TRAINING_EXPERIMENT)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    known = f"tags.sha256 = '{sha256}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment.experiment_id], known, max_results=1)
    return found[0] if found else None


def store_again(client: MlflowClient, version: ModelVersion, weights: Path, sha256: str) -> None:
    """Store the package of a registered version once more, from the same weights: its files were lost or damaged.

    Raises:
        InvalidCheckpoint: the file is not an Unveil model.
        MlflowException: the registry refuses.
    """
    source = _Source.of(weights, sha256)
    model = client.get_logged_model(version.tags[MODEL_ID_TAG])
    with tempfile.TemporaryDirectory(prefix="unveil-model-") as folder:
        client.log_model_artifacts(model.model_id, str(_package(Path(folder), source, model, str(version.run_id))))


def _log_model(client: MlflowClient, experiment: str, run_id: str, name: str, source: _Source) -> LoggedModel:
    """Store code, weights, calibration, card, signature and example as a logged model of the run."""
    from mlflow.entities import LoggedModelOutput

    parameters = {key: str(value) for key, value in _flat(json.loads(source.card.training))}
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags=source.tags, params=parameters, model_type="unveil-de"
    )
    with tempfile.TemporaryDirectory(prefix="unveil-model-") as folder:
        packaged = _package(Path(folder), source, model, run_id)
        client.log_model_artifacts(model.model_id, str(packaged))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, step=0)])
    return model


def _flat(training: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the plain values of the training options; nested ones stay in the card."""
    return [(key, value) for key, value in training.items() if not isinstance(value, dict | list)]


def _package(folder: Path, source: _Source, model: LoggedModel, run_id: str) -> Path:
    """Write the pyfunc model to a new folder: models-from-code and safetensors, nothing pickled."""
    from mlflow import pyfunc
    from mlflow.models import Model

    card, target = source.card, folder / "model"
    pyfunc.save_model(
        path=str(target),
        python_model=str(packaging.model_script()),
        artifacts=_staged(folder, source),
        code_paths=[str(packaging.copy_code(folder / "code"))],
        signature=_signature(card),
        input_example=(packaging.example(card), _example_parameters(card)),
        pip_requirements=packaging.requirements(),
        metadata=card.to_metadata(),
        mlflow_model=Model(
            artifact_path=model.artifact_location, model_uuid=model.model_id, model_id=model.model_id, run_id=run_id
        ),
    )
    for compiled in list(target.rglob("__pycache__")):
        shutil.rmtree(compiled)
    (target / CARD_FILE).write_text(source.description, "utf-8")
    make_private(target)  # MLflow's copy keeps the modes, and our code is readable by everybody where it is installed
    return target


def _staged(folder: Path, source: _Source) -> dict[str, str]:
    """Copy the data files of the package to a folder, under the names that MLflow keeps; return their paths."""
    weights = folder / Path(WEIGHTS_FILE).name
    shutil.copyfile(source.weights, weights)
    for kind, known in source.beside.items():
        known.save(kind.path(weights))
    return {packaging.WEIGHTS: str(weights)} | {kind.name: str(kind.path(weights)) for kind in source.beside}


def _example_parameters(card: ModelCard) -> dict[str, Any]:
    """Return the defaults that MLflow can store in an example: MLflow cannot store None."""
    return {name: value for name, value in packaging.default_parameters(card).items() if value is not None}


def _signature(card: ModelCard) -> ModelSignature:
    """Return the tensors `(batch, band, y, x)` and `(batch, y, x)` that go in and come out, and the parameters."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    float32, boolean = np.dtype("float32"), np.dtype("bool")
    images, planes = (-1, len(card.bands), -1, -1), (-1, -1, -1)
    inputs = [TensorSpec(float32, images, packaging.SCENE), TensorSpec(boolean, planes, packaging.NEEDED)]
    outputs = [
        TensorSpec(float32, images, "image"),
        TensorSpec(float32, images, "spread"),
        TensorSpec(float32, planes, "reference_weight"),
    ]
    parameters = [
        ParamSpec(name, _PARAMETER_TYPES[type(value)], value)
        for name, value in packaging.default_parameters(card).items()
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(parameters))


def _create_version(client: MlflowClient, name: str, model: LoggedModel, run_id: str, source: _Source) -> ModelVersion:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="Diffusion Enhancement: restores cloudy satellite scenes.")
    # `models:/MODEL_ID` as the source would be looked up in MLflow's global store, not in that of the client.
    return client.create_model_version(
        name,
        model.artifact_location,
        run_id=run_id,
        tags=source.tags | {MODEL_ID_TAG: model.model_id},
        description=source.description,
        model_id=model.model_id,
    )
