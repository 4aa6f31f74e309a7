"""Median, 99th percentile and maximum of a series of norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import chosen_of, quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSummary:
    """Statistics of the finite norms of a run; None where no norm is finite."""

    median: float | None
    p99: float | None
    max: float | None
    max_step: int | None
    last: float | None  # of the last step, NaN and infinity included


def norm_summary(values: NDArray[np.floating[Any]], step: NDArray[np.int64]) -> NormSummary:
    """Summarize norms, (steps,), at these step numbers, (steps,).

    >>> norm_summary(np.array([1.0, 5.0, np.nan]), np.array([0, 1, 2]))
    NormSummary(median=3.0, p99=4.96, max=5.0, max_step=1, last=nan)
    """
    finite = np.isfinite(values)
    ordered = np.sort(chosen_of(values, finite))
    largest = int(np.argmax(values if finite.all() else np.where(finite, values, -np.inf))) if finite.any() else None
    return NormSummary(
        median=quantile(ordered, 0.5),
        p99=quantile(ordered, 0.99),
        max=None if largest is None else float(values[largest]),
        max_step=None if largest is None else int(step[largest]),
        last=float(values[-1]),
    )
