"""Evaluation: the truth date is withheld from everything that is compared with it."""

from __future__ import annotations

import dataclasses
from datetime import date

import numpy as np
import pytest

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.inference.sampling import Sampling
from de_model.presets import Preset
from flows.errors import InvalidSettings
from flows.models import evaluation
from flows.models.evaluation import evaluate_cell, index_on, mean_scores
from flows.restoration_options import RestorationOptions
from stac.grid import cell_of
from stac.query import Query
from stac.sample_catalog import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from stac.sources import open_source
from stac.stack import Stack, read_stack

TARGET, TRUTH = date(2023, 8, 18), date(2023, 8, 15)
BANDS = ("blue", "green", "red", "nir")


@pytest.fixture(scope="module")
def stack() -> Stack:
    items = open_source(str(sample_catalog())).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    chosen = [item for item in items if "33TWM" in item.id]
    return read_stack(chosen, cell_of(chosen[0], "blue", (15.43, 46.52, 15.50, 46.56)), BANDS)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    import torch

    torch.manual_seed(0)
    card = ModelCard(
        preset=Preset.TINY, bands=BANDS, gsd_m=120.0, trained_on="", data_fingerprint="", revision="", training="{}"
    )
    return Enhancer(card).eval()


OPTIONS = RestorationOptions(Sampling(seed=0, samples=2, steps=2, eta=0.3, tile=32, overlap=8, batch=4))


def candidates(stack: Stack, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Every image that is compared with the truth, as the evaluation makes it."""
    seen: dict[str, np.ndarray] = {}
    score = evaluation._score

    def keep(*arguments):  # type: ignore[no-untyped-def]
        seen.update({str(name): image.copy() for name, image in arguments[3].items()})
        return score(*arguments)

    monkeypatch.setattr(evaluation, "_score", keep)
    assert len(list(evaluate_cell(stack, [TARGET], [TRUTH], enhancer, OPTIONS, OPTIONS.sampling))) == 1
    monkeypatch.undo()
    return seen


def test_no_candidate_knows_the_truth(stack: Stack, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = candidates(stack, enhancer, monkeypatch)
    truth = index_on(stack, TRUTH)
    dn, classes = stack.dn.copy(), stack.classes.copy()
    dn[truth] = np.random.default_rng(1).integers(1, 9000, dn[truth].shape)
    classes[truth] = 1
    after = candidates(dataclasses.replace(stack, dn=dn, classes=classes), enhancer, monkeypatch)
    assert len(before) == 7
    for name, image in before.items():
        np.testing.assert_array_equal(image, after[name], err_msg=name)


def test_other_dates_and_the_target_do_change_the_product(
    stack: Stack, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = candidates(stack, enhancer, monkeypatch)
    for day in (date(2023, 8, 13), TARGET):
        dn = stack.dn.copy()
        dn[index_on(stack, day)] //= 2
        after = candidates(dataclasses.replace(stack, dn=np.maximum(dn, 1)), enhancer, monkeypatch)
        assert not np.array_equal(before["product"], after["product"], equal_nan=True)


def test_the_truth_scores_perfectly_against_itself_and_only_where_it_was_seen(
    stack: Stack, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, truth = index_on(stack, TARGET), index_on(stack, TRUTH)
    image = stack.reflectance(truth)
    images = dict.fromkeys(evaluation.Candidate, image)
    result = evaluation._score(stack, target, truth, images)
    assert {scores.mae for scores in result.scores.values()} == {0.0}
    hidden, seen = np.isin(stack.classes[target], (2, 3, 4)), np.isin(stack.classes[truth], (1, 5))
    assert result.share == pytest.approx(float((hidden & seen).mean()))


def test_a_day_without_an_acquisition_is_named(stack: Stack) -> None:
    with pytest.raises(InvalidSettings, match="2023-08-16"):
        index_on(stack, date(2023, 8, 16))


def test_the_mean_of_psnr_is_that_of_the_squared_errors(stack: Stack, enhancer: Enhancer) -> None:
    (case,) = evaluate_cell(stack, [TARGET], [TRUTH], enhancer, OPTIONS, OPTIONS.sampling)
    worse = {name: dataclasses.replace(s, psnr=s.psnr - 20) for name, s in case.scores.items()}
    means = mean_scores([case, dataclasses.replace(case, scores=worse)])
    for name, scores in case.scores.items():
        assert means[name].psnr == pytest.approx(scores.psnr - 10 * np.log10((1 + 100) / 2), abs=1e-6)
        assert means[name].pixels == 2 * scores.pixels
