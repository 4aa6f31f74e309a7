"""Where the axes of a terminal and of a notebook end."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.statistics.quantiles import Array

MOST_MEDIANS = 100.0


def end_of_axis(positive: Array) -> float:
    """Where the logarithmic axis of some values above 0 ends, so that one explosion does not flatten the rest.

    That is 100 times their median, or their 95th percentile if it is higher.

    >>> end_of_axis(np.array([1.0] * 99 + [1e20]))
    100.0
    """
    median, p95 = (float(value) for value in np.quantile(positive, [0.5, 0.95]))
    return max(MOST_MEDIANS * median, p95)
