"""Fitting the calibration of intervals on cases whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from de_model.calibration import CalibrationTable, Origin, conformal_factor
from de_model.enhancer import Enhancer
from de_model.inference.sampling import Sampling
from flows.errors import InvalidSettings
from flows.models.evaluation_cases import Case
from flows.models.product_evaluation import fullest_window, model_alone
from flows.restoration_options import RestorationOptions
from stac.assembly import Intervals
from stac.priors import fit_prior
from stac.reflectance import to_reflectance

FloatArray = NDArray[np.float32]

#: Scores kept of a case: every case counts alike, however many pixels it hides.
_MOST_SCORES = 4000


def fit_calibration(
    cases: Sequence[Case],
    enhancer: Enhancer,
    options: RestorationOptions,
    single: Sampling,
    sha256: str,
    fitted_on: str,
    tell: Callable[[str, int, int], None],
    known: CalibrationTable | None = None,
) -> CalibrationTable:
    """Return the factors per band that make intervals hold the truth in 90 % of the values of the cases.

    Args:
        cases: with all dates as source, both protocols, on ground that nothing is judged on.
        enhancer: the model.
        options: how the product is made.
        single: how the model restores whole clouds; these are what is scored, as gaps are too few, but in the walk of
            `options`, whose spread is what products scale.
        sha256: of the model's weights.
        fitted_on: the cases, for people.
        tell: told of progress.
        known: a table made with the same options, whose factors for pixels from other dates are taken over: they do
            not depend on the model.

    Raises:
        InvalidSettings: the cases hide no pixel.
    """
    walk = replace(options.sampling, tile=single.tile, overlap=single.overlap)
    origins = list(Origin) if known is None else [Origin.MODEL]
    scores: dict[Origin, list[FloatArray]] = {origin: [] for origin in origins}
    for done, case in enumerate(cases):
        tell("cases", done, len(cases))
        if known is None:
            scores[Origin.OTHER_DATES].append(_prior_scores(case, options))
        scores[Origin.MODEL].append(_model_scores(case, enhancer, options, walk))
    tell("cases", len(cases), len(cases))
    joined = {origin: np.concatenate(found, axis=1) for origin, found in scores.items() if found}
    if not joined or not all(found.size for found in joined.values()):
        raise InvalidSettings("The cases hide no pixel that could be calibrated; name cloudier dates with --target.")
    factors = {origin: tuple(conformal_factor(band) for band in found) for origin, found in joined.items()}
    taken_over = {} if known is None else {Origin.OTHER_DATES: known.factors[Origin.OTHER_DATES]}
    return CalibrationTable(sha256, enhancer.card.bands, taken_over | factors, fitted_on)


def _prior_scores(case: Case, options: RestorationOptions) -> FloatArray:
    fitted = fit_prior(options.prior, case.stack, case.target, max_days=options.prior_days)
    if fitted is None:
        return np.zeros((len(case.stack.bands), 0), np.float32)
    prior = fitted.apply(case.stack, case.target)
    where = case.where & (prior.source >= 0)
    return _some(np.abs(prior.reflectance - case.truth)[:, where] / prior.spread[:, where])


def _model_scores(case: Case, enhancer: Enhancer, options: RestorationOptions, walk: Sampling) -> FloatArray:
    """Return the scores of the model alone in the fullest window."""
    at = fullest_window(case.where)
    part = replace(case, stack=case.stack.window(*at), truth=case.truth[:, *at], where=case.where[at])
    # With factors of 1 the half-width is the scale.
    one = (1.0,) * len(part.stack.bands)
    _, layers = model_alone(part, enhancer, replace(options, intervals=Intervals(one, one)), walk)
    error = np.abs(to_reflectance(layers.data) - part.truth)
    return _some(error[:, part.where] / layers.uncertainty[:, part.where])


def _some(scores: FloatArray) -> FloatArray:
    """Return at most so many pixels, spread evenly."""
    step = max(1, scores.shape[1] // _MOST_SCORES)
    return scores[:, ::step]
