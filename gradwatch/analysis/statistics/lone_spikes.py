"""Steps whose norm is far above that of their neighbours."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array

NOTED_RATIO = 7.0  # times its neighbours: a lone step that is reported
TOLD_RATIO = 2.0  # the same at a step of which an event tells
WINDOW = 33  # steps
LEAST_BEFORE, LEAST_AFTER = 5, 3  # norms on a side of one of the first ones whose median tells the level there
AT_ONCE = 16_384  # steps, which fit into a processor's cache
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
    is_told = np.isin(steps, list(told))
    early = len(norms) if len(norms) < WINDOW else WINDOW // 2
    ratios = {i: _ratio_to_both_sides(norms, i) for i in range(1, early)}
    if len(norms) >= WINDOW:
        ratios |= _ratios_of_late(norms, is_told)
    return [(int(steps[i]), ratio) for i, ratio in ratios.items() if ratio >= _limit(is_told[i])]


def _limit(is_told: np.bool_) -> float:
    return TOLD_RATIO if is_told else NOTED_RATIO


def _ratio_to_both_sides(norms: Array, place: int) -> float:
    """A norm of the first ones, or of few, over the higher of the medians before and after it.

    The first steps settle: their norms are the initialisation's, and a norm as large as theirs does not stand out.
    Where fewer than five are before it, it has to stand out from each of these.
    """
    before, after = norms[max(0, place - WINDOW // 2) : place], norms[place + 1 : place + 1 + WINDOW // 2]
    level = float(np.median(before) if len(before) >= LEAST_BEFORE else before.max())
    if len(after) >= LEAST_AFTER:
        level = max(level, float(np.median(after)))
    elif len(before) < LEAST_BEFORE:
        return 0.0  # too few on both sides to tell
    return float(norms[place]) / level


def _ratios_of_late(norms: Array, is_told: NDArray[np.bool_]) -> dict[int, float]:
    """The ratio of each step past the first ones that may stand out, by its place."""
    padded = np.pad(norms, WINDOW // 2, mode="reflect")
    possible = np.concatenate(
        [
            begin + _that_may_stand_out(padded[begin:], is_told[begin : begin + AT_ONCE])
            for begin in range(0, len(norms), AT_ONCE)
        ]
    )
    possible = possible[possible >= WINDOW // 2]
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    ratios = norms[possible] / np.median(windows[possible], axis=1)
    return dict(zip(possible.tolist(), ratios.tolist(), strict=True))


def _that_may_stand_out(padded: Array, is_told: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Of the first steps of padded norms those that are far above the least of their window.

    No median is below that: most steps of a long run need none.
    """
    padded = padded[: len(is_told) + WINDOW - 1]
    norms = padded[WINDOW // 2 : WINDOW // 2 + len(is_told)]
    least, width = padded, 1
    while width < WINDOW:  # the least of twice as many steps, from two windows beside one another
        more = min(width, WINDOW - width)
        least, width = np.minimum(least[:-more], least[more:]), width + more
    is_possible = (norms >= ROUNDING * NOTED_RATIO * least) | (is_told & (norms >= ROUNDING * TOLD_RATIO * least))
    return np.flatnonzero(is_possible)
