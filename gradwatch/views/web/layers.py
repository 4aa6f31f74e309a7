"""One statistic of every parameter over a run, answered at any zoom without holding it whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.run import Run
from gradwatch.record import Floats
from gradwatch.views.web.pyramid import ABSENT, FACTOR, NOT_FINITE, Pyramid, coded

AT_ONCE = 2_000_000  # entries read from the store at a time
MOST = 32_000_000  # entries of a pyramid's lowest level; a longer run has a coarser one
SAMPLE = 2048  # rows that a median is taken over, at least, where there are so many
COUNTED_BY = {"norm": "nonfinite", "abs_max": "nonfinite", "rank_norm": "rank_nonfinite"}
"""What tells a NaN that was measured from nothing, by statistic."""
GAP = 1000  # ids; rows further apart are not read together

Ids = NDArray[np.int64]


class LayerHistory:
    """The values of a statistic as `coded`, at the rows that no later attempt replaced, by step.

    ``ids`` and ``steps`` tell the rows, ``high`` and ``high_at`` each parameter's largest finite
    value and its step (`ABSENT` and -1 where there is none), ``bad`` at how many rows it was not finite.
    """

    def __init__(self, stat: str, optimizer: str, parameters: int) -> None:
        self.stat, self.optimizer, self.parameters = stat, optimizer, parameters
        self._begin(0)

    def _begin(self, rows: int) -> None:
        base = FACTOR
        while rows * self.parameters > MOST * base:
            base *= FACTOR
        self.ids, self.steps = np.empty(0, np.int64), np.empty(0, np.int64)
        self.pyramid = Pyramid(self.parameters, base, rows)
        self.high = np.full(self.parameters, ABSENT, np.float32)
        self.high_at = np.full(self.parameters, -1, np.int64)
        self.bad = np.zeros(self.parameters, np.int64)
        self._seen = np.empty(0, np.int64)
        self._every = 1
        self._sample: list[Floats] = []

    def update(self, run: Run, standing: Ids) -> None:
        """Read the rows that are new; all of them again where a later attempt replaced some.

        ``standing`` is the run's, for the optimizer.
        """
        ids, steps = standing[:, 0], standing[:, 1]
        if not len(self._seen) or not np.array_equal(ids[: len(self._seen)], self._seen):
            self._begin(len(ids))
        new = slice(len(self._seen), None)
        for begin, end in _together(ids[new], max(64, AT_ONCE // max(1, self.parameters))):
            at = slice(len(self._seen) + begin, len(self._seen) + end)
            self._take_in(*self._read(run, ids[at], steps[at]))
        self._seen = ids

    def _read(self, run: Run, ids: Ids, steps: Ids) -> tuple[Ids, Ids, Floats]:
        """Those of the rows that have the statistic; ids ascend."""
        after, up_to = int(ids[0]) - 1, int(ids[-1])
        found, values = run.layer_rows(self.stat, self.optimizer, after=after, up_to=up_to)
        values = values if values.shape[1] == self.parameters else _widened(values, self.parameters)
        counts = None
        if self.stat in COUNTED_BY and np.isnan(values).any():
            keys, table = run.layer_rows(COUNTED_BY[self.stat], self.optimizer, after=after, up_to=up_to)
            counts = _widened(table, self.parameters) if np.array_equal(keys, found) else None
        values = coded(values, counts)
        kept = np.isin(found, ids)
        found, values = found[kept], values[kept]
        return found, steps[np.searchsorted(ids, found)], values

    def _take_in(self, ids: Ids, steps: Ids, values: Floats) -> None:
        if not len(ids):
            return
        finite = np.where(values == NOT_FINITE, np.float32(ABSENT), values)
        at = finite.argmax(axis=0)
        highest = finite[at, np.arange(self.parameters)]
        higher = highest > self.high
        self.high[higher], self.high_at[higher] = highest[higher], steps[at[higher]]
        self.bad += (values == NOT_FINITE).sum(axis=0)
        first = -len(self.ids) % self._every
        self._sample.extend(finite[first :: self._every].copy())  # a view would keep all that was read
        while len(self._sample) >= 2 * SAMPLE:
            self._sample, self._every = self._sample[::2], 2 * self._every
        self.pyramid.extend(values)
        self.ids, self.steps = np.concatenate([self.ids, ids]), np.concatenate([self.steps, steps])

    @property
    def sampled(self) -> int:
        """Of how many rows one is in `level`."""
        return self._every

    def level(self) -> Floats:
        """Each parameter's median over its finite values, of one row in `sampled`; NaN where there is none."""
        if not self._sample:
            return np.full(self.parameters, np.nan, np.float32)
        table = np.stack(self._sample)
        table[table == ABSENT] = np.nan
        ordered = np.sort(table, axis=0)  # NaN comes last
        counts = (~np.isnan(ordered)).sum(axis=0)
        middle = np.maximum(counts - 1, 0) / 2
        columns = np.arange(self.parameters)
        low, high = ordered[np.floor(middle).astype(int), columns], ordered[np.ceil(middle).astype(int), columns]
        level: Floats = ((low + high) / 2).astype(np.float32)
        return level

    def tile(self, run: Run, first: float, last: float, columns: int) -> tuple[Ids, Ids, Floats, int]:
        """The steps from ``first`` to ``last`` in half to twice as many columns, or each step where there are fewer.

        Returns the first and the last step of each column, the largest value of each parameter in
        it, (columns, parameters), and how many rows a column joins.
        """
        begin = int(np.searchsorted(self.steps, first))
        end = int(np.searchsorted(self.steps, last, side="right"))
        block = self.pyramid.block(end - begin, columns)
        if begin >= end:
            return self.steps[:0], self.steps[:0], np.empty((0, self.parameters), np.float32), 1
        if block == 1:
            ids, steps = self.ids[begin:end], self.steps[begin:end]
            read = [self._read(run, ids[a:b], steps[a:b]) for a, b in _together(ids, len(ids))]
            shown = np.concatenate([steps for _, steps, _ in read])
            return shown, shown, np.concatenate([values for _, _, values in read]), 1
        start, values = self.pyramid.read(block, begin, end)
        starts = np.arange(start, start + len(values)) * block
        ends = np.minimum(starts + block, len(self.steps)) - 1
        return self.steps[starts], self.steps[ends], values, block


def _together(ids: Ids, most: int) -> Iterator[tuple[int, int]]:
    """Stretches of rows that lie together in the store, of ``most`` rows.

    >>> list(_together(np.array([1, 2, 3, 9000, 9001, 4]), 2))
    [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    apart = np.diff(ids)
    cuts = [0, *(np.flatnonzero((apart < 0) | (apart > GAP)) + 1).tolist(), len(ids)]
    for begin, end in pairwise(cuts):
        for at in range(begin, end, most):
            yield at, min(at + most, end)


def _widened(table: Floats, columns: int) -> Floats:
    """With NaN where the run has parameters by now that this table lacks."""
    wide = np.full((len(table), columns), np.nan, np.float32)
    wide[:, : table.shape[1]] = table[:, :columns]
    return wide
