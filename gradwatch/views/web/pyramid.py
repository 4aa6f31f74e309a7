"""Maxima of blocks of rows at several sizes, so that a table can be read at any zoom and no single step is lost."""

from __future__ import annotations

import numpy as np

from gradwatch.record import Floats
from gradwatch.store.layer_digests import ABSENT, NOT_FINITE, encode

__all__ = ["ABSENT", "FACTOR", "NOT_FINITE", "Pyramid", "block_maxima", "encode"]

FACTOR = 4  # rows of a level that one row of the next level joins
TOP_LEVEL_ROWS = 256  # a level with more rows has a level above it


class Pyramid:
    """Levels of maxima over a table that grows by rows. The table itself is not kept.

    Level 0 has one row for every ``base`` rows of the table, each further level one for `FACTOR` rows
    of the level below.

    Args:
        columns: of the table.
        base: rows of the table in a row of level 0; a power of `FACTOR`.
        expected: rows of the table to allocate for. There may be more.

    >>> pyramid = Pyramid(columns=1)
    >>> pyramid.extend(np.array([[1], [9], [1], [1], [2]], np.float32))
    >>> first, rows = pyramid.read(4, 0, 5)
    >>> first, rows.ravel().tolist()
    (0, [9.0, 2.0])
    """

    def __init__(self, columns: int, base: int = FACTOR, expected: int = 0) -> None:
        self.base = base
        self.rows = 0
        self._columns = columns
        self._expected = expected
        self._levels: list[Floats] = []  # allocated, of which `_used` rows are filled
        self._used: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(4 * used * self._columns for used in self._used)

    def extend(self, rows: Floats) -> None:
        """Append rows to the table: (rows, columns), without NaN."""
        if not len(rows):
            return
        block, within = divmod(self.rows, self.base)
        head = rows[: self.base - within] if within else rows[:0]
        maxima = block_maxima(rows[len(head) :], self.base)
        if within:
            completed = np.maximum(self._levels[0][block], head.max(axis=0))
            maxima = np.concatenate([completed[None], maxima])
        self.rows += len(rows)
        self._put(0, block, maxima)
        level = 0
        while self._used[level] > TOP_LEVEL_ROWS or level + 1 < len(self._levels):
            begin = block // FACTOR if level + 1 < len(self._levels) else 0
            below = self._levels[level][begin * FACTOR : self._used[level]]
            self._put(level + 1, begin, block_maxima(below, FACTOR))
            block, level = begin, level + 1

    def block(self, rows: int, columns: int) -> int:
        """The number of rows to join such that ``rows`` become half to twice as many as ``columns``; 1 joins none.

        >>> [Pyramid(1).block(rows, 100) for rows in (200, 201, 900, 10**6)]
        [1, 4, 16, 16384]
        """
        if rows <= 2 * columns:
            return 1
        size = self.base
        while rows > 2 * columns * size:
            size *= FACTOR
        return size

    def read(self, block: int, first: int, last: int) -> tuple[int, Floats]:
        """The maxima of the blocks that hold the rows from ``first`` to before ``last``.

        Args:
            block: rows of a block, as `block` gives it, except 1.
            first: the first row of the table.
            last: the row after the last.

        Returns:
            The number of the first block, and the maxima (blocks, columns).
        """
        begin, end = first // block, -(-last // block)
        level, size = 0, self.base
        while size < block and level + 1 < len(self._levels):
            level, size = level + 1, size * FACTOR
        ratio = block // size
        return begin, block_maxima(self._levels[level][: self._used[level]][begin * ratio : end * ratio], ratio)

    def _put(self, level: int, begin: int, rows: Floats) -> None:
        """Write rows into a level from ``begin`` on, and end the level there."""
        if level == len(self._levels):
            self._levels.append(np.empty((0, self._columns), np.float32))
            self._used.append(0)
        end = begin + len(rows)
        allocated = self._levels[level]
        if end > len(allocated):
            expected = self._expected // (self.base * FACTOR**level) + 1
            grown = np.empty((max(end, expected, 5 * len(allocated) // 4), self._columns), np.float32)
            grown[: self._used[level]] = allocated[: self._used[level]]
            self._levels[level] = grown
        self._levels[level][begin:end] = rows
        self._used[level] = end


def block_maxima(rows: Floats, size: int) -> Floats:
    """The maximum of each ``size`` rows, column by column; the last block may be shorter.

    >>> block_maxima(np.array([[1], [3], [2]], np.float32), 2).ravel().tolist()
    [3.0, 2.0]
    """
    if size == 1:
        return rows
    whole = len(rows) // size * size
    maxima: Floats = rows[:whole].reshape(-1, size, rows.shape[1]).max(axis=1)
    if whole == len(rows):
        return maxima
    return np.concatenate([maxima, rows[whole:].max(axis=0)[None]])
