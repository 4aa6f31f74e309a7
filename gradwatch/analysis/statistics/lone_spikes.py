"""Steps whose norm is far above that of their neighbours."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array

NOTED_RATIO = 7.0  # times its neighbours: a lone step that is reported
TOLD_RATIO = 2.0  # the same at a step of which an event tells
WINDOW = 33  # steps


def lone_spikes(steps: NDArray[np.int64], norms: Array, told: Collection[int] = ()) -> list[tuple[int, float]]:
    """Step and ratio to its neighbours of each step that stands out, by an event or by its size alone.

    Args:
        steps: numbers of the steps whose norm is known and not 0, (steps,).
        norms: their norms, (steps,).
        told: steps of which an event tells that they stand out.

    >>> norms = np.ones(60)
    >>> norms[40] = 9.0
    >>> lone_spikes(np.arange(60), norms)
    [(40, 9.0)]
    """
    if len(norms) < WINDOW:
        return []
    limit = np.where(np.isin(steps, list(told)), TOLD_RATIO, NOTED_RATIO)
    # The first steps settle: a large norm there is the initialisation's.
    late = np.arange(len(norms)) >= WINDOW // 2
    # No median is below the least of its window: most steps of a long run need none.
    possible = np.flatnonzero(late & (norms / limit >= _least_neighbours(norms)))
    ratio = norms[possible] / _neighbours(norms, possible)
    found = ratio >= limit[possible]
    return [(int(steps[i]), float(r)) for i, r in zip(possible[found], ratio[found], strict=True)]


def _least_neighbours(values: Array) -> Array:
    """The least of the steps around each one, (steps,)."""
    padded = np.pad(values, WINDOW // 2, mode="reflect")
    least = padded
    for shift in range(1, WINDOW):
        least = np.minimum(least[: len(values)], padded[shift : shift + len(values)])
    return least


def _neighbours(values: Array, chosen: NDArray[np.intp]) -> Array:
    """The median of the steps around each chosen one, (chosen,)."""
    padded = np.pad(values, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    medians: Array = np.median(windows[chosen], axis=1)
    return medians
