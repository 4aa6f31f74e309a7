"""Steps whose norm is far above that of their neighbours."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array

NOTED_RATIO = 7.0  # times its neighbours: a lone step that is reported
TOLD_RATIO = 2.0  # the same at a step of which an event tells
WINDOW = 33  # steps
ROUNDING = 1 - 1e-9  # lets no step pass by that is rounded to its limit


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
    is_told = np.isin(steps, list(told))
    # No median is below the least of its window: most steps of a long run need none.
    least = _least_neighbours(norms)
    is_possible = (norms >= ROUNDING * NOTED_RATIO * least) | (is_told & (norms >= ROUNDING * TOLD_RATIO * least))
    is_possible[: WINDOW // 2] = False  # the first steps settle: a large norm there is the initialisation's
    possible = np.flatnonzero(is_possible)
    ratio = norms[possible] / _neighbours(norms, possible)
    found = ratio >= np.where(is_told[possible], TOLD_RATIO, NOTED_RATIO)
    return [(int(steps[i]), float(r)) for i, r in zip(possible[found], ratio[found], strict=True)]


def _least_neighbours(values: Array) -> Array:
    """The least of the steps around each one, (steps,)."""
    padded = np.pad(values, WINDOW // 2, mode="reflect")
    least, width = padded, 1
    while width < WINDOW:  # the least of twice as many steps, from two windows beside one another
        more = min(width, WINDOW - width)
        least, width = np.minimum(least[:-more], least[more:]), width + more
    return least


def _neighbours(values: Array, chosen: NDArray[np.intp]) -> Array:
    """The median of the steps around each chosen one, (chosen,)."""
    padded = np.pad(values, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    medians: Array = np.median(windows[chosen], axis=1)
    return medians
