"""Weights files: what they say about themselves, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.inference.engine import restore
from de_model.inference.sampling import sampling_for
from de_model.presets import Preset, ReferenceKind
from de_model.weighting import WeightMode

BANDS = ("green", "red", "nir")


def model(**fields: object) -> Enhancer:
    torch.manual_seed(0)
    return Enhancer(ModelCard(Preset.TINY, BANDS, 10.0, **fields))


def write(path: Path, enhancer: Enhancer, card: ModelCard | None = None, **changes: torch.Tensor | None) -> Path:
    """Save a model with some tensors changed (None removes) under a card that may be another's."""
    tensors = {**enhancer.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    kept = {name: value.contiguous() for name, value in tensors.items() if value is not None}
    save_file(kept, path, metadata=(card or enhancer.card).to_metadata())
    return path


def refused(path: Path) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize("kind", list(ReferenceKind))
def test_every_reference_survives_the_disk(tmp_path: Path, kind: ReferenceKind) -> None:
    enhancer, path = model(reference=kind, weight_mode=WeightMode.BOUNDED), tmp_path / "model.safetensors"
    checkpoint.save(enhancer, path)
    back = checkpoint.load(path)
    assert back.card == enhancer.card
    assert (back.card.reference, back.card.weight_mode) == (kind, WeightMode.BOUNDED)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in enhancer.state_dict().items())


@pytest.mark.parametrize("name", ["gsd_conditioning", "band_conditioning"])
def test_cards_that_name_no_conditions_are_read_and_others_refused(name: str) -> None:
    card = ModelCard(Preset.TINY, BANDS, 10.0)
    metadata = card.to_metadata()
    stored = {said: {"card": json.dumps(json.loads(metadata["card"]) | {name: said})} for said in (False, True)}
    assert ModelCard.from_metadata(stored[False], "old") == card
    with pytest.raises(InvalidCheckpoint, match=f"{name} is no longer known; train these weights again"):
        ModelCard.from_metadata(stored[True], "old")


def test_the_paper_preset_has_the_published_reference() -> None:
    kinds = {preset: ModelCard(preset, BANDS, 10.0).reference for preset in Preset}
    assert kinds == {
        Preset.PAPER: ReferenceKind.MPRNET,
        Preset.SMALL: ReferenceKind.LIGHT,
        Preset.TINY: ReferenceKind.LIGHT,
    }
    assert ModelCard(Preset.PAPER, BANDS, 10.0, reference=ReferenceKind.MSDA).reference is ReferenceKind.MSDA


@pytest.mark.parametrize("field", ["reference", "weight_mode"])
def test_unknown_names_are_refused(field: str) -> None:
    with pytest.raises(InvalidModelInput, match="nothing"):
        ModelCard(Preset.TINY, BANDS, 10.0, **{field: "nothing"})
    metadata = ModelCard(Preset.TINY, BANDS, 10.0).to_metadata()
    values = {**json.loads(metadata["card"]), field: "nothing"}
    with pytest.raises(InvalidCheckpoint, match=r"old\.safetensors"):
        ModelCard.from_metadata({**metadata, "card": json.dumps(values)}, "old.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "model.safetensors", model())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "fetch or train it again" in refused(path)


def test_a_missing_reference_is_reported(tmp_path: Path) -> None:
    enhancer = model()
    bare = {name.replace(".", "__"): None for name in enhancer.state_dict() if name.startswith("reference.")}
    assert "reference light" in refused(write(tmp_path / "a.safetensors", enhancer, **bare))
    claimed = ModelCard(Preset.TINY, BANDS, 10.0, reference=ReferenceKind.MPRNET)
    assert "reference mprnet" in refused(write(tmp_path / "b.safetensors", enhancer, claimed))


def test_a_missing_network_is_reported(tmp_path: Path) -> None:
    enhancer = model()
    bare = {name.replace(".", "__"): None for name in enhancer.state_dict() if name.startswith("allocation.")}
    message = refused(write(tmp_path / "model.safetensors", enhancer, **bare))
    assert "allocation." in message and "Missing" in message


def test_another_architecture_is_reported(tmp_path: Path) -> None:
    card = ModelCard(Preset.SMALL, BANDS, 10.0)
    assert "does not fit preset small" in refused(write(tmp_path / "a.safetensors", model(), card))
    extra = write(tmp_path / "b.safetensors", model(), foreign=torch.zeros(1))
    assert 'Unexpected key(s) in state_dict: "foreign"' in refused(extra)


def test_other_bands_are_reported(tmp_path: Path) -> None:
    card = ModelCard(Preset.TINY, (*BANDS, "blue"), 10.0)
    message = refused(write(tmp_path / "model.safetensors", model(), card))
    assert "4 bands" in message and "shape" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    enhancer = model()
    enhancer.predictor.net.head.bias.data[1] = bad
    assert "not finite (predictor.net.head.bias)" in refused(write(tmp_path / "model.safetensors", enhancer))


def test_a_card_from_before_references_had_names_means_the_light_one(tmp_path: Path) -> None:
    enhancer = model()
    values = json.loads(enhancer.card.to_metadata()["card"])
    old = {name: value for name, value in values.items() if name not in ("reference", "weight_mode")}
    path = tmp_path / "old.safetensors"
    save_file(enhancer.state_dict(), path, metadata=enhancer.card.to_metadata() | {"card": json.dumps(old)})
    loaded = checkpoint.load(path)
    assert loaded.card.reference is ReferenceKind.LIGHT and loaded.card.weight_mode is WeightMode.CLAMP
    same = model().channels_last().eval().requires_grad_(False)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


def test_shipped_weights_answer_as_when_they_were_shipped() -> None:
    """Figures of the code that trained them; another processor may round the last digits differently."""
    found = restored(checkpoint.load(checkpoint.shipped_weights()))
    assert found.mean(axis=1).tolist() == pytest.approx(MEANS, abs=1e-4)
    assert found.std(axis=1).tolist() == pytest.approx(DEVIATIONS, abs=1e-4)


def restored(enhancer: Enhancer) -> NDArray[np.float32]:
    """Return what is made of a cloud over waves, `(band, pixel)`."""
    y, x = np.mgrid[:96, :128].astype(np.float32)
    waves = [0.1 + 0.05 * b + 0.02 * np.sin(x / (9 + b)) * np.cos(y / (7 + b)) for b in range(4)]
    scene, cloud = np.stack(waves).astype(np.float32), np.zeros((96, 128), bool)
    cloud[30:70, 40:90] = True
    scene[:, cloud] = 0.6
    return restore(enhancer, scene, cloud, sampling_for(enhancer.card)).image[:, cloud]


MEANS = [0.09848, 0.14981, 0.20195, 0.25086]
DEVIATIONS = [0.00489, 0.00599, 0.00553, 0.00601]


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    enhancer, hashes = model(), set()
    for number in range(6):
        checkpoint.save(enhancer, tmp_path / f"{number}.safetensors")
        hashes.add(checkpoint.sha256_of(tmp_path / f"{number}.safetensors"))
    assert len(hashes) == 1


def test_files_that_kept_the_format_beside_the_card_are_read(tmp_path: Path) -> None:
    enhancer = model()
    values = json.loads(enhancer.card.to_metadata()["card"])
    beside = {"format": values.pop("format"), "card": json.dumps(values)}
    save_file(enhancer.state_dict(), tmp_path / "old.safetensors", metadata=beside)
    assert checkpoint.load(tmp_path / "old.safetensors").card == enhancer.card
    save_file(enhancer.state_dict(), tmp_path / "other.safetensors", metadata=beside | {"format": "unveil-de/9"})
    assert "format unveil-de/9" in refused(tmp_path / "other.safetensors")
    save_file(enhancer.state_dict(), tmp_path / "broken.safetensors", metadata={"card": "{"})
    assert "not JSON" in refused(tmp_path / "broken.safetensors")
