"""A GPU that stops answering: told from work that failed, and left alone by the process from then on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from de_model import checkpoint
from de_model.errors import DeviceLost
from de_model.inference.running import watched
from flows.errors import InvalidSettings
from flows.processing import model as loaded
from flows.processing.model import load_model, without_a_lost_gpu
from flows.settings import Device

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    loaded._GPU_LOST.clear()
    load_model.cache_clear()


def failing(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def test_only_a_device_that_answers_no_more_is_lost() -> None:
    assert list(watched(iter([1, 2]), GPU, lambda _: False)) == [1, 2]
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(watched(failing(RuntimeError("shapes differ")), GPU, lambda _: True))
    found = watched(
        failing(torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")), GPU, lambda _: False
    )
    assert next(found) == 1
    with pytest.raises(DeviceLost, match=r"GPU cuda .*\(CUDA error: unspecified launch failure\); see") as lost:
        next(found)
    assert lost.value.retryable
    with pytest.raises(ValueError, match="another"):
        list(watched(failing(ValueError("another matter")), GPU, lambda _: False))


def test_a_process_that_lost_its_gpu_goes_on_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = str(checkpoint.shipped_weights())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[str] = []
    load = checkpoint.load

    def loading(path: object, device: str) -> object:
        asked.append(device)
        return load(path, "cpu")

    monkeypatch.setattr(checkpoint, "load", loading)
    before = load_model(weights, "digest", Device.AUTO)
    assert load_model(weights, "digest", Device.AUTO) is before and asked == ["cuda"]
    with caplog.at_level(logging.WARNING), pytest.raises(DeviceLost), without_a_lost_gpu():
        raise DeviceLost("The GPU cuda:0 no longer answers.")
    assert "goes on with the CPU" in caplog.text
    assert load_model(weights, "digest", Device.AUTO) is not before and asked == ["cuda", "cpu"]
    with pytest.raises(InvalidSettings, match="stopped answering"):
        load_model(weights, "digest", Device.CUDA)


def test_other_errors_leave_the_gpu_in_use() -> None:
    with pytest.raises(RuntimeError), without_a_lost_gpu():
        raise RuntimeError("disk")
    assert not loaded._GPU_LOST.is_set()
