"""`unveil train` on scenes, places and data sets: stages, continuing, MLflow runs, refusals."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from benchmarks.ablations import cross_data
from benchmarks.ablations.setting import Setting
from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint, InvalidData
from de_model.presets import Preset
from de_model.scene.observation import SceneClass
from de_model.training.stages import Stage
from de_model.weighting import WeightMode
from flows.cli import app
from flows.errors import InvalidSettings, ServiceUnavailable
from flows.models.mlflow_access import TRAINING_EXPERIMENT, open_client, registry_uri
from flows.models.training import train_model
from flows.models.training_pairs import plan_stages
from flows.models.training_places import read_listing, scenes_of
from flows.models.training_request import TrainingRequest
from flows.settings import Device
from stac.errors import NotWritable

pytestmark = pytest.mark.usefixtures("one_thread")
BANDS = ("blue", "green", "red", "nir")
#: Side of the pictures of a data set, pixels.
_SIZE = 64


def request_in(folder: Path) -> TrainingRequest:
    """Four short stages on one cell of the sample."""
    return TrainingRequest(
        cells=("MGRS-33TWM",),
        out=folder / "new" / "model.safetensors",
        work=folder / "work",
        preset=Preset.TINY,
        effort=0.05,
        batch=2,
        device=Device.CPU,
    )


def changed(request: TrainingRequest, **changes: Any) -> TrainingRequest:
    return request.model_copy(update=changes)


def weights(path: Path, preset: Preset = Preset.TINY, bands: tuple[str, ...] = BANDS) -> Path:
    checkpoint.save(Enhancer(ModelCard(preset, bands, 120.0)), path)
    return path


@pytest.mark.slow
def test_a_training_is_tracked_with_its_data_and_continued_in_the_same_run(tmp_path: Path) -> None:
    uri = registry_uri(tmp_path, None)
    request = changed(request_in(tmp_path), validation_cells=("MGRS-33TWL",), validate_every=2, mlflow_uri=uri)
    report = train_model(request)
    assert report is not None and report.run_id is not None
    client = open_client(uri)
    run = client.get_run(report.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["decay"] == "cosine" and run.data.params["fine.steps"] == "3"
    assert [m.step for m in client.get_metric_history(report.run_id, "fine/loss_noise")] == [1, 2, 3]
    validations = client.get_metric_history(report.run_id, "joint/validation_psnr")
    assert validations[-1].value == pytest.approx(report.stages[-1].validation["psnr"])
    dataset = run.inputs.dataset_inputs[0].dataset
    assert report.card.data_fingerprint.startswith(dataset.digest)
    assert json.loads(dataset.profile)["pairs"] == list(report.pairs)
    artefacts = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"card.json", "report.json"} <= artefacts
    pictures = sorted((tmp_path / "mlartifacts").rglob("*.png"))
    assert {path.name.split("-")[0] for path in pictures} == set(Stage)
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size[1] == 4 * 34
    again = train_model(request)
    assert again is not None and again.run_id == report.run_id and all(stage.before for stage in again.stages)
    assert len(client.search_runs([client.get_experiment_by_name(TRAINING_EXPERIMENT).experiment_id])) == 1


@pytest.mark.slow
def test_a_training_of_another_edition_in_the_same_folder_has_a_run_of_its_own(tmp_path: Path) -> None:
    request = changed(request_in(tmp_path), mlflow_uri=registry_uri(tmp_path, None), effort=1e-6)
    first = train_model(request)
    second = train_model(changed(request, start=checkpoint.shipped_weights(), preset=None))
    assert first.sha256 != second.sha256 and first.run_id != second.run_id
    assert train_model(request).run_id == first.run_id


def test_one_stage_starts_from_given_weights_and_changes_its_networks_only(tmp_path: Path) -> None:
    start = weights(tmp_path / "start.safetensors")
    request = changed(request_in(tmp_path), stages=(Stage.ALLOCATION,), start=start)
    report = train_model(request)
    assert report is not None and [stage.stage for stage in report.stages] == [Stage.ALLOCATION]
    before, after = (checkpoint.load(path).state_dict() for path in (start, request.out))
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"allocation"}
    assert json.loads(checkpoint.read_card(request.out).training)["start"] == checkpoint.sha256_of(start)
    with pytest.raises(InvalidCheckpoint, match=r"another training.*seed was 0, now 1"):
        train_model(changed(request, seed=1))


@pytest.mark.parametrize("stage", [Stage.ALLOCATION, Stage.JOINT])
def test_a_stage_without_what_it_needs_is_refused(tmp_path: Path, stage: Stage) -> None:
    request = changed(request_in(tmp_path), stages=(stage,))
    with pytest.raises(InvalidSettings, match=f"Stage {stage} needs reference and coarse/fine first"):
        plan_stages(request)
    complete = changed(request, stages=(stage, Stage.FINE, Stage.REFERENCE))
    assert [s.stage for s in plan_stages(complete)] == [Stage.REFERENCE, Stage.FINE, stage]


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    other = weights(tmp_path / "other.safetensors", bands=("red", "nir"))
    with pytest.raises(InvalidCheckpoint, match=r"bands \('red', 'nir'\), this training has"):
        train_model(changed(request_in(tmp_path), start=other))
    small = weights(tmp_path / "small.safetensors", Preset.SMALL)
    with pytest.raises(InvalidCheckpoint, match="preset small, this training has tiny"):
        train_model(changed(request_in(tmp_path), start=small))
    assert changed(request_in(tmp_path), preset=None, start=small).size is Preset.SMALL


def test_a_place_that_cannot_be_written_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    request = changed(request_in(tmp_path), out=tmp_path / "file" / "model.safetensors")
    with pytest.raises(NotWritable, match="cannot be written"):
        train_model(request)
    with pytest.raises(NotWritable, match="it is a folder"):
        train_model(changed(request_in(tmp_path), out=tmp_path))


def test_cells_are_not_trained_and_validated_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="MGRS-33TWM is trained on"):
        train_model(changed(request_in(tmp_path), validation_cells=("MGRS-33TWM",)))


def test_a_tracking_database_that_is_none_is_reported_before_training(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    with pytest.raises(ServiceUnavailable, match="cannot be used"):
        train_model(changed(request_in(tmp_path), mlflow_uri=registry_uri(tmp_path, None)))


def command(out: Path, *options: object) -> dict[str, Any]:
    """Train a tiny model by the command; return its document."""
    small = ("train", "--out", out, "--preset", "tiny", "--effort", "0.02", "--batch", "2", "--no-mlflow", "--json")
    done = CliRunner().invoke(app, [*map(str, [*small, *options])], catch_exceptions=False, standalone_mode=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_command_prints_one_document(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    document = command(out, "--cell", "MGRS-33TWM", "--decay", "constant", "--weight-mode", "bounded")
    assert document["sha256"] == checkpoint.sha256_of(out) and document["mlflow_run"] is None
    assert [stage["stage"] for stage in document["stages"]] == list(Stage)
    training = json.loads(checkpoint.read_card(out).training)
    assert training["decay"] == "constant" and checkpoint.read_card(out).weight_mode is WeightMode.BOUNDED
    with pytest.raises(InvalidSettings, match="Setting decay is 'never': input should be 'cosine' or 'constant'"):
        command(out, "--cell", "MGRS-33TWM", "--decay", "never")
    with pytest.raises(InvalidSettings, match="Setting effort is 'inf': input should be a finite number"):
        command(out, "--cell", "MGRS-33TWM", "--effort", "inf")


def write_folder(folder: Path, pairs: int = 3) -> Path:
    """Write ground, and the same ground with half of it under a veil."""
    for place, split in enumerate(("train", "test")):
        for number in range(pairs):
            random = np.random.default_rng([place, number])
            coarse = Image.fromarray(random.integers(40, 160, (8, 8, 3), np.uint8))
            ground = np.asarray(coarse.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
            veiled = ground.copy()
            veiled[: _SIZE // 2] = 120 + veiled[: _SIZE // 2] // 2
            for view, picture in (("cloud", veiled), ("label", ground)):
                path = folder / split / view / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    return folder


def test_a_data_set_is_trained_on_by_its_training_part(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "CUHK-CR1")
    document = command(tmp_path / "model.safetensors", "--data", folder)
    card = checkpoint.read_card(tmp_path / "model.safetensors")
    assert card.bands == ("red", "green", "blue") and card.gsd_m == 0.5
    assert card.trained_on == "CUHK-CR1, 3 pairs of its training part"
    assert document["pairs"] == [f"CUHK-CR1/train/{number}" for number in range(3)]


def test_pixels_of_unknown_size_must_be_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    out = tmp_path / "model.safetensors"
    with pytest.raises(InvalidSettings, match="--gsd METRES"):
        command(out, "--data", folder)
    command(out, "--data", folder, "--gsd", "3", "--stage", "reference")
    assert checkpoint.read_card(out).gsd_m == 3


def test_one_thing_is_trained_on_and_there_must_be_one(tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    with pytest.raises(InvalidSettings, match="train on one of them"):
        command(out, "--data", write_folder(tmp_path / "CUHK-CR1"), "--cell", "MGRS-33TWM")
    with pytest.raises(InvalidSettings, match="give --cell"):
        command(out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="empty"):
        command(out, "--data", tmp_path / "empty")


def test_a_data_set_is_one_more_kind_of_the_cross_data_ablation(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "CUHK-CR2")
    findings = cross_data.run(Setting(tmp_path / "unused", windows=1, steps=1, data=folder))
    judged = {(row["trained_on"], row["judged_on"]) for row in findings.table.records()}
    assert len(judged) == 9 and ("real pairs", "CUHK-CR2") in judged


def image(path: Path, counts: NDArray[Any]) -> None:
    bands, height, width = counts.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": counts.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile) as file:
        file.write(counts)


def listing(folder: Path, *sources: dict[str, object]) -> Path:
    path = folder / "places.yaml"
    path.write_text(yaml.safe_dump({"bands": ["blue", "nir"], "held_out": ["b"], "sources": list(sources)}))
    return path


def test_images_and_their_labels_become_scenes(tmp_path: Path) -> None:
    counts, label = np.full((3, 64, 64), 1000, np.uint16), np.zeros((1, 64, 64), np.uint8)
    counts[:, :8], label[:, 20:40, 20:40] = 0, 1
    image(tmp_path / "a.tif", counts)
    image(tmp_path / "a_label.tif", label)
    found = read_listing(
        listing(tmp_path, {"images": {"glob": "a*.tif", "gsd_m": 10, "bands": [1, 3], "mask": "_label"}})
    )
    (scene,) = scenes_of(found)
    assert found.held_out == ("b",) and scene.info.place == "a" and scene.image.shape == (2, 64, 64)
    assert (scene.classes[20:40, 20:40] == SceneClass.THICK).all() and (scene.classes[:8] == SceneClass.NODATA).all()
    assert np.allclose(scene.image[:, scene.clear], 0.1, atol=1e-6)


def test_landsat_archives_become_scenes_of_their_track_and_large_ones_are_seen_coarser_too(tmp_path: Path) -> None:
    name = "LC08_L2SP_218074_20190114_20200829_02_T1"
    counts = np.full((1, 60, 80), 10_000, np.uint16)
    counts[:, 10:20, 10:20], counts[:, :4] = 40_000, 0
    with tarfile.open(tmp_path / f"{name}-cropped.tar.gz", "w:gz") as archive:
        for band in ("SR_B2", "SR_B5"):
            image(tmp_path / f"{name}_{band}.TIF", counts)
            archive.add(tmp_path / f"{name}_{band}.TIF", f"{name}_{band}.TIF")
    path = listing(tmp_path, {"landsat": {"glob": "*.tar.gz", "bands": ["SR_B2", "SR_B5"]}})
    path.write_text(path.read_text() + "coarser_from: 60\n")
    scene, coarser = scenes_of(read_listing(path))
    assert (scene.info.place, scene.info.day, scene.info.gsd_m) == ("landsat-218074", 17910, 30.0)
    assert np.allclose(scene.image[:, scene.clear], 10_000 * 2.75e-5 - 0.2, atol=1e-6)
    assert scene.cloud[10:20, 10:20].all() and (scene.classes[:4] == SceneClass.NODATA).all()
    assert coarser.image.shape == (2, 30, 40) and coarser.info.gsd_m == 60.0 and coarser.cloud[5:10, 5:10].all()


def test_what_a_listing_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="each is one of catalog, pairs, images, bands"):
        read_listing(listing(tmp_path, {"video": {}}))
    with pytest.raises(InvalidSettings, match="lacks 'bands'"):
        image(tmp_path / "a.tif", np.full((2, 64, 64), 1000, np.uint16))
        scenes_of(read_listing(listing(tmp_path, {"images": {"glob": "a.tif", "gsd_m": 10}})))
    with pytest.raises(InvalidSettings, match="holds no scene"):
        scenes_of(read_listing(listing(tmp_path, {"images": {"glob": "none*.tif", "gsd_m": 10, "bands": [1, 2]}})))
    with pytest.raises(InvalidSettings, match="is not a listing of places"):
        read_listing(tmp_path / "missing.yaml")
