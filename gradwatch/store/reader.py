"""The reader of a run, finished or being written."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import SAMPLED_STATS, STATS, WEIGHT_STATS, Event, Floats, ParameterInfo, StepRecord
from gradwatch.store.blob_tables import BlobTables, Part
from gradwatch.store.columns import Columns
from gradwatch.store.digest_table import digested_layers, digested_steps
from gradwatch.store.integrity import Integrity
from gradwatch.store.layer_digests import LayerDigest
from gradwatch.store.limits import LARGEST
from gradwatch.store.opening import Database
from gradwatch.store.processes import is_alive
from gradwatch.store.schema import FILE_NAME
from gradwatch.store.small_tables import SmallTables
from gradwatch.store.step_records import records
from gradwatch.store.step_table import StepTable
from gradwatch.store.values import Attempt

FRESH_SECONDS = 900.0  # a store that changed within them may still be written


class StoreReader:
    """Reads one run, also while it is written. Never creates or changes a file.

    Rows that are not as they were written, or are missing, are left out and counted in `damaged_rows`.
    """

    def __init__(self, folder: Path) -> None:
        """Open a run's folder, or its store file itself.

        Raises:
            RunNotFound: there is no store.
            NotARun: gradwatch did not write the file.
            StoreTooNew: its schema is newer than this version's.
            StoreDamaged: it can't be read.
        """
        self.path = folder if folder.is_file() else folder / FILE_NAME
        self._db = Database(self.path)
        self._integrity = Integrity(self._db.layout)
        self._small = SmallTables(self._db, self._integrity)
        self._steps = StepTable(self._db, self._integrity)
        self._blobs = BlobTables(self._db, self._integrity, self._steps)
        try:
            self._small.meta()  # tells which checksums there are
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @property
    def damaged_rows(self) -> int:
        """Rows that were left out so far, because they are not as they were written or are missing."""
        return self._integrity.damaged_rows

    def meta(self) -> dict[str, str]:
        """Facts about the run as a whole."""
        return self._small.meta()

    def attempts(self) -> list[Attempt]:
        """The attempts in order."""
        return self._small.attempts()

    def last_attempt(self) -> int:
        """The number of the newest attempt, 0 if there is none."""
        return max((attempt.attempt for attempt in self.attempts()), default=0)

    def is_being_written(self) -> bool:
        """Whether the last attempt has no end and its process is alive.

        A process of another machine, or of Windows, counts as alive if the store changed in the last
        `FRESH_SECONDS`.
        """
        query = "select ended, pid, host, process from attempt order by attempt desc limit 1"
        for ended, pid, host, started in self._db.rows(query):
            if ended is not None:
                return False
            if host == socket.gethostname() and os.name != "nt":
                return is_alive(pid, started)
            return time.time() - last_change(self.path) < FRESH_SECONDS
        return False

    def optimizers(self) -> dict[str, str]:
        """The name of each optimizer with the name of its class."""
        return self._small.optimizers()

    def settings(self, optimizer: str) -> dict[str, Any]:
        """The defaults that an optimizer was made with; empty if they are not known."""
        return self._small.settings(optimizer)

    def parameters(self, optimizer: str) -> tuple[ParameterInfo, ...]:
        """The parameters of an optimizer by position; the name of a damaged one says so."""
        return self._small.parameters(optimizer)

    def parameters_alone(self, optimizer: str) -> tuple[ParameterInfo, ...]:
        """`parameters` of one optimizer without reading those of the others, for a run with very many."""
        return self._small.parameters_alone(optimizer)

    def events(self) -> list[Event]:
        """What the detectors found, in order."""
        return self._small.events()

    def next_step(self, optimizer: str) -> int:
        """The number after the last step of an optimizer, 0 if it made none."""
        return self._steps.next_step(optimizer)

    def next_steps(self) -> dict[str, int]:
        """`next_step` of every optimizer that has a step."""
        return self._steps.next_steps()

    def step_columns(self) -> dict[str, list[Any]]:
        """Table ``step`` by column, with NaN where the row says so, ``id`` first."""
        return self._steps.columns()

    def step_arrays(self, optimizer: str | None = None) -> Columns:
        """Table ``step`` by column as arrays, ``id`` first: what `analysis.frames` makes a frame of.

        Of all optimizers, or of one.

        Null is NaN, ``loss_logged`` tells a loss that is NaN from none, and texts are objects. A long run is read from
        its digests.
        """
        return self._steps.arrays(optimizer)

    def digested_steps(self, optimizer: str) -> list[tuple[int, Columns]]:
        """The last id and the columns of each digest of an optimizer, in order."""
        return [(last, columns) for last, columns, _ in digested_steps(self._db, self._integrity, optimizer)]

    def digested_layers(self, optimizer: str, stats: Collection[str] = STATS) -> Iterator[tuple[int, LayerDigest]]:
        """The last id of each digest of an optimizer and what it tells of the parameters, of these statistics."""
        return digested_layers(self._db, self._integrity, optimizer, stats)

    def step_ids(self, optimizer: str) -> NDArray[np.int64]:
        """Id, step and attempt of each row of table ``step``, (rows, 3), without those known to be damaged.

        `step_columns` finds out which are.
        """
        return self._steps.ids(optimizer)

    def layer_table(
        self, stat: str, optimizer: str, one_of: int = 1, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one statistic of every parameter at it, (rows, parameters).

        Args:
            stat: one of `STATS`, `WEIGHT_STATS` or `SAMPLED_STATS`.
            optimizer: its name.
            one_of: read one of this many rows, evenly.
            after: only rows with a larger id.
            up_to: only rows with no larger id; None: all.
            most: of rows; -1: all.
        """
        is_sampled = stat in (*WEIGHT_STATS, *SAMPLED_STATS)
        table, length = "weight" if is_sampled else "layer", len(self.parameters(optimizer))
        part = Part(one_of=one_of, after=after, up_to=LARGEST if up_to is None else up_to, most=most)
        return self._blobs.table(table, stat, optimizer, length, part)

    def update_table(
        self, stat: str, optimizer: str, one_of: int = 1, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one statistic of every parameter's update, (rows, parameters).

        The arguments are those of `layer_table`; ``stat`` is one of `UPDATE_STATS`.
        """
        part = Part(one_of=one_of, after=after, up_to=LARGEST if up_to is None else up_to, most=most)
        return self._blobs.table("optimizer_update", stat, optimizer, len(self.parameters(optimizer)), part)

    def sentinel_table(
        self, stat: str, optimizer: str, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """The sentinels' updates: id and step of each row, (rows, 2), which they are, and one statistic of each.

        The positions of all parameters that ever were sentinels come in ascending order, (sentinels,). The values are
        (rows, sentinels), NaN where one was not read.

        Args:
            stat: one of `UPDATE_STATS`.
            optimizer: its name.
            after: only rows with a larger id.
            up_to: only rows with no larger id; None: all.
            most: of rows; -1: all.
        """
        part = Part(after=after, up_to=LARGEST if up_to is None else up_to, most=most)
        return self._blobs.sentinels(stat, optimizer, len(self.parameters(optimizer)), part)

    def rank_table(
        self, stat: str, optimizer: str, *, after: int = 0, up_to: int | None = None, most: int = -1
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one statistic of every rank at it, (rows, ranks).

        The arguments are those of `layer_table`; ``stat`` is one of `RANK_STATS`.
        """
        part = Part(after=after, up_to=LARGEST if up_to is None else up_to, most=most)
        return self._blobs.table("rank", stat, optimizer, None, part)

    def accumulation_table(self, stat: str, optimizer: str) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and one of `ACCUMULATION_STATS` each time it was read, (rows, times)."""
        return self._blobs.table("accumulation", stat, optimizer, None, Part())

    def magnitude_ids(self, optimizer: str) -> NDArray[np.int64]:
        """The ids of an optimizer's steps whose entries were counted by magnitude, ascending."""
        return self._blobs.magnitude_ids(optimizer)

    def magnitude_table(
        self, optimizer: str, ids: Sequence[int], positions: Sequence[int]
    ) -> tuple[NDArray[np.int64], Floats]:
        """Id and step of each row, (rows, 2), and how many entries are in each of `MAGNITUDE_BINS`.

        The counts are (rows, positions, bins); NaN where a parameter had no gradient.

        Args:
            optimizer: its name.
            ids: of the rows to read.
            positions: of the parameters.
        """
        return self._blobs.magnitudes(optimizer, len(self.parameters(optimizer)), ids, positions)

    def records(self, optimizer: str, chunk: int = 500, *, after: int = 0) -> Iterator[StepRecord]:
        """The records of an optimizer in the order in which they were written, from the first id after ``after``.

        They are read ``chunk`` by chunk, so that a writer without a write-ahead log is not kept waiting.
        """
        return records(self._db, self._integrity, optimizer, self.parameters(optimizer), after, chunk)

    def detector_state(self, optimizer: str, version: str) -> tuple[int, bytes] | None:
        """The id of the last step that an optimizer's detectors had seen, and their state then.

        None if there is none, if detectors of another version left it, or if it is damaged.
        """
        return self._small.detector_state(optimizer, version)


def last_change(path: Path) -> float:
    """When a store was last written to: its file or its write-ahead log."""
    log = Path(f"{path}-wal")
    return max(file.stat().st_mtime for file in (path, log) if file.exists())
