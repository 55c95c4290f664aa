"""Champion and challenger restore the same hidden ground, and are compared block by block with what was there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.inference.engine import restore
from de_model.inference.sampling import Sampling
from de_model.metrics.bootstrap import Bootstrap, Interval, difference_interval
from flows.errors import InvalidSettings
from flows.models.block_gains import BlockGain, block_gains
from flows.models.contestant import Answer, Contestant, Entrant, Scorecard
from flows.models.evaluation_cases import index_on
from flows.models.product_evaluation import fullest_window
from flows.models.training_pairs import cloudy_and_clear
from flows.progress import tell
from flows.restoration import intervals_of
from stac.assembly import ModelResult, assemble
from stac.masks.classes import is_obscured, is_observed
from stac.preview import visual
from stac.reflectance import to_product_dn
from stac.stack import Stack


@dataclass(frozen=True, slots=True)
class Contest:
    """Two models on the same blocks."""

    champion: Contestant
    challenger: Contestant
    #: PSNR of the challenger above that of the champion over the same blocks, dB; paired bootstrap, 95 %.
    gain: Interval
    #: SHA-256 over the cases: equal for contests that can be compared.
    cases: str = ""

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        gain = self.gain
        return f"PSNR {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) dB over {gain.images} blocks"

    @property
    def time_ratio(self) -> float:
        """Time of the challenger over that of the champion."""
        return self.challenger.seconds / self.champion.seconds


@dataclass(frozen=True, slots=True)
class Case:
    """A cloudy date, and the clear dates near it that say what is hidden."""

    stack: Stack
    #: Index of the cloudy date, and of the clear ones; the models never see these.
    target: int
    truths: tuple[int, ...]


def cases_on(stacks: Iterable[Stack], targets: Sequence[date], truths: Sequence[date]) -> Iterator[Case]:
    """Yield the cases of given days.

    Raises:
        InvalidSettings: a stack has no such day.
    """
    for stack in stacks:
        for day in targets:
            yield Case(stack, index_on(stack, day), tuple(index_on(stack, truth) for truth in truths))


def cases_found(stacks: Iterable[Stack]) -> Iterator[Case]:
    """Yield a case for every cloudy date of the stacks that has clear ones beside it."""
    for stack in stacks:
        cloudy, clear = cloudy_and_clear(stack)
        if clear:
            yield from (Case(stack, target, tuple(clear)) for target in cloudy)


def windowed(cases: Iterable[Case], side: int) -> Iterator[Case]:
    """Yield the cases cut to the window of `side` pixels in which the most hidden ground is known."""
    for case in cases:
        seen = np.logical_or.reduce([is_observed(case.stack.classes[truth]) for truth in case.truths])
        at = fullest_window(is_obscured(case.stack.classes[case.target]) & seen, side)
        yield replace(case, stack=case.stack.window(*at))


def compare(
    champion: Entrant,
    challenger: Entrant,
    cases: Iterable[Case],
    sampling: Callable[[ModelCard], Sampling],
    show: Callable[[str, NDArray[np.uint8]], None] | None = None,
) -> Contest:
    """Return how two models do without other dates: only what the model itself restores is compared.

    Args:
        champion: the model that makes mosaics.
        challenger: a model of the same bands.
        cases: ground that neither model was trained on.
        sampling: how a model restores.
        show: given a name and a picture `(3, y, x)` per case: cloudy, champion, challenger, truth.

    Raises:
        InvalidSettings: the models restore different bands.
        InvalidCheckpoint: a file is no model.
    """
    entrants = (champion, challenger)
    models = _loaded(entrants)
    cards = (Scorecard(), Scorecard())
    gains: list[BlockGain] = []
    digest = hashlib.sha256()
    for case in cases:
        stack, target = case.stack, case.target
        tell(f"{stack.item_ids[target]}: champion and challenger")
        answers = [_answer(m, e, stack, target, sampling(m.card)) for m, e in zip(models, entrants, strict=True)]
        for card, answer in zip(cards, answers, strict=True):
            card.answered(answer)
        for truth in case.truths:
            digest.update(stack.dn[target].tobytes() + stack.dn[truth].tobytes())
            gains += _compared(cards, answers, stack, target, truth, show)
    before, after = [g.reference_psnr for g in gains], [g.psnr for g in gains]
    old = cards[0].result(champion.weights, _mean(before))
    new = cards[1].result(challenger.weights, _mean(after))
    return Contest(old, new, difference_interval(after, before, Bootstrap()), digest.hexdigest())


def _loaded(entrants: Sequence[Entrant]) -> list[Enhancer]:
    models = [checkpoint.load(entrant.weights) for entrant in entrants]
    if models[0].card.bands != models[1].card.bands:
        ours, theirs = (", ".join(model.card.bands) for model in models)
        raise InvalidSettings(f"The champion restores {ours}, the challenger {theirs}: they cannot be compared.")
    return models


def _mean(psnr: Sequence[float]) -> float:
    return float(np.mean(psnr)) if len(psnr) else 0.0


def _answer(model: Enhancer, entrant: Entrant, stack: Stack, target: int, sampling: Sampling) -> Answer:
    """Return what a model makes of the target, as a product of its own."""
    scene, classes = stack.reflectance(target), stack.classes[target]
    began = time.monotonic()
    found = restore(model, scene, is_obscured(classes), sampling, origin=stack.cell.origin)
    seconds = time.monotonic() - began
    result = ModelResult(found.image, found.reference_weight, found.spread)
    layers = assemble(stack, target, None, result, intervals=intervals_of(entrant.calibration))
    changed = (layers.data != stack.dn[target]).any(axis=0) & is_observed(classes)
    return Answer(found.image, layers.uncertainty, int(changed.sum()), seconds)


def _compared(
    cards: Sequence[Scorecard],
    answers: Sequence[Answer],
    stack: Stack,
    target: int,
    truth: int,
    show: Callable[[str, NDArray[np.uint8]], None] | None,
) -> list[BlockGain]:
    """Count both answers against one truth; return the gains of the challenger, block by block."""
    seen = is_observed(stack.classes[truth])
    where = is_obscured(stack.classes[target]) & seen
    for answer in answers:
        where &= np.isfinite(answer.image).all(axis=0)
    if not where.any():
        return []
    expected = stack.reflectance(truth)
    at = fullest_window(where)
    for card, answer in zip(cards, answers, strict=True):
        card.compared(answer, stack, target, expected, where)
        if seen[at].all() and np.isfinite(answer.image[:, *at]).all():
            card.seen_whole(answer.image[:, *at], expected[:, *at], stack.bands)
    images = [answer.image for answer in answers]
    if show is not None:
        name = f"{stack.item_ids[target]}-against-{stack.item_ids[truth]}"
        parts = [image[:, *at] for image in (stack.reflectance(target), *images, expected)]
        show(name, np.concatenate([visual(to_product_dn(part), stack.bands) for part in parts], axis=2))
    champion, challenger = images
    return list(block_gains(challenger, champion, expected, where, seen, stack.bands))
