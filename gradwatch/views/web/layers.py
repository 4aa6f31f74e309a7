"""One statistic of every parameter over a run, at any zoom, without holding the whole table in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.history import rows_per_read
from gradwatch.analysis.long_runs import LongLayers
from gradwatch.analysis.run import Run
from gradwatch.record import Floats
from gradwatch.store.layer_digests import GROUP
from gradwatch.views.web.pyramid import ABSENT, FACTOR, NOT_FINITE, Pyramid, block_maxima, encode

MAX_BASE_ENTRIES = 32_000_000  # of a pyramid's lowest level; a longer run gets a coarser one
MIN_SAMPLE = 2048  # rows that a median is taken over, in a run that has as many
MAX_ID_GAP = 1000  # rows of the store; rows further apart are read separately
COUNTED_BY = {"norm": "nonfinite", "abs_max": "nonfinite", "rank_norm": "rank_nonfinite"}
"""The statistic that tells a NaN that was measured from a value that is absent, by statistic."""

Ids = NDArray[np.int64]


class LayerHistory:
    """The values of a statistic, coded as by `encode`, by step. Steps that a later attempt replaced are left out.

    Attributes:
        ids, steps: of the rows read so far.
        pyramid: their maxima.
        high, high_at: each parameter's largest finite value and its step; `ABSENT` and -1 if it has none.
        bad: for each parameter, the number of rows that are not finite.
    """

    def __init__(self, stat: str, optimizer: str, parameters: int) -> None:
        self.stat, self.optimizer, self.parameters = stat, optimizer, parameters
        self._reset(0)

    def _reset(self, rows: int) -> None:
        """Forget all rows and allocate for this many."""
        base = FACTOR
        while rows * self.parameters > MAX_BASE_ENTRIES * base:
            base *= FACTOR
        self.ids, self.steps = np.empty(0, np.int64), np.empty(0, np.int64)
        self.pyramid = Pyramid(self.parameters, base, rows)
        self.high = np.full(self.parameters, ABSENT, np.float32)
        self.high_at = np.full(self.parameters, -1, np.int64)
        self.bad = np.zeros(self.parameters, np.int64)
        self._seen = np.empty(0, np.int64)
        self._sample = _Sample(self.parameters)

    def update(self, run: Run, standing: Ids) -> None:
        """Read the rows that are new, or all of them if a later attempt replaced some.

        Args:
            run: the run that the earlier rows came from.
            standing: `Run.standing` of the optimizer.
        """
        ids, steps = standing[:, 0], standing[:, 1]
        if not len(self._seen) or not np.array_equal(ids[: len(self._seen)], self._seen):
            self._reset(len(ids))
        begin = len(self._seen)
        for first, last in _stretches(ids[begin:], rows_per_read(self.parameters)):
            part = slice(begin + first, begin + last)
            self._add(*self._read(run, ids[part], steps[part]))
        self._seen = ids

    def _read(self, run: Run, ids: Ids, steps: Ids) -> tuple[Ids, Ids, Floats]:
        """The ids, steps and coded values of those rows that have the statistic. The ids ascend."""
        after, up_to = int(ids[0]) - 1, int(ids[-1])
        found, values = run.layer_rows(self.stat, self.optimizer, after=after, up_to=up_to)
        values = _with_columns(values, self.parameters)
        counts = None
        if self.stat in COUNTED_BY and np.isnan(values).any():
            keys, table = run.layer_rows(COUNTED_BY[self.stat], self.optimizer, after=after, up_to=up_to)
            counts = _with_columns(table, self.parameters) if np.array_equal(keys, found) else None
        values = encode(values, counts)
        kept = np.isin(found, ids)
        found, values = found[kept], values[kept]
        return found, steps[np.searchsorted(ids, found)], values

    def _add(self, ids: Ids, steps: Ids, values: Floats) -> None:
        if not len(ids):
            return
        finite = np.where(values == NOT_FINITE, np.float32(ABSENT), values)
        at = finite.argmax(axis=0)
        highest = finite[at, np.arange(self.parameters)]
        higher = highest > self.high
        self.high[higher], self.high_at[higher] = highest[higher], steps[at[higher]]
        self.bad += (values == NOT_FINITE).sum(axis=0)
        self._sample.extend(finite)
        self.pyramid.extend(values)
        self.ids, self.steps = np.concatenate([self.ids, ids]), np.concatenate([self.steps, steps])

    def exact(self, run: Run, ids: Ids, steps: Ids) -> tuple[Ids, Ids, Floats, int]:
        """Every row of these, read from the run, as `tile` returns them."""
        if not len(ids):
            return steps, steps, np.empty((0, self.parameters), np.float32), 1
        read = [self._read(run, ids[a:b], steps[a:b]) for a, b in _stretches(ids, len(ids))]
        shown = np.concatenate([steps for _, steps, _ in read])
        return shown, shown, np.concatenate([values for _, _, values in read]), 1

    def maxima(self, run: Run, ids: Ids, steps: Ids) -> Floats:
        """The largest value of every `FACTOR` rows, read from the run; a row that is not there is `ABSENT`."""
        table = np.full((len(ids), self.parameters), np.float32(ABSENT))
        for first, last in _stretches(ids, rows_per_read(self.parameters)):
            found, _, values = self._read(run, ids[first:last], steps[first:last])
            table[first + np.searchsorted(ids[first:last], found)] = values
        return block_maxima(table, FACTOR)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self.pyramid.nbytes

    @property
    def sampled(self) -> int:
        """`level` is taken over every this many rows."""
        return self._sample.every

    def level(self) -> Floats:
        """Each parameter's median over its finite values, of one row in `sampled`; NaN if it has none."""
        return self._sample.median()

    def tile(self, run: Run, first: float, last: float, columns: int) -> tuple[Ids, Ids, Floats, int]:
        """The steps from ``first`` to ``last`` in half to twice as many columns as asked for.

        If there are fewer steps than columns, each has its own and is read from the run.

        Returns:
            The first step of each column; the last step of each; the largest value of each parameter in
            it (columns, parameters); the number of rows that a column joins.
        """
        begin = int(np.searchsorted(self.steps, first))
        end = int(np.searchsorted(self.steps, last, side="right"))
        if begin >= end:
            return self.steps[:0], self.steps[:0], np.empty((0, self.parameters), np.float32), 1
        block = self.pyramid.block(end - begin, columns)
        if block == 1:
            return self.exact(run, self.ids[begin:end], self.steps[begin:end])
        start, values = self.pyramid.read(block, begin, end)
        starts = np.arange(start, start + len(values)) * block
        ends = np.minimum(starts + block, len(self.steps)) - 1
        return self.steps[starts], self.steps[ends], values, block


class LongHistory:
    """As `LayerHistory`, of a long run: from the digests in its store.

    Wide zooms join groups of rows; narrow ones are read row by row. Those between are read from the run when they are
    first shown, and kept as maxima of `FACTOR` rows.
    """

    sampled = 1

    def __init__(self, stat: str, optimizer: str, long: LongLayers) -> None:
        self.stat, self.optimizer = stat, optimizer
        self._rows = LayerHistory(stat, optimizer, len(long.high))
        self._fine: dict[int, Floats] = {}  # maxima of `FACTOR` rows, by number of the chunk
        self.become(long)

    def become(self, long: LongLayers) -> None:
        """Show the digests of a run that has grown."""
        self.long, self._fine = long, {}
        self.ids, self.steps = long.ids, long.steps
        self.high, self.high_at, self.bad = long.high, long.high_at, long.bad

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(table.nbytes for table in (*self.long.maxima.values(), *self._fine.values()))

    def level(self) -> Floats:
        """Each parameter's median over its finite values, to `ACCURACY`; NaN if it has none."""
        return self.long.quantile(0.5).astype(np.float32)

    def tile(self, run: Run, first: float, last: float, columns: int) -> tuple[Ids, Ids, Floats, int]:
        """The steps from ``first`` to ``last``, as `LayerHistory.tile`; a column joins a whole number of groups."""
        begin = int(np.searchsorted(self.steps, first))
        end = int(np.searchsorted(self.steps, last, side="right"))
        block = Pyramid(0).block(end - begin, columns)
        if begin >= end or block == 1:
            return self._rows.exact(run, self.ids[begin:end], self.steps[begin:end])
        if block < GROUP:
            return self._between(run, begin, end, block)
        starts, values = self.long.starts, self.long.maxima[self.stat]
        low = max(0, int(np.searchsorted(starts, begin, side="right")) - 1)
        high = int(np.searchsorted(starts, end))
        chosen = np.arange(low, high, max(1, block // GROUP))
        joined = values[low:high]
        if block > GROUP:
            joined = np.maximum.reduceat(values[:high], chosen, axis=0)
        begins = starts[chosen]
        ends = np.append(begins[1:], starts[high] if high < len(starts) else len(self.steps)) - 1
        return self.steps[begins], self.steps[ends], joined, block

    def _between(self, run: Run, begin: int, end: int, block: int) -> tuple[Ids, Ids, Floats, int]:
        chunks = range(begin // _CHUNK, -(-end // _CHUNK))
        for chunk in chunks:
            if chunk not in self._fine:
                part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
                self._fine[chunk] = self._rows.maxima(run, self.ids[part], self.steps[part])
        while len(self._fine) > max(_MOST_CHUNKS, len(chunks)):
            del self._fine[next(iter(self._fine))]
        table = np.concatenate([self._fine[chunk] for chunk in chunks])
        offset = chunks[0] * _CHUNK
        first = (begin - offset) // block
        last = -(-(end - offset) // block)
        values = block_maxima(table, block // FACTOR)[first:last]
        starts = offset + np.arange(first, first + len(values)) * block
        ends = np.minimum(starts + block, len(self.steps)) - 1
        return self.steps[starts], self.steps[ends], values, block


def squared_shares(norms: Floats) -> Floats:
    """The share of each parameter in the sum of all squared norms of its step, (steps, parameters).

    `ABSENT` where a parameter has no gradient, and at steps of which a norm is not finite.

    >>> squared_shares(np.array([[3, 4, ABSENT], [1, NOT_FINITE, 1]], np.float32)).astype(float).round(2).tolist()
    [[0.36, 0.64, -1.0], [-1.0, -1.0, -1.0]]
    """
    squares = np.where(norms == ABSENT, 0.0, norms.astype(np.float64)) ** 2
    totals = squares.sum(axis=1, keepdims=True)
    known = (norms != ABSENT) & np.isfinite(totals) & (totals > 0)
    shares: Floats = np.where(known, squares / np.where(known, totals, 1.0), ABSENT).astype(np.float32)
    return shares


_CHUNK = 4096  # rows that are read together; a multiple of every block
_MOST_CHUNKS = 32  # kept


class _Sample:
    """Every n-th row of a growing table: n doubles whenever the sample holds twice `MIN_SAMPLE` rows."""

    def __init__(self, columns: int) -> None:
        self.every = 1
        self._columns = columns
        self._rows: list[Floats] = []
        self._seen = 0

    def extend(self, table: Floats) -> None:
        """Append rows (rows, columns); `ABSENT` stands for a value that is not known."""
        first = -self._seen % self.every
        self._rows.extend(table[first :: self.every].copy())  # a view would keep the whole table
        self._seen += len(table)
        while len(self._rows) >= 2 * MIN_SAMPLE:
            self._rows, self.every = self._rows[::2], 2 * self.every

    def median(self) -> Floats:
        """The median of each column over its known values; NaN if it has none."""
        if not self._rows:
            return np.full(self._columns, np.nan, np.float32)
        table = np.stack(self._rows)
        table[table == ABSENT] = np.nan
        ordered = np.sort(table, axis=0)  # NaN comes last
        counts = (~np.isnan(ordered)).sum(axis=0)
        middle = np.maximum(counts - 1, 0) / 2
        columns = np.arange(self._columns)
        low, high = ordered[np.floor(middle).astype(int), columns], ordered[np.ceil(middle).astype(int), columns]
        median: Floats = ((low + high) / 2).astype(np.float32)
        return median


def _stretches(ids: Ids, most: int) -> Iterator[tuple[int, int]]:
    """Begin and end of stretches of at most ``most`` rows that lie close together in the store.

    >>> list(_stretches(np.array([1, 2, 3, 9000, 9001, 4]), 2))
    [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    distances = np.diff(ids)
    cuts = [0, *(np.flatnonzero((distances < 0) | (distances > MAX_ID_GAP)) + 1).tolist(), len(ids)]
    for begin, end in pairwise(cuts):
        for at in range(begin, end, most):
            yield at, min(at + most, end)


def _with_columns(table: Floats, columns: int) -> Floats:
    """The table with NaN for parameters that it lacks: a run may get more parameters later."""
    if table.shape[1] == columns:
        return table
    wide = np.full((len(table), columns), np.nan, np.float32)
    wide[:, : table.shape[1]] = table[:, :columns]
    return wide
