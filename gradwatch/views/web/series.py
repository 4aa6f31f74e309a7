"""What changes from step to step of a run, at any zoom: the least and the largest of every few steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.summary import Series

BANDS = ("total_norm", "left_norm", "max_norm", "clip_coef", "loss", "learning_rate")


def at_zoom(series: Series, first: float, last: float, columns: int) -> dict[str, NDArray[np.generic]]:
    """The steps from ``first`` to ``last`` in one to two times ``columns``; each step, where there are fewer.

    Every column joins as many steps; ``first`` and ``last`` tell which. Of each of `BANDS` it has the
    least and the largest finite value (NaN where there is none), ``.low`` and ``.high``; of the total
    norm also the step of the largest, ``total_norm.at``. ``nonfinite`` and ``loss.bad`` tell at how many
    of its steps the gradient and the loss were not finite, ``infinite`` at how many the total norm was
    infinite. ``clipped`` is the share of the steps clipped in a window that ends with the column and is
    a hundredth of the steps shown, or the column where that is longer.

    >>> from gradwatch.analysis.run import Run
    >>> shown = at_zoom(Run(example_run).summary().series, 0, 399, 100)
    >>> len(shown["first"]), int(shown["first"][1]), int(shown["last"][1]), float(shown["total_norm.high"][0])
    (200, 2, 3, 1.0)
    """
    begin = int(np.searchsorted(series.step, first))
    end = int(np.searchsorted(series.step, last, side="right"))
    block = 1
    while end - begin > 2 * columns * block:
        block *= 2
    begin -= begin % block
    end = min(len(series.step), -(-end // block) * block)
    shown: dict[str, NDArray[np.generic]] = {}
    starts = np.arange(begin, end, block)
    shown["first"] = series.step[starts]
    shown["last"] = series.step[np.minimum(starts + block, end) - 1] if len(starts) else series.step[:0]
    for name in BANDS:
        table = _blocks(getattr(series, name)[begin:end], block)
        shown[f"{name}.low"], shown[f"{name}.high"] = _ends(table)
    norms = np.nan_to_num(_blocks(series.total_norm[begin:end], block), nan=-1.0, posinf=-1.0, neginf=-1.0)
    shown["total_norm.at"] = series.step[np.minimum(starts + norms.argmax(axis=1), end - 1)] if len(starts) else starts
    shown["clipped"] = _share(series.clipped, np.minimum(starts + block, end), max(block, (end - begin) // 100))
    shown["infinite"] = np.nansum(_blocks(np.isinf(series.total_norm[begin:end]).astype(float), block), axis=1)
    shown["nonfinite"] = np.nansum(_blocks(series.nonfinite[begin:end].astype(float), block), axis=1)
    shown["loss.bad"] = np.nansum(_blocks(series.loss_nonfinite[begin:end].astype(float), block), axis=1)
    return shown


def _blocks(values: Array, block: int) -> Array:
    """As rows of ``block`` values, the last filled up with NaN."""
    rows = -(-len(values) // block)
    table = np.full(rows * block, np.nan)
    table[: len(values)] = values
    return table.reshape(rows, block)


def _share(flags: NDArray[np.bool_], ends: NDArray[np.int64], window: int) -> Array:
    """The share of flags set among the ``window`` before each end, fewer at the beginning."""
    counts = np.concatenate([[0], np.cumsum(flags)])
    begins = np.maximum(ends - window, 0)
    share: Array = (counts[ends] - counts[begins]) / np.maximum(ends - begins, 1)
    return share


def _ends(table: Array) -> tuple[Array, Array]:
    finite = np.isfinite(table)
    none = ~finite.any(axis=1)
    low, high = np.where(finite, table, np.inf).min(axis=1), np.where(finite, table, -np.inf).max(axis=1)
    low[none] = high[none] = np.nan
    return low, high
