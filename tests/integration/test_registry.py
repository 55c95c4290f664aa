"""Models in a real MLflow registry: registered once, resolved by alias, refused when changed."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from de_model import checkpoint, packaging
from de_model.calibration import calibration_of, calibration_path, load_table
from de_model.errors import InvalidCheckpoint
from de_model.validation import validation_path
from flows.drift.statistics import baseline_path
from flows.errors import InvalidSettings, ServiceUnavailable, UnknownModel
from flows.models.registry import CHAMPION, MODEL_NAME, Registry, resolve
from flows.models.version import CALIBRATION
from flows.processing.model import load_model
from flows.settings import Device, ModelFallback
from flows.settings.loading import load_settings
from stac.errors import NotWritable
from tests.command import ROOT, environment

pytestmark = pytest.mark.integration

STARTER = """
import json, sys
from pathlib import Path
from flows.processing.model import load_model
from flows.models.registry import Registry
version = Registry(Path(sys.argv[1])).ensure_shipped()
print(json.dumps([version.version, *version.aliases, version.sha256]))
"""


def start(state: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(state)],
        cwd=ROOT,
        env=environment(state.parent / "home"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder on which two processes made their first start at once."""
    folder = tmp_path_factory.mktemp("registry") / "state"
    both = [start(folder) for _ in range(2)]
    ends = [(*process.communicate(timeout=200), process.returncode) for process in both]
    for out, err, status in ends:
        assert status == 0, err
        assert err == "", "a first start is quiet"
        assert json.loads(out) == ["1", CHAMPION, checkpoint.sha256_of(checkpoint.shipped_weights())]
    return folder


@pytest.fixture(scope="module")
def registry(state: Path) -> Registry:
    return Registry(state)


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are not the shipped ones."""
    enhancer = checkpoint.load(checkpoint.shipped_weights())
    for parameter in list(enhancer.parameters())[:1]:
        parameter.data += 1e-3
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    checkpoint.save(enhancer, path)
    return path


def test_two_first_starts_at_once_register_the_shipped_model_once_as_champion(registry: Registry) -> None:
    client = registry._client
    assert [v.version for v in client.search_model_versions(f"name = '{MODEL_NAME}'")] in ([1], ["1"])
    assert {run.info.status for run in client.search_runs([client.get_experiment_by_name("unveil").experiment_id])} == {
        "FINISHED"
    }
    version = registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    assert (version.version, version.aliases, version.uri) == ("1", (CHAMPION,), f"models:/{MODEL_NAME}/1")
    assert version == registry.ensure_shipped()
    assert registry.weights(version).read_bytes() == checkpoint.shipped_weights().read_bytes()


def test_mlflow_serves_the_registered_model(registry: Registry) -> None:
    import mlflow

    path = registry.weights(registry.resolve(f"models:/{MODEL_NAME}/1")).parents[1]
    model = mlflow.pyfunc.load_model(str(path))
    card = checkpoint.read_card(checkpoint.shipped_weights())
    example = packaging.example(card)
    answer: dict[str, Any] = model.predict(example, params={"samples": 1, "steps": 1})
    scene, needed = example[packaging.SCENE], example[packaging.NEEDED]
    assert answer["image"].shape == scene.shape and np.isfinite(answer["image"]).all()
    kept = ~np.broadcast_to(needed[:, None], scene.shape)
    np.testing.assert_array_equal(answer["image"][kept], scene[kept])
    assert not list(path.rglob("*.pkl"))


def test_a_version_carries_its_card_and_its_calibration(registry: Registry) -> None:
    version = registry.resolve(f"models:/{MODEL_NAME}/1")
    shipped = calibration_of(checkpoint.shipped_weights())
    assert shipped is not None and version.checksum(CALIBRATION) == shipped.sha256
    weights = registry.weights(version)
    assert load_table(calibration_path(weights)) == shipped
    card = (weights.parents[1] / "README.md").read_text("utf-8")
    assert version.sha256 in card and "blue, green, red, nir" in card and "90%" in card
    assert registry._client.get_model_version(MODEL_NAME, "1").description == card
    # What a run uses is what the package holds.
    settings = load_settings(None, {"state_dir": registry.state_dir})
    model = resolve(settings)
    assert (model.version, model.weights, model.calibration) == ("1", str(weights), shipped.sha256)
    with pytest.raises(InvalidSettings, match="the model restores blue, green, red, nir"):
        resolve(settings.model_copy(update={"bands": ("red", "nir")}))


@contextmanager
def holding(path: Path, content: bytes | None) -> Iterator[None]:
    """Let a file hold something else, or be missing, while the context is open."""
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_changed_and_missing_files_are_refused(registry: Registry) -> None:
    version = registry.resolve(f"models:/{MODEL_NAME}/1")
    weights = registry.weights(version)
    calibration = calibration_path(weights)
    table = json.loads(calibration.read_text("utf-8"))
    table["factors"]["model"][0] /= 2
    for path, content, says in (
        (weights, flipped(weights.read_bytes()), "the file was changed"),
        (weights, None, "missing"),
        (calibration, json.dumps(table).encode(), "the file was changed"),
        (calibration, b"{}", "not a calibration table"),
        (calibration, None, "not a calibration table"),
        (baseline_path(weights), None, "not a drift baseline"),
    ):
        with holding(path, content), pytest.raises(InvalidCheckpoint, match=says):
            registry.weights(version)
    assert registry.weights(version) == weights


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "models:/unveil-de@nobody"}, UnknownModel),
        ({"mlflow_uri": "http://127.0.0.1:9"}, ServiceUnavailable),
    ],
)
def test_the_shipped_weights_stand_in_only_when_asked(
    registry: Registry, change: dict[str, Any], error: type[Exception]
) -> None:
    settings = load_settings(None, {"state_dir": registry.state_dir} | change)
    with pytest.raises(error):
        resolve(settings)
    model = resolve(settings.model_copy(update={"model_fallback": ModelFallback.SHIPPED}))
    assert (model.version, model.sha256) == ("shipped", checkpoint.sha256_of(checkpoint.shipped_weights()))
    assert model.calibration and model.weights == str(checkpoint.shipped_weights())


def test_damaged_files_of_the_shipped_weights_are_stored_again(registry: Registry) -> None:
    path = registry.weights(registry.resolve(f"models:/{MODEL_NAME}/1"))
    whole = path.read_bytes()
    path.write_bytes(flipped(whole))
    model = resolve(load_settings(None, {"state_dir": registry.state_dir}))
    assert (model.version, model.sha256) == ("1", checkpoint.sha256_of(checkpoint.shipped_weights()))
    assert Path(model.weights).read_bytes() == whole


def test_the_code_in_a_package_is_never_executed(registry: Registry) -> None:
    package = registry.weights(registry.resolve(f"models:/{MODEL_NAME}/1")).parents[1]
    scripts = {path: path.read_bytes() for path in package.rglob("*.py")}
    assert scripts, "the package carries code for those who load it without Unveil"
    try:
        for path in scripts:
            path.write_text("raise SystemExit('executed')")
        model = resolve(load_settings(None, {"state_dir": registry.state_dir}))
        assert model.version == "1" and load_model(model.weights, model.sha256, Device.CPU).card.bands
    finally:
        for path, content in scripts.items():
            path.write_bytes(content)


def test_weights_that_are_calibrated_anew_are_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    older = Path(shutil.copy(checkpoint.shipped_weights(), tmp_path / "older.safetensors"))
    table = calibration_of(checkpoint.shipped_weights())
    assert table is not None
    document = json.loads(calibration_path(checkpoint.shipped_weights()).read_text("utf-8"))
    document["factors"]["model"] = [2 * factor for factor in document["factors"]["model"]]
    calibration_path(older).write_text(json.dumps(document), "utf-8")
    for path_of in (validation_path, baseline_path):
        shutil.copy(path_of(checkpoint.shipped_weights()), path_of(older))
    registry = Registry(tmp_path / "state")
    with monkeypatch.context() as before_the_update:
        before_the_update.setattr(checkpoint, "shipped_weights", lambda: older)
        assert registry.ensure_shipped().version == "1"
    settings = load_settings(None, {"state_dir": tmp_path / "state"})
    with caplog.at_level(logging.WARNING, logger="unveil"):
        model = resolve(settings)
    assert (model.version, registry.ensure_shipped().version) == ("1", "2"), "a champion is never moved"
    assert "older calibration" in caplog.text
    assert "models:/unveil-de/2 has the present one: `unveil promote 2 --force`" in caplog.text
    assert registry.register(older).version == "1" and registry.ensure_shipped().checksum(CALIBRATION) == table.sha256
    caplog.clear()
    registry._client.set_registered_model_alias(MODEL_NAME, CHAMPION, "2")
    assert resolve(settings).version == "2" and not caplog.text


def test_an_alias_moved_by_hand_is_respected(registry: Registry, state: Path, other_weights: Path) -> None:
    second = registry.register(other_weights)
    assert (second.version, second.aliases) == ("2", ())
    assert registry.register(other_weights) == second, "the same file again is the same version"
    assert registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}").version == "1", "registering promotes nothing"
    client = registry._client
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, "2")
    try:
        assert Registry(state).ensure_shipped().aliases == ()
        chosen = Registry(state).resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
        assert (chosen.version, chosen.sha256) == ("2", checkpoint.sha256_of(other_weights))
        client.delete_registered_model_alias(MODEL_NAME, CHAMPION)
        registry.ensure_shipped()
        with pytest.raises(UnknownModel, match="aliases are none"):
            registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    finally:
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, "1")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("models:/unveil-de@nobody", r"no alias nobody; its aliases are champion \(version 1\)"),
        ("models:/unveil-de/99", "no version 99"),
        ("models:/other@champion", "has no model other; it has unveil-de"),
    ],
)
def test_what_is_unknown_is_reported_with_what_there_is(registry: Registry, uri: str, says: str) -> None:
    with pytest.raises(UnknownModel, match=says) as caught:
        registry.resolve(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["unveil-de", "models:/", "models:/a@", "models:/a/0", "models:/a/1/2", "models:/a'@b"])
def test_other_addresses_are_refused(registry: Registry, uri: str) -> None:
    with pytest.raises(InvalidSettings, match="models:/NAME@ALIAS"):
        registry.resolve(uri)


def test_a_version_without_checksum_is_refused(registry: Registry) -> None:
    client = registry._client
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "file:///nowhere")
    with pytest.raises(InvalidCheckpoint, match="sha256"):
        registry.resolve("models:/foreign/1")


def test_a_file_that_is_not_a_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(InvalidCheckpoint, match=r"a\.safetensors"):
        registry.register(tmp_path / "a.safetensors", "another")
    with pytest.raises(UnknownModel):
        registry.resolve("models:/another/1")


def test_a_registry_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="file"):
        Registry(tmp_path / "file" / "state").ensure_shipped()
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(ServiceUnavailable, match=r"mlflow\.db"):
        Registry(tmp_path).ensure_shipped()
    with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:9 ") as caught:
        Registry(tmp_path, "http://name:secret@127.0.0.1:9").ensure_shipped()
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidSettings, match="ftp://host"):
        Registry(tmp_path, "ftp://host")
