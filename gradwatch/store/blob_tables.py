"""Reads the tables of blobs, such as layer, weight and rank: one statistic of every part at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.errors import StoreDamaged
from gradwatch.record import MAGNITUDE_BINS, WEIGHT_STATS, Floats, MagnitudeStats
from gradwatch.store.integrity import Integrity
from gradwatch.store.limits import LARGEST, is_count
from gradwatch.store.opening import Database
from gradwatch.store.schema import CHECKSUMS, PARTS
from gradwatch.store.small_tables import select
from gradwatch.store.step_table import StepTable
from gradwatch.store.values import are_positions, valid_table

MAX_PADDING = 2**30
"""Bytes that a table may take beyond 64 times those of its blobs, if they are of different lengths."""

SPARSE = 16
"""A sample of one row in this many or more is looked up id by id."""

LOOKED_UP = 500
"""Ids in one query."""

MOST_LOOKED_UP = 50_000
"""More ids than that are not looked up one by one."""

ALWAYS_THERE = ("norm", *WEIGHT_STATS, "filled", "position")
"""The columns of blobs that no row lacks, whatever table they are in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which rows of a table to read.

    Attributes:
        one_of: read one of this many rows, evenly.
        after: only rows with a larger id.
        up_to: only rows with no larger id.
        most: of rows; -1: all.
        ids: only these; None: any.
    """

    one_of: int = 1
    after: int = 0
    up_to: int = LARGEST
    most: int = -1
    ids: tuple[int, ...] | None = None


class BlobTables:
    """The statistics of one store's parameters, weights, ranks and updates."""

    def __init__(self, db: Database, integrity: Integrity, steps: StepTable) -> None:
        self._db, self._integrity, self._steps = db, integrity, steps
        self._looked: set[tuple[str, str, Part, int]] = set()  # for missing rows, in vain
        self._written: tuple[int, int] = (-1, 0)  # the version of the data, and every bit of step.parts in it

    def table(
        self, table: str, stat: str, optimizer: str, length: int | None, part: Part
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each intact row, (rows, 2), and one statistic at it, (rows, ``length``).

        Args:
            table: one of blobs, for example ``layer``.
            stat: a column of the table.
            optimizer: its name.
            length: of a row; None: that of the longest.
            part: which rows.
        """
        if not (self._db.layout.has_table(table) and self._db.layout.has_column(table, stat)):
            return np.empty((0, 2), np.int64), np.empty((0, 0), np.float32)
        columns = self._blobs(table, stat, optimizer, part)
        intact = self._integrity.intact_blobs(table, stat, columns)
        numbers, steps, blobs = ([v for v, ok in zip(c, intact, strict=True) if ok] for c in columns[:3])
        ids = np.empty((len(numbers), 2), np.int64)
        ids[:, 0], ids[:, 1] = numbers, steps
        values = _stack(self._db, blobs, length)
        valid = valid_table(stat, values)
        self._integrity.left_out |= {(table, numbers[i]) for i in np.flatnonzero(~valid)}
        return (ids, values) if valid.all() else (ids[valid], values[valid])

    def magnitude_ids(self, optimizer: str) -> NDArray[np.int64]:
        """The ids of an optimizer's steps whose entries were counted by magnitude."""
        if not self._db.layout.has_table("magnitude"):
            return np.empty(0, np.int64)
        join = "from magnitude not indexed join step not indexed using (id)"
        rows = self._db.rows(f"select magnitude.id {join} where optimizer = ? order by magnitude.id", optimizer)
        return np.array([number for (number,) in rows if is_count(number)], np.int64)

    def magnitudes(
        self, optimizer: str, length: int, ids: Sequence[int], positions: Sequence[int]
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each intact row, (rows, 2), and the counts of entries, (rows, positions, `MAGNITUDE_BINS`).

        Args:
            optimizer: its name.
            length: how many parameters it has.
            ids: of the rows to read.
            positions: of the parameters.
        """
        part = Part(ids=tuple(ids))
        keys, filled = self.table("magnitude", "filled", optimizer, None, part)
        others, cells = self.table("magnitude", "cells", optimizer, None, part)
        _, left, right = np.intersect1d(keys[:, 0], others[:, 0], assume_unique=True, return_indices=True)
        kept, found = [], []
        for at, other in zip(left.tolist(), right.tolist(), strict=True):
            row = cells[other]
            counts = MagnitudeStats(filled=filled[at][:length], cells=row[~np.isnan(row)]).counts()
            if counts is None:
                self._integrity.left_out.add(("magnitude", int(keys[at, 0])))
                continue
            table = np.full((length, counts.shape[1]), np.nan, np.float32)
            table[: len(counts)] = counts
            kept.append(at)
            found.append(table[list(positions)])
        shape = (0, len(positions), len(MAGNITUDE_BINS))
        return keys[kept], np.stack(found) if found else np.empty(shape, np.float32)

    def sentinels(
        self, stat: str, optimizer: str, length: int, part: Part
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Rows, positions and values as in `StoreReader.sentinel_table`; ``length`` is that of all parameters."""
        keys, positions = self.table("sentinel", "position", optimizer, None, part)
        others, values = self.table("sentinel", stat, optimizer, None, part)
        _, left, right = np.intersect1d(keys[:, 0], others[:, 0], assume_unique=True, return_indices=True)
        valid = are_positions(positions, length)
        self._integrity.left_out |= {("sentinel", number) for number in keys[~valid, 0].tolist()}
        left, right = left[valid[left]], right[valid[left]]
        keys, positions, values = keys[left], positions[left], values[right]
        there = ~np.isnan(positions)
        there[:, values.shape[1] :] = False
        known = np.unique(positions[there]).astype(np.int64)
        table = np.full((len(keys), len(known)), np.nan, np.float32)
        rows, columns = np.nonzero(there)
        table[rows, np.searchsorted(known, positions[rows, columns])] = values[rows, columns]
        return keys, known, table

    def _blobs(self, table: str, stat: str, optimizer: str, part: Part) -> list[list[Any]]:
        """Ids, steps, blobs and the two checksums of the rows of a table."""
        selected = select(self._db, table, (stat, *CHECKSUMS))
        with self._db.one_moment():
            rows = []
            for which, ids in self._chosen(table, part):
                rows += self._db.rows(
                    f"select {table}.id, step, {selected} from {table} not indexed join step not indexed using (id)"
                    f" where {which} and optimizer = ? and {table}.{stat} is not null order by {table}.id limit ?",
                    *(*ids, optimizer, part.most),
                )
            columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
            if part.most and stat in ALWAYS_THERE and self._db.layout.has_crc:
                if 0 < part.most == len(rows):
                    part = replace(part, up_to=columns[0][-1])
                self._find_missing(table, optimizer, columns[0], part)
        return columns

    def _chosen(self, table: str, part: Part) -> list[tuple[str, tuple[int, ...]]]:
        """Conditions on the ids of rows with their values, of which each chooses some of the rows of a part.

        A sparse sample is looked up id by id, for SQLite would visit every row otherwise.
        """
        if part.ids is not None:
            return _lookups(table, part.ids)
        if part.one_of >= SPARSE and part.most < 0:
            ((last,),) = self._db.rows("select max(id) from step not indexed")
            most = min(part.up_to, last) if is_count(last) else 0
            ids = range((part.after // part.one_of + 1) * part.one_of, most + 1, part.one_of)
            if len(ids) <= MOST_LOOKED_UP:
                return _lookups(table, ids)
        bounds = (part.after, part.up_to, part.one_of)
        return [(f"{table}.id > ? and {table}.id <= ? and {table}.id % ? = 0", bounds)]

    def _find_missing(self, table: str, optimizer: str, there: list[int], part: Part) -> None:
        """Note the rows that are missing, once for the same part."""
        looked = (table, optimizer, part, len(there))
        if (part.most < 0 and looked in self._looked) or (not there and not self._bits_written() & PARTS[table]):
            return
        missing = self._missing(table, optimizer, there, part)
        self._integrity.left_out |= {(table, number) for number in missing}
        if not missing:
            self._looked.add(looked)

    def _missing(self, table: str, optimizer: str, there: list[int], part: Part) -> list[int]:
        """The rows that were written, as the steps say, and are not there."""
        missing: list[int] = []
        present = set(there)
        for which, ids in self._chosen("step", replace(part, most=-1)):
            written = f"from step not indexed where {which} and optimizer = ? and parts & ?"
            values = (*ids, optimizer, PARTS[table])
            ((expected,),) = self._db.rows(f"select count(*) {written}", *values)
            if expected > (len(there) if part.one_of < SPARSE and part.ids is None else 0):
                missing += [
                    number for (number,) in self._db.rows(f"select id {written}", *values) if number not in present
                ]
        return missing

    def _bits_written(self) -> int:
        """Every bit of step.parts that any step has: a table that none has needs no pass over a million steps."""
        version = self._db.data_version()
        if self._written[0] != version:
            self._written = (version, self._steps.parts_written())
        return self._written[1]


def _lookups(table: str, ids: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """Conditions that choose rows by their ids, not too many at a time."""
    parts = [tuple(ids[at : at + LOOKED_UP]) for at in range(0, len(ids), LOOKED_UP)]
    return [(f"{table}.id in ({', '.join('?' * len(some))})", some) for some in parts]


def _stack(db: Database, blobs: list[bytes], length: int | None) -> Floats:
    """Blobs as rows of a table; a shorter one, from before a parameter joined, is filled with NaN."""
    if length is None:
        length = max((len(blob) // 4 for blob in blobs), default=0)
    if all(len(blob) == 4 * length for blob in blobs):
        return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), length)
    if 4 * length * len(blobs) > 64 * sum(map(len, blobs)) + MAX_PADDING:
        raise StoreDamaged(f"{str(db.path)!r} can't be read: its rows are of very different lengths.")
    table = np.full((len(blobs), length), np.nan, np.float32)
    for row, blob in zip(table, blobs, strict=True):
        values = np.frombuffer(blob, "<f4")[:length]
        row[: len(values)] = values
    return table
