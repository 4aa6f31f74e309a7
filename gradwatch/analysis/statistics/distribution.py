"""How the norms of many steps are distributed, in bins that keep each within a percent of its value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.store.sketch import ACCURACY, bins_of, middles

__all__ = ["ACCURACY", "Distribution", "distribution"]

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distribution:
    """How many steps of each span have which norm.

    Attributes:
        first, last: the steps of each span, (spans,).
        unknown: steps of each span whose norm is NaN, infinite or not recorded, (spans,).
        zeros: steps of each span whose norm is 0, (spans,).
        norms: the value that stands for each bin, within `ACCURACY` of every norm in it, ascending, (bins,).
        counts: steps in each bin, (spans, bins).
    """

    first: Counts
    last: Counts
    unknown: Counts
    zeros: Counts
    norms: Array
    counts: Counts


def distribution(steps: Counts, norms: Array, first: float, last: float, spans: int = 1) -> Distribution:
    """Count the norms of the steps from ``first`` to ``last``, in at most ``spans`` spans of equally many steps.

    Args:
        steps: ascending, (n,).
        norms: not negative where they are finite, (n,).
        first: the first step counted.
        last: the last step counted.
        spans: of the steps.

    >>> found = distribution(np.arange(4), np.array([1.0, 1.0, 0.0, np.nan]), 0, 3)
    >>> found.norms.round(1).tolist(), found.counts.tolist(), found.zeros.tolist(), found.unknown.tolist()
    ([1.0], [[2]], [1], [1])
    """
    begin = int(np.searchsorted(steps, first))
    size = max(0, int(np.searchsorted(steps, last, side="right")) - begin)
    spans = min(spans, size)
    cuts = begin + np.arange(spans + 1) * size // max(1, spans)
    values = norms[begin : begin + size]
    span = np.repeat(np.arange(spans), np.diff(cuts))
    finite, positive = np.isfinite(values), np.isfinite(values) & (values > 0)
    bins = bins_of(values[positive])
    low = int(bins.min(initial=0))
    width = int(bins.max(initial=low)) - low + 1
    table = np.bincount(span[positive] * width + bins - low, minlength=spans * width).reshape(spans, width)
    used = np.flatnonzero(table.any(axis=0))
    return Distribution(
        first=steps[cuts[:-1]],
        last=steps[cuts[1:] - 1],
        unknown=np.bincount(span[~finite], minlength=spans),
        zeros=np.bincount(span[finite & ~positive], minlength=spans),
        norms=middles(used + low),
        counts=table[:, used],
    )
