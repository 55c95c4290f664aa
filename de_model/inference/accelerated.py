"""The model as an `Acceleration` wants it, made once."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from de_model.enhancer import Enhancer
from de_model.inference import winograd
from de_model.inference.acceleration import DEFAULT, Acceleration
from de_model.inference.compiling import CompiledUNet
from de_model.precision import Precision

_log = logging.getLogger(__name__)
_MADE: WeakKeyDictionary[Enhancer, dict[Acceleration, Enhancer]] = WeakKeyDictionary()


def accelerated(enhancer: Enhancer, acceleration: Acceleration) -> Enhancer:
    """Return the model with layout, convolutions and compilation as wanted; itself where nothing is.

    A changed model is made at the first call and kept as long as `enhancer`, which stays as it is. Precision, the
    steps of weight allocation and graphs of a whole walk are a matter of each walk, not of the model.
    """
    if acceleration.cuda_graph and next(enhancer.parameters()).device.type != "cuda":
        _say_no_gpu()
    # How networks are compiled depends on whether the walk around them is recorded (`CompiledUNet`).
    graph = acceleration.compiled and acceleration.cuda_graph
    wanted = replace(acceleration, precision=Precision.FP32, allocation_every=1, cuda_graph=graph)
    if wanted == DEFAULT:
        return enhancer
    made = _MADE.setdefault(enhancer, {})
    if wanted not in made:
        made[wanted] = _make(enhancer, wanted)
    return made[wanted]


@lru_cache(maxsize=1)
def _say_no_gpu() -> None:
    _log.warning("A CUDA graph needs a GPU; walks are made step by step.")


def _make(enhancer: Enhancer, wanted: Acceleration) -> Enhancer:
    by_winograd = wanted.winograd and _can_winograd(enhancer)
    # NNPACK reads channels outermost.
    innermost = wanted.channels_last and not by_winograd
    shared: dict[int, Any] = {id(p): p for p in enhancer.parameters()} if innermost else {}
    made = deepcopy(enhancer, shared)
    if not innermost:
        for parameter in made.parameters():
            parameter.data = parameter.data.contiguous()
    networks = (made.predictor, made.allocation)
    if by_winograd:
        for network in (*networks, made.reference):
            winograd.put_in(network)
    if wanted.compiled:
        for network in networks:
            network.add_module("net", CompiledUNet(network.net, recorded=wanted.cuda_graph))
    return made


def _can_winograd(enhancer: Enhancer) -> bool:
    if next(enhancer.parameters()).device.type == "cpu" and winograd.available():
        return True
    _log.warning("Winograd's algorithm needs a CPU that NNPACK knows; convolutions are made as usual.")
    return False
