"""Steps as points of a scatter plot: a bounded sample that keeps the extremes, and counts of what can't be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.series import Series

QUANTITIES = ("total_norm", "loss", "learning_rate", "update_ratio", "update_norm", "clip_coef")
"""Fields of `Series` that can be drawn against one another."""

MIN_POINTS = 4 * len(QUANTITIES)  # room for the extremes of one block, and as many steps again

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scatter:
    """Steps with the values of all quantities, and how many steps of each span can't be drawn.

    Attributes:
        step: the steps sampled, ascending, (points,).
        values: of each quantity at these steps, NaN where it is unknown or NaN, (points, quantities).
        first, last: the steps of each span, (spans,).
        steps: how many steps each span has, (spans,).
        nan, infinite, unknown: steps of each span at which a quantity is NaN, infinite or not recorded,
            (spans, quantities).
        left_out: steps of each span at which one of two quantities is not finite, (spans, quantities, quantities).
    """

    step: Counts
    values: Array
    first: Counts
    last: Counts
    steps: Counts
    nan: Counts
    infinite: Counts
    unknown: Counts
    left_out: Counts


def scatter(series: Series, first: float, last: float, points: int, spans: int = 1) -> Scatter:
    """Sample the steps from ``first`` to ``last``, and count those that have no finite value.

    All steps are kept if there are at most ``points``. Of more, half of the points are evenly spaced, and half are
    the steps at which a quantity is the least or the largest of a block of steps; so the least and the largest
    finite value of each quantity are always among them. Steps at which every quantity is unknown take no room.

    Args:
        series: of one optimizer.
        first: the first step sampled.
        last: the last step sampled.
        points: at most as many; `MIN_POINTS` or more.
        spans: in how many spans of equally many steps the rest is counted.

    >>> from gradwatch.analysis.run import Run
    >>> found = scatter(Run(example_run).summary().series, 0, 399, 100)
    >>> len(found.step) <= 100, int(found.steps[0]), found.values.shape[1]
    (True, 400, 6)
    """
    begin = int(np.searchsorted(series.step, first))
    end = max(begin, int(np.searchsorted(series.step, last, side="right")))
    steps = series.step[begin:end]
    columns = [getattr(series, name)[begin:end] for name in QUANTITIES]
    kept = _sample(columns, max(MIN_POINTS, points))
    spans = min(spans, len(steps))
    cuts = np.arange(spans + 1) * len(steps) // max(1, spans)
    told = {"total_norm": series.nonfinite[begin:end], "loss": series.loss_nonfinite[begin:end]}
    nan = [np.isnan(values) & told.get(name, False) for name, values in zip(QUANTITIES, columns, strict=True)]
    infinite = [np.isinf(values) for values in columns]
    bad = [~np.isfinite(values) for values in columns]
    counted = {name: _totals(flags, cuts) for name, flags in (("nan", nan), ("infinite", infinite), ("bad", bad))}
    return Scatter(
        step=steps[kept],
        values=np.stack([values[kept] for values in columns], axis=1),
        first=steps[cuts[:-1]],
        last=steps[cuts[1:] - 1],
        steps=np.diff(cuts),
        nan=counted["nan"],
        infinite=counted["infinite"],
        unknown=counted["bad"] - counted["nan"] - counted["infinite"],
        left_out=_pairs(bad, cuts),
    )


def _sample(columns: Sequence[Array], points: int) -> Counts:
    """Positions of at most ``points`` steps, ascending."""
    size = len(columns[0])
    if size <= points:
        return np.arange(size)
    spaced = np.linspace(0, size - 1, points // 2).round().astype(np.int64)
    recorded = [values for values in columns if np.isfinite(values).any()]
    blocks = max(1, (points - len(spaced)) // max(1, 2 * len(recorded)))
    block = -(-size // blocks)
    found = [spaced]
    for values in recorded:
        padded = np.full(-(-size // block) * block, np.nan)
        padded[:size] = values
        rows = padded.reshape(-1, block)
        known = np.isfinite(rows)
        some = np.flatnonzero(known.any(axis=1))
        least, largest = np.where(known, rows, np.inf).argmin(axis=1), np.where(known, rows, -np.inf).argmax(axis=1)
        found += [some * block + least[some], some * block + largest[some]]
    return np.unique(np.concatenate(found))


def _totals(flags: Sequence[NDArray[np.bool_]], cuts: Counts) -> Counts:
    """How many flags of each quantity are set between two cuts each, (spans, quantities)."""
    if len(cuts) < 2:  # no step
        return np.zeros((0, len(flags)), np.int64)
    return np.stack([np.add.reduceat(one, cuts[:-1], dtype=np.int64) for one in flags], axis=1)


def _pairs(bad: Sequence[NDArray[np.bool_]], cuts: Counts) -> Counts:
    """How many steps between two cuts are bad in one of two quantities, (spans, quantities, quantities)."""
    spans, quantities = len(cuts) - 1, len(bad)
    code = np.zeros(len(bad[0]), np.int64)  # a bit for each quantity
    for bit, flags in enumerate(bad):
        code |= flags.astype(np.int64) << bit
    span = np.repeat(np.arange(spans), np.diff(cuts))
    table = np.bincount(span * 2**quantities + code, minlength=spans * 2**quantities).reshape(spans, 2**quantities)
    bits = 1 << np.arange(quantities)
    either = bits[:, None] | bits[None, :]
    hit = (np.arange(2**quantities)[:, None, None] & either) != 0
    pairs: Counts = np.tensordot(table, hit.astype(np.int64), axes=1)
    return pairs
