"""The values of each step at any zoom: the smallest and the largest of every few steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.summary import Series

BANDS = ("total_norm", "left_norm", "max_norm", "clip_coef", "loss", "learning_rate")
"""The series whose columns hold the smallest and the largest value."""

RECORDED_BANDS = ("update_norm", "update_ratio", "loss_scale")
"""Such series that not every run records; without a value they are left out."""

_CLIPPED_WINDOWS = 100  # the share of clipped steps is taken over a hundredth of the steps shown


def at_zoom(
    series: Series, first: float, last: float, columns: int, more: Mapping[str, Array] | None = None
) -> dict[str, NDArray[np.generic]]:
    """The steps from ``first`` to ``last`` in one to two times as many columns as asked for.

    Every column joins the same number of steps, a power of two. If there are fewer steps than columns,
    each has its own. ``more`` are further series of the same steps; one without a value is left out.

    Returns:
        Arrays with one entry a column:

        - ``first``, ``last``: the steps that it joins.
        - of each of `BANDS` and `RECORDED_BANDS`, ``.low`` and ``.high``: the smallest and the largest finite
          value, or NaN.
        - ``total_norm.at``: the step of the largest total norm.
        - ``nonfinite``, ``infinite``, ``loss.bad``: at how many steps the gradient was not finite, the
          total norm was infinite, the loss was not finite.
        - ``clipped``: the share of steps clipped in a window that ends with the column. The window is a
          hundredth of the steps shown, or the column if that is longer.

    >>> from gradwatch.analysis.run import Run
    >>> shown = at_zoom(Run(example_run).summary().series, 0, 399, 100)
    >>> len(shown["first"]), int(shown["first"][1]), int(shown["last"][1]), float(shown["total_norm.high"][0])
    (200, 2, 3, 1.0)
    """
    begin = int(np.searchsorted(series.step, first))
    end = int(np.searchsorted(series.step, last, side="right"))
    size = 1
    while end - begin > 2 * columns * size:
        size *= 2
    begin -= begin % size
    end = min(len(series.step), -(-end // size) * size)
    starts = np.arange(begin, end, size)
    ends = np.minimum(starts + size, end)
    shown: dict[str, NDArray[np.generic]] = {"first": series.step[starts], "last": series.step[ends - 1]}
    optional = {name: getattr(series, name) for name in RECORDED_BANDS} | dict(more or {})
    recorded = {name: values for name, values in optional.items() if not np.isnan(values).all()}
    for name, values in ({name: getattr(series, name) for name in BANDS} | recorded).items():
        shown[f"{name}.low"], shown[f"{name}.high"] = _extremes(_blocks(values[begin:end], size))
    norms = _blocks(series.total_norm[begin:end], size)
    largest = np.where(np.isfinite(norms), norms, -1.0).argmax(axis=1) if len(starts) else starts
    shown["total_norm.at"] = series.step[np.minimum(starts + largest, end - 1)]
    shown["clipped"] = _share_before(series.clipped, ends, max(size, (end - begin) // _CLIPPED_WINDOWS))
    for name, flags in (
        ("infinite", np.isinf(series.total_norm)),
        ("nonfinite", series.nonfinite),
        ("loss.bad", series.loss_nonfinite),
    ):
        shown[name] = np.nansum(_blocks(flags[begin:end].astype(float), size), axis=1)
    return shown


def _blocks(values: Array, size: int) -> Array:
    """The values in rows of ``size``, the last row filled up with NaN."""
    rows = -(-len(values) // size)
    table = np.full(rows * size, np.nan)
    table[: len(values)] = values
    return table.reshape(rows, size)


def _share_before(flags: NDArray[np.bool_], ends: NDArray[np.int64], window: int) -> Array:
    """The share of flags set among the ``window`` before each end; among fewer at the beginning."""
    counts = np.concatenate([[0], np.cumsum(flags)])
    begins = np.maximum(ends - window, 0)
    share: Array = (counts[ends] - counts[begins]) / np.maximum(ends - begins, 1)
    return share


def _extremes(table: Array) -> tuple[Array, Array]:
    """The smallest and the largest finite value of each row, or NaN."""
    finite = np.isfinite(table)
    none = ~finite.any(axis=1)
    low, high = np.where(finite, table, np.inf).min(axis=1), np.where(finite, table, -np.inf).max(axis=1)
    low[none] = high[none] = np.nan
    return low, high
