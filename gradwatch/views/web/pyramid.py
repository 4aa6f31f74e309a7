"""The largest of every few rows, of every few of those, and so on: no zoom hides a single step."""

from __future__ import annotations

import numpy as np

from gradwatch.record import Floats

ABSENT = -1.0
"""Stands for a parameter without a gradient; every statistic is 0 at least."""

NOT_FINITE = np.inf
"""Stands for a gradient with NaN or infinity in it, and is larger than everything."""

FACTOR = 4
FEW = 256  # rows; a level of so many has none above it


class Pyramid:
    """Levels of maxima over a table that grows by rows; level 0 has one row for ``base`` of the table's.

    The table itself is not kept. Room is made for ``expected`` rows at once; there may be more.

    >>> pyramid = Pyramid(columns=1)
    >>> pyramid.extend(np.array([[1], [9], [1], [1], [2]], np.float32))
    >>> first, rows = pyramid.read(4, 0, 5)
    >>> first, rows.ravel().tolist()
    (0, [9.0, 2.0])
    """

    def __init__(self, columns: int, base: int = FACTOR, expected: int = 0) -> None:
        self.base = base
        self._expected = expected
        self.rows = 0
        self._columns = columns
        self._levels: list[Floats] = []  # with room to grow
        self._used: list[int] = []

    @property
    def nbytes(self) -> int:
        return sum(4 * used * self._columns for used in self._used)

    def extend(self, rows: Floats) -> None:
        """Take in further rows of the table, (rows, columns), without NaN."""
        if not len(rows):
            return
        block, within = divmod(self.rows, self.base)
        head = rows[: self.base - within] if within else rows[:0]
        pooled = pool(rows[len(head) :], self.base)
        if within:
            joined = np.maximum(self._levels[0][block], head.max(axis=0))
            pooled = np.concatenate([joined[None], pooled])
        self.rows += len(rows)
        self._put(0, block, pooled)
        level = 0
        while self._used[level] > FEW or level + 1 < len(self._levels):
            begin = block // FACTOR if level + 1 < len(self._levels) else 0
            self._put(level + 1, begin, pool(self._levels[level][begin * FACTOR : self._used[level]], FACTOR))
            block, level = begin, level + 1

    def block(self, rows: int, columns: int) -> int:
        """How many rows to join so that ``rows`` become at most twice ``columns``, and half of them at least; 1: none.

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
        """The maxima over blocks of ``block`` rows that hold the rows from ``first`` to before ``last``.

        With the number of the first block. ``block`` is one that `block` gives, and not 1.
        """
        begin, end = first // block, -(-last // block)
        level, size = 0, self.base
        while size < block and level + 1 < len(self._levels):
            level, size = level + 1, size * FACTOR
        many = block // size
        return begin, pool(self._levels[level][: self._used[level]][begin * many : end * many], many)

    def _put(self, level: int, begin: int, rows: Floats) -> None:
        if level == len(self._levels):
            self._levels.append(np.empty((0, self._columns), np.float32))
            self._used.append(0)
        end = begin + len(rows)
        if end > len(self._levels[level]):
            room = self._expected // (self.base * FACTOR**level) + 1
            grown = np.empty((max(end, room, 5 * len(self._levels[level]) // 4), self._columns), np.float32)
            grown[: self._used[level]] = self._levels[level][: self._used[level]]
            self._levels[level] = grown
        self._levels[level][begin:end] = rows
        self._used[level] = end


def pool(rows: Floats, size: int) -> Floats:
    """The largest of each ``size`` rows, the last ones perhaps fewer.

    >>> pool(np.array([[1], [3], [2]], np.float32), 2).ravel().tolist()
    [3.0, 2.0]
    """
    if size == 1:
        return rows
    whole = len(rows) // size * size
    pooled: Floats = rows[:whole].reshape(-1, size, rows.shape[1]).max(axis=1)
    if whole == len(rows):
        return pooled
    return np.concatenate([pooled, rows[whole:].max(axis=0)[None]])


def coded(values: Floats, nonfinite: Floats | None) -> Floats:
    """The values with what is not a number told apart: `NOT_FINITE`, or `ABSENT` where there was no gradient.

    ``nonfinite`` counts a gradient's entries that are not finite, NaN where there is none; None: not known,
    and then NaN is taken for an absent gradient.

    >>> coded(np.array([1, np.nan, np.nan], np.float32), np.array([0, 2, np.nan], np.float32)).tolist()
    [1.0, inf, -1.0]
    """
    code: Floats = np.where(np.isnan(values), np.float32(ABSENT), values)
    if nonfinite is not None:
        code[nonfinite > 0] = NOT_FINITE
    return code
