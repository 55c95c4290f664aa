"""Tiny tensors: more threads than one only wait for each other, for minutes on a busy machine."""

from __future__ import annotations

import pytest
import torch

from de_model.enhancer import Enhancer
from tests.unit.de_model.tiny_model import tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    return tiny_model()
