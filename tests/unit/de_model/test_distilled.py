"""The card of a student, and the one walk it can make."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from de_model.card import ModelCard
from de_model.checkpoint import shipped_weights
from de_model.distilled import Distilled, students_walk
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.inference.engine import restore
from de_model.inference.sampling import Sampling
from de_model.packaging import answer, default_parameters, describe, example, tags_of
from de_model.presets import Preset
from de_model.samplers.kinds import SamplerKind

TEACHER = "e" * 64
CARD = ModelCard(Preset.TINY, ("red", "nir"), 10.0, distilled=Distilled(1, 200, TEACHER))


def student() -> Enhancer:
    torch.manual_seed(0)
    return Enhancer(CARD).eval().requires_grad_(False)


def test_a_students_card_survives_the_disk() -> None:
    back = ModelCard.from_metadata(CARD.to_metadata(), "student.safetensors")
    assert back == CARD and back.distilled == Distilled(1, 200, TEACHER)


def test_all_other_cards_are_written_as_before_there_were_students() -> None:
    with safe_open(shipped_weights(), framework="pt") as stream:
        stored = stream.metadata()
    card = ModelCard.from_metadata(stored, "shipped")
    written = json.loads(card.to_metadata()["card"])
    # These weights are from when the format was kept beside the card.
    assert card.distilled is None and written == json.loads(stored["card"]) | {"format": stored["format"]}


@pytest.mark.parametrize("stored", ["one", {"steps": 1}, {"steps": 1, "start": 200, "teacher_sha256": "", "eta": 1}])
def test_a_card_with_half_a_teacher_is_refused(stored: object) -> None:
    values = json.loads(CARD.to_metadata()["card"]) | {"distilled": stored}
    with pytest.raises(InvalidCheckpoint, match="incomplete model card"):
        ModelCard.from_metadata({"card": json.dumps(values)}, "student.safetensors")


@pytest.mark.parametrize(("steps", "start"), [(0, 200), (3, 1)])
def test_a_walk_that_cannot_be_walked_is_refused(steps: int, start: int) -> None:
    with pytest.raises(InvalidModelInput, match="A student cannot walk"):
        Distilled(steps, start, TEACHER)


@pytest.mark.parametrize("walk", [{"steps": 1}, {"steps": 4}, {"steps": 2, "start": 200}, {"steps": 1, "start": 100}])
def test_a_student_is_not_walked_another_way(walk: dict[str, int]) -> None:
    scene, needed = np.full((2, 32, 32), 0.2, np.float32), np.ones((32, 32), bool)
    with pytest.raises(InvalidModelInput, match=r"distilled for 1 step from the reference noised to t = 200, not for"):
        restore(student(), scene, needed, Sampling(tile=32, overlap=0, **walk))


def test_every_sampler_makes_a_students_walk_alike() -> None:
    scene, needed = np.full((2, 32, 32), 0.2, np.float32), np.ones((32, 32), bool)
    images = [
        restore(student(), scene, needed, Sampling(steps=1, start=200, tile=32, overlap=0, sampler=kind)).image
        for kind in SamplerKind
    ]
    assert all(np.array_equal(images[0], image) for image in images[1:])


def test_a_walk_that_is_named_in_part_is_the_users() -> None:
    assert students_walk(CARD.distilled, None, None, None) == (SamplerKind.DPMPP2M, 1, 200)
    assert students_walk(None, None, None, None) is None
    for named in (("ddim", None, None), (None, 1, None), (None, None, 0)):
        assert students_walk(CARD.distilled, *named) is None


def test_a_packaged_student_answers_with_its_own_walk_and_names_its_teacher() -> None:
    parameters = default_parameters(CARD)
    assert (parameters["sampler"], parameters["steps"], parameters["start"]) == ("dpmpp2m", 1, 200)
    found = answer(student(), example(CARD), {"tile": 32, "overlap": 0, "samples": 1})
    assert np.isfinite(found.image).all()
    with pytest.raises(InvalidModelInput, match="distilled for 1 step"):
        answer(student(), example(CARD), {"steps": 10, "tile": 32, "overlap": 0})
    page = describe(CARD, "a" * 64, None)
    assert "| walk | 1 step from the reference noised to t = 200, and no other |" in page
    assert f"SHA-256 `{TEACHER}`" in page and tags_of(CARD, "a" * 64)["teacher_sha256"] == TEACHER
    plain = replace(CARD, distilled=None)
    assert "distilled" not in describe(plain, "a" * 64, None) and "teacher_sha256" not in tags_of(plain, "a" * 64)
    assert default_parameters(plain)["steps"] == 10
