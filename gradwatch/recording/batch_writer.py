"""Writes batches of records. While the disk accepts nothing, batches wait, and the oldest steps are dropped first."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field

from gradwatch.errors import StoreNotWritable
from gradwatch.record import Event, JoinedParameters, StepRecord
from gradwatch.store import StoreWriter

logger = logging.getLogger("gradwatch")

PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds until a disk that took nothing is tried again; doubled each time


@dataclass(slots=True)
class Batch:
    """What is written next, in order."""

    records: deque[StepRecord] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)
    joined: list[JoinedParameters] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.events or self.joined)


class BatchWriter:
    """Collects a batch and commits it.

    Attributes:
        batch: what is not written yet.
        capacity: records that may wait; beyond it the oldest give way.
        last_id: of the last record that was written.
        lost: steps that gave way, or of which no record could be made.
    """

    def __init__(self, writer: StoreWriter, capacity: int) -> None:
        self.batch = Batch()
        self.capacity = capacity
        self.lost = 0
        self.last_id = 0
        self._writer = writer
        self._dropped_written = 0
        self._pause, self._retry_at = 0.0, 0.0

    def commit(self, refused: int = 0, *, closing: bool = False) -> Batch | None:
        """Write the batch, if there is anything to write, and return it; None where the disk does not take it now.

        Args:
            refused: steps so far that never came here.
            closing: this is the last time.

        Raises:
            StoreNotWritable: the disk does not take it, and this was the last time.
        """
        batch, dropped = self.batch, self.lost + refused
        if not batch and dropped == self._dropped_written:
            return batch
        if self._pause and time.monotonic() < self._retry_at and not closing:
            self._make_room()
            return None
        try:
            self.last_id = self._writer.append(
                batch.records, batch.events, dropped - self._dropped_written, batch.joined
            )
        except StoreNotWritable as error:
            self._wait(error, closing)
            return None
        if self._pause:
            logger.warning("gradwatch writes again; %d steps were lost (recording-resumed)", dropped)
        self._pause, self._dropped_written, self.batch = 0.0, dropped, Batch()
        return batch

    def _wait(self, error: StoreNotWritable, closing: bool) -> None:
        if closing:
            raise error
        if not self._pause:
            logger.warning(
                "%s The training goes on; gradwatch keeps the latest %d steps and writes them when it can"
                " (recording-waits)",
                error,
                self.capacity,
            )
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or PAUSE)
        self._retry_at = time.monotonic() + self._pause
        self._make_room()

    def give_up(self) -> None:
        """Write nothing from now on: the steps that wait are lost."""
        self.lost += len(self.batch.records)
        self.batch = Batch()

    def _make_room(self) -> None:
        """Let the oldest steps give way: the latest ones before a crash tell most."""
        while len(self.batch.records) > self.capacity:
            self.batch.records.popleft()
            self.lost += 1
