"""The gradients of many rows of table ``layer``: the largest values of groups of rows, and a sketch of all norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Floats
from gradwatch.store.sketch import SLICE, Sketch, bins_of, key_of

GROUP = 64
"""Rows that share one largest value."""

ABSENT = -1.0
"""Code of a value that is not known, for example of a parameter without a gradient. Statistics are never negative."""

NOT_FINITE = np.inf
"""Code of a gradient that holds NaN or infinity. It is larger than every value."""

MAX_KEYS = 250_000
"""Norms of a slice that wait to be counted in bins."""


def encode(values: Floats, nonfinite: Floats | None) -> Floats:
    """Replace NaN by `NOT_FINITE` or `ABSENT`, so that maxima can be taken.

    Args:
        values: of a statistic, NaN where a gradient was absent or not finite.
        nonfinite: the gradient's entries that are not finite, NaN where there was no gradient. If it is
            None, the count is not known and NaN is taken for an absent gradient.

    >>> encode(np.array([1, np.nan, np.nan], np.float32), np.array([0, 2, np.nan], np.float32)).tolist()
    [1.0, inf, -1.0]
    """
    codes: Floats = np.where(np.isnan(values), np.float32(ABSENT), values)
    if nonfinite is not None:
        codes[nonfinite > 0] = NOT_FINITE
    return codes


def keys_of(codes: Floats) -> NDArray[np.int64]:
    """Parameter and bin of each finite norm as one number, of coded norms (rows, parameters)."""
    counted = (codes >= 0) & (codes != NOT_FINITE)
    parameters = np.broadcast_to(np.arange(codes.shape[1]), codes.shape)[counted]
    return key_of(parameters, bins_of(codes[counted]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDigest:
    """The gradients of rows in table ``layer``, coded as by `encode`.

    Attributes:
        rows: how many.
        maxima: by statistic, the largest of every `GROUP` rows, (groups, parameters).
        high: the largest finite norm of each parameter, (parameters,), `ABSENT` if it has none.
        high_row: the row of it, counted from 0; -1.
        bad: rows whose gradient is not finite, (parameters,).
        absent: rows without a gradient, (parameters,).
        zeros: the sum of entries that are exactly 0, (parameters,).
        zeros_known: rows with such a number, (parameters,).
        sketch: of the finite norms.
    """

    rows: int
    maxima: Mapping[str, Floats]
    high: Floats
    high_row: NDArray[np.int64]
    bad: NDArray[np.int64]
    absent: NDArray[np.int64]
    zeros: NDArray[np.float64]
    zeros_known: NDArray[np.int64]
    sketch: Sketch


class LayerDigester:
    """Makes a `LayerDigest` of rows that come a few at a time; holds no more than `GROUP` of them.

    The parameters are digested `SLICE` at a time, whose tables stay in the caches. A row of 10,000 parameters takes
    0.45 ms so, and the digest 73 MB; all at once took 0.91 ms and 144 MB (benchmarks/wide_digests.txt).
    """

    def __init__(self, parameters: int, stats: Sequence[str]) -> None:
        self.parameters, self.stats = parameters, tuple(stats)
        self._waiting: list[Sequence[Floats]] = []
        begins = range(0, parameters, SLICE) or (0,)
        self._slices = [(begin, _SliceDigester(min(SLICE, parameters - begin), self.stats)) for begin in begins]

    def add(self, row: Sequence[Floats]) -> None:
        """Add a row: each of the statistics, (parameters,)."""
        self._waiting.append(row)
        if len(self._waiting) == GROUP:
            self._take()

    def extend(self, tables: Mapping[str, Floats]) -> None:
        """Add rows by statistic, (rows, parameters)."""
        rows = len(tables["norm"])
        whole = 0 if self._waiting else rows // GROUP * GROUP
        for at in range(0, whole, GROUP):  # without a copy of each row
            for begin, part in self._slices:
                own = slice(begin, begin + part.parameters)
                part.take({stat: tables[stat][at : at + GROUP, own] for stat in self.stats})
        for at in range(whole, rows):
            self.add([tables[stat][at] for stat in self.stats])

    def finish(self) -> LayerDigest:
        """The digest of all rows."""
        if self._waiting:
            self._take()
        parts = [part.finish() for _, part in self._slices]
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        begins = [begin for begin, _ in self._slices]
        return LayerDigest(
            rows=parts[0].rows,
            maxima={stat: np.concatenate([part.maxima[stat] for part in parts], axis=1) for stat in self.stats},
            high=joined("high"),
            high_row=joined("high_row"),
            bad=joined("bad"),
            absent=joined("absent"),
            zeros=joined("zeros"),
            zeros_known=joined("zeros_known"),
            sketch=Sketch.side_by_side(begins, [part.sketch for part in parts]),
        )

    def _take(self) -> None:
        for begin, part in self._slices:
            own = slice(begin, begin + part.parameters)
            part.take({stat: np.stack([row[at][own] for row in self._waiting]) for at, stat in enumerate(self.stats)})
        self._waiting = []


class _SliceDigester:
    """Digests some of the parameters, `GROUP` rows at a time."""

    def __init__(self, parameters: int, stats: Sequence[str]) -> None:
        self.parameters, self.stats = parameters, tuple(stats)
        self.rows = 0
        self._maxima: dict[str, list[Floats]] = {stat: [] for stat in self.stats}
        self._high = np.full(parameters, ABSENT, np.float32)
        self._high_row = np.full(parameters, -1, np.int64)
        self._counts = np.zeros((3, parameters), np.int64)
        self._zeros = np.zeros(parameters)
        self._keys: list[NDArray[np.int32]] = []
        self._sketch = Sketch.of_keys(np.empty(0, np.int64))

    def finish(self) -> LayerDigest:
        """The digest of all rows."""
        self._count()
        none = np.empty((0, self.parameters), np.float32)
        return LayerDigest(
            rows=self.rows,
            maxima={stat: np.stack(rows) if rows else none for stat, rows in self._maxima.items()},
            high=self._high,
            high_row=self._high_row,
            bad=self._counts[0],
            absent=self._counts[1],
            zeros=self._zeros,
            zeros_known=self._counts[2],
            sketch=self._sketch,
        )

    def take(self, tables: Mapping[str, Floats]) -> None:
        """Add rows by statistic, (rows, parameters); they share one largest value."""
        nonfinite = tables.get("nonfinite")
        codes = {
            stat: encode(table, nonfinite if stat in ("norm", "abs_max") else None) for stat, table in tables.items()
        }
        for stat, table in codes.items():
            self._maxima[stat].append(table.max(axis=0))
        norms = codes["norm"]
        finite = np.where(norms == NOT_FINITE, np.float32(ABSENT), norms)
        at = finite.argmax(axis=0)
        highest = finite[at, np.arange(self.parameters)]
        higher = highest > self._high
        self._high[higher], self._high_row[higher] = highest[higher], self.rows + at[higher]
        bad = nonfinite > 0 if nonfinite is not None else np.zeros(norms.shape, bool)
        self._counts[0] += bad.sum(axis=0)
        self._counts[1] += ((norms == ABSENT) & ~bad).sum(axis=0)
        if "zeros" in tables:
            self._counts[2] += (~np.isnan(tables["zeros"])).sum(axis=0)
            self._zeros += np.nansum(tables["zeros"].astype(np.float64), axis=0)
        self._keys.append(keys_of(norms).astype(np.int32))  # of a slice they are small
        self.rows += len(norms)
        if sum(map(len, self._keys)) > MAX_KEYS:
            self._count()

    def _count(self) -> None:
        if self._keys:
            new = Sketch.of_keys(np.concatenate(self._keys))
            # Mostly the first ones; to merge them with none takes as long as to find them.
            self._sketch = (Sketch.merged([self._sketch, new]) if len(self._sketch.bin) else new).compact()
            self._keys = []
