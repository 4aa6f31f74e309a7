"""Quantiles, and reductions over stretches of steps that keep every spike."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def quantile(ordered: NDArray[np.floating[Any]], share: float) -> float | None:
    """A quantile of sorted numbers, with linear interpolation as in `numpy.quantile`; None of no numbers.

    >>> quantile(np.array([1.0, 2.0, 4.0]), 0.75)
    3.0
    """
    if not len(ordered):
        return None
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    below, above = float(ordered[low]), float(ordered[high])
    return below + (above - below) * (position - low)


def chosen_of(values: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[Any]:
    """``values[chosen]``, without a copy where the chosen ones are consecutive, as in a long run without a fault.

    >>> values = np.arange(5)
    >>> chosen_of(values, np.array([False, True, True, True, False])).base is values
    True
    """
    first = int(chosen.argmax()) if len(chosen) else 0
    end = len(chosen) - int(chosen[::-1].argmax()) if len(chosen) else 0
    return values[first:end] if chosen[first:end].all() else values[chosen]


def column_medians(table: Array) -> Array:
    """The median of the known numbers in each column; NaN of a column without any.

    >>> column_medians(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [2.0, nan]
    """
    known = ~np.isnan(table).all(axis=0)
    medians = np.full(table.shape[1], np.nan)
    medians[known] = np.nanmedian(table[:, known], axis=0)
    return medians


def spike_safe(values: Array, bins: int) -> Array:
    """The largest finite value of each of ``bins`` stretches, (bins,); NaN for a stretch without one.

    Every value falls into a stretch, so a spike of a single step cannot disappear.

    >>> spike_safe(np.array([1.0, 9.0, 1.0, np.nan]), 2).tolist()
    [9.0, 1.0]
    """
    if not len(values):
        return np.full(0, np.nan)
    filled = np.where(np.isfinite(values), values, -np.inf)
    found = np.maximum.reduceat(filled, _stretch_starts(len(values), bins))
    return np.where(found == -np.inf, np.nan, found)


def any_in(flags: NDArray[np.bool_], bins: int) -> NDArray[np.bool_]:
    """Whether any flag is set in each of the stretches of `spike_safe`, (bins,).

    >>> any_in(np.array([False, False, True, False]), 2).tolist()
    [False, True]
    """
    return np.logical_or.reduceat(flags, _stretch_starts(len(flags), bins)) if len(flags) else flags


def _stretch_starts(length: int, bins: int) -> NDArray[np.intp]:
    bins = min(bins, length)
    return (np.arange(bins) * length // bins).astype(np.intp)
