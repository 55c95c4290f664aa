"""How far apart two distributions are. Shares are `(..., bin)`: many pairs are compared at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Share that an empty bin counts as: the index has no value for none at all.
_LEAST_SHARE = 1e-4


def population_stability_index(now: Array, before: Array) -> Array:
    """Return sum((now - before) ln(now / before)) over bins.

    The symmetric Kullback-Leibler divergence (Jeffreys 1946), known as population stability index in credit scoring
    (Siddiqi 2006): below 0.1 nothing moved, above 0.25 much did.

    Args:
        now: shares `(..., bin)`.
        before: shares `(..., bin)`.
    """
    one, other = _without_zeros(now), _without_zeros(before)
    return np.asarray(((one - other) * np.log(one / other)).sum(axis=-1))


def wasserstein(now: Array, before: Array, centres: Array) -> Array:
    """Return the mean way that values move, in their own unit: the area between the cumulative shares.

    Args:
        now: shares `(..., bin)`.
        before: shares `(..., bin)`.
        centres: value of every bin `(bin,)`, rising.
    """
    gaps = np.abs(np.cumsum(now - before, axis=-1))[..., :-1]
    return np.asarray((gaps * np.diff(centres)).sum(axis=-1))


def kolmogorov_smirnov(now: Array, before: Array) -> Array:
    """Return the largest difference of cumulative shares at the edges of the bins, 0..1."""
    return np.asarray(np.abs(np.cumsum(now - before, axis=-1)).max(axis=-1))


def total_variation(now: Array, before: Array) -> Array:
    """Return the share that would have to change its class, 0..1; for classes without an order."""
    return np.asarray(np.abs(now - before).sum(axis=-1) / 2)


def _without_zeros(shares: Array) -> Array:
    raised = np.maximum(shares, _LEAST_SHARE)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
