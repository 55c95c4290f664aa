"""Fitting the calibration of intervals on cases whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.calibration import CalibrationTable, Origin, conformal_factor
from de_model.validation import KindCode
from flows.errors import InvalidSettings
from flows.models.evaluation import Filled, fill_case
from flows.models.evaluation_cases import Case
from flows.processing.model import in_products
from flows.progress import report_progress
from stac.composite.normalisation import repeatability

FloatArray = NDArray[np.float32]

#: Scores kept of a case: every case counts alike, however many pixels it hides.
_MOST_SCORES = 4000


def fit_calibration(
    weights: Path, cases: Sequence[Case], fitted_on: str, known: CalibrationTable | None = None
) -> CalibrationTable:
    """Return the factors per band that make intervals of products hold the truth in 90 % of the values of the cases.

    Args:
        weights: the model.
        cases: of `cases_of`: with other dates and alone, on ground that nothing is trained on or judged by.
        fitted_on: the cases, for people.
        known: a table whose factors are taken over for origins that no case has.

    Raises:
        InvalidSettings: the cases hide no pixel.
    """
    enhancer = checkpoint.load(weights)
    options = in_products(enhancer.card)
    scores: dict[Origin, list[FloatArray]] = {origin: [] for origin in Origin}
    for done, case in enumerate(cases):
        report_progress("calibrating", done, len(cases))
        for origin, found in _scores(fill_case(case, enhancer, options)).items():
            scores[origin].append(found)
    joined = {origin: np.concatenate(found, axis=1) for origin, found in scores.items() if found}
    factors = {} if known is None else dict(known.factors)
    factors |= {
        origin: tuple(conformal_factor(band) for band in found) for origin, found in joined.items() if found.size
    }
    missing = [str(origin) for origin in Origin if origin not in factors]
    if missing:
        raise InvalidSettings(
            f"The cases hide no pixel from {missing[0]} that could be calibrated; name cloudier dates with --datetime."
        )
    return CalibrationTable(checkpoint.sha256_of(weights), enhancer.card.bands, factors, fitted_on)


def _scores(filled: Filled) -> dict[Origin, FloatArray]:
    """Return |estimate - truth| / standard deviation by origin, `(band, pixel)`."""
    case, dates = filled.case, filled.kinds == KindCode.OTHER_DATES
    gap = (filled.kinds != 0) & ~dates
    found: dict[Origin, FloatArray] = {}
    if filled.composite is not None:
        found[Origin.OTHER_DATES] = _some(filled.composite.reflectance, filled.composite.spread, case, dates)
    if filled.answer is not None:
        scale = np.hypot(filled.answer.spread, repeatability(filled.answer.image))
        found[Origin.MODEL] = _some(filled.answer.image, scale, case, gap)
    if filled.around is not None:
        scale = np.hypot(filled.around.spread, repeatability(filled.around.image))
        found[Origin.SURROUNDINGS] = _some(filled.around.image, scale, case, gap)
    return found


def _some(image: FloatArray, scale: FloatArray, case: Case, where: NDArray[np.bool_]) -> FloatArray:
    """Return the scores of at most so many pixels, spread evenly."""
    at = where & case.where & np.isfinite(image).all(axis=0) & np.isfinite(case.truth).all(axis=0)
    scores: FloatArray = np.abs(image - case.truth)[:, at] / scale[:, at]
    return scores[:, :: max(1, scores.shape[1] // _MOST_SCORES)]
