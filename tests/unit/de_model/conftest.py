"""Tiny tensors: more threads than one only wait for each other, for minutes on a busy machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
