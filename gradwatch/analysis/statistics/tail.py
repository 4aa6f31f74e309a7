"""How heavy the tail of the norms is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from gradwatch.analysis.statistics.quantiles import Array

MOST_OF_TAIL = 262_144  # norms, of which thousands are in the tail


def tail_index(norms: Array, share: float = 0.05, window: int = 257) -> tuple[float, float, float]:
    """Hill's estimate of the tail index of the norms about their moving median: the index, and its 95% interval.

    ``1 / alpha = mean(ln(X_i / X_(k+1)))`` over the k largest, where k is ``share`` of them and at least 10
    (Hill 1975, "A simple general approach to inference about the tail of a distribution"); the interval is
    ``alpha (1 +- 1.96 / sqrt(k))``. An index under 2 means an infinite variance. Norms of neighbouring steps are
    correlated, so the true interval is wider. Of a long run `MOST_OF_TAIL` norms are taken.

    >>> exact = np.random.default_rng(0).pareto(3.0, 20000) + 1
    >>> index, low, high = tail_index(exact, window=1)
    >>> low < 3.0 < high
    True
    """
    ordered = np.sort(detrended_sample(norms, window, MOST_OF_TAIL))[::-1]
    k = max(10, int(share * len(ordered)))
    excess = float(np.mean(ordered[:k]) - ordered[k])
    index = 1 / max(excess, 1e-9)
    half = 1.96 * index / math.sqrt(k)
    return index, max(index - half, 0.0), index + half


LONG, STRETCHES = 200_000, 16
"""Norms from which on a run is sampled, in so many stretches."""


def detrended_sample(norms: Array, window: int = 257, most: int = 65_536) -> Array:
    """`detrended`, of a long run that of evenly spread stretches: 65,536 norms tell their scatter within 1%.

    >>> len(detrended_sample(np.ones(100_000))), len(detrended_sample(np.ones(1_000_000)))
    (100000, 65536)
    """
    if len(norms) <= max(LONG, most):
        return detrended(norms, window)
    length = most // STRETCHES
    starts = np.linspace(0, len(norms) - length, STRETCHES).astype(int)
    return np.concatenate([detrended(norms[start : start + length], window) for start in starts])


def detrended(norms: Array, window: int = 257) -> Array:
    """The logarithms of the norms less those of their moving median.

    >>> detrended(np.array([1.0, 1.0, np.e])).round(3).tolist()
    [0.0, 0.0, 1.0]
    """
    logs = pd.Series(np.log(norms))
    moving = logs.rolling(window, center=True, min_periods=1).median() if window > 1 else 0.0
    return np.asarray(logs - moving, dtype=np.float64)
