"""How heavy the tail of the norms is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def tail_index(norms: NDArray[np.float64], share: float = 0.05, window: int = 257) -> tuple[float, float, float]:
    """Hill's estimate of the tail index of the norms about their moving median, with a 95 % interval.

    ``1 / alpha = mean(ln(X_i / X_(k+1)))`` over the k largest, k being ``share`` of them and at
    least 10 (Hill 1975); the interval is ``alpha (1 +- 1.96 / sqrt(k))``. An index under 2 means
    that the variance is infinite. Norms are correlated, so the true interval is wider.

    >>> exact = np.random.default_rng(0).pareto(3.0, 20000) + 1
    >>> index, low, high = tail_index(exact, window=1)
    >>> low < 3.0 < high
    True
    """
    ordered = np.sort(detrended(norms, window))[::-1]
    k = max(10, int(share * len(ordered)))
    excess = float(np.mean(ordered[:k]) - ordered[k])
    index = 1 / max(excess, 1e-9)
    half = 1.96 * index / math.sqrt(k)
    return index, max(index - half, 0.0), index + half


def detrended(norms: NDArray[np.float64], window: int = 257) -> NDArray[np.float64]:
    """The logarithms of the norms about their moving median.

    >>> detrended(np.array([1.0, 1.0, np.e])).round(3).tolist()
    [0.0, 0.0, 1.0]
    """
    logs = pd.Series(np.log(norms))
    moving = logs.rolling(window, center=True, min_periods=1).median() if window > 1 else 0.0
    return np.asarray(logs - moving, dtype=np.float64)
