"""Walking a batch of tiles with a model: step by step, or launched whole where that was asked for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from threading import Lock
from weakref import WeakKeyDictionary

import torch

from de_model.enhancer import Condition, Enhancer
from de_model.inference.conditioning import BoundEstimator
from de_model.inference.recording import RecordedWalk, Recorder, on_gpu
from de_model.inference.sampling import Sampling
from de_model.samplers.family import sampler_of
from de_model.samplers.walk import NoiseSource, Sample, Start, Walk

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The last recorded walk of a model; each holds the memory of a whole batch, so there is one."""

    sampling: Sampling
    walk: RecordedWalk


_KEPT: WeakKeyDictionary[Enhancer, _Kept] = WeakKeyDictionary()
#: Models and samplings whose walk could not be recorded.
_REFUSED: WeakKeyDictionary[Enhancer, set[Sampling]] = WeakKeyDictionary()
#: Between the copies into a walk's buffers and those out of them nobody else may launch it.
_ONE_AT_A_TIME = Lock()


def walk(enhancer: Enhancer, sampling: Sampling, condition: Condition, noise: NoiseSource) -> Sample:
    """Return the end of a walk, every step launched by itself.

    Args:
        enhancer: the model.
        sampling: sampler, steps, start, eta, precision and the steps of weight allocation.
        condition: of all images of the batch.
        noise: likewise.
    """
    start = None if sampling.start is None else Start(sampling.start, condition.reference)
    plan = Walk(enhancer.schedule, sampling.steps, noise, start)
    estimator = BoundEstimator(enhancer, condition, sampling.eta, sampling.steps, sampling.acceleration)
    return sampler_of(sampling.sampler)(estimator, plan)


def walk_whole(
    enhancer: Enhancer, sampling: Sampling, condition: Condition, noise: NoiseSource, record: Recorder = on_gpu
) -> Sample:
    """Return what `walk` does, launched as one CUDA graph; step by step where it cannot be recorded.

    The first walk of a shape is recorded, which takes as long as a few walks.

    Raises:
        torch.OutOfMemoryError: the graph does not fit into memory.
    """
    what = _of_the_walk(sampling)
    with _ONE_AT_A_TIME:
        if what in _REFUSED.get(enhancer, ()):
            return walk(enhancer, sampling, condition, noise)
        kept = _KEPT.get(enhancer)
        if kept is None or kept.sampling != what or not kept.walk.suits(condition):
            # What a graph holds is given back before the next one is made.
            _KEPT.pop(enhancer, None)
            kept = _recorded(enhancer, what, condition, noise, record)
        return walk(enhancer, sampling, condition, noise) if kept is None else kept.walk(condition, noise)


def _of_the_walk(sampling: Sampling) -> Sampling:
    """Return the sampling without what a walk does not depend on, so that equal walks are recorded once."""
    plain = Sampling()
    return replace(
        sampling, seed=plain.seed, samples=plain.samples, tile=plain.tile, overlap=plain.overlap, batch=plain.batch
    )


def _recorded(
    enhancer: Enhancer, sampling: Sampling, condition: Condition, noise: NoiseSource, record: Recorder
) -> _Kept | None:
    """Record a walk and keep it; None, and said once, where that fails."""
    try:
        made = RecordedWalk(partial(walk, enhancer, sampling), condition, noise, record)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _REFUSED.setdefault(enhancer, set()).add(sampling)
        _say(str(error).partition("\n")[0])
        return None
    _KEPT[enhancer] = kept = _Kept(sampling, made)
    return kept


@lru_cache(maxsize=1)
def _say(reason: str) -> None:
    _log.warning("The walk cannot be one CUDA graph (%s); its steps are launched one by one.", reason)
