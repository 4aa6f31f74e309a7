"""From the training thread to the store, without making the training thread wait.

The training thread hands over a function that makes the record (it may have to wait for a device)
and goes on. A thread of the recorder's own makes the records, runs the detectors over them and
writes both, several steps in one transaction. Where the disk does not take them they wait, the
oldest giving way, and are written when it does again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from gradwatch.detect import Detector
from gradwatch.distributed import JoinedParts, ParameterPart, RankGatherer
from gradwatch.errors import StoreNotWritable
from gradwatch.record import SEVERITIES, Event, JoinedParameters, StepRecord
from gradwatch.store import StoreWriter

logger = logging.getLogger("gradwatch")

MakeRecord: TypeAlias = Callable[[], StepRecord | None]
"""None: the step can't be known as a whole, and counts as dropped."""

INTERVAL = 0.25  # seconds between two commits, so that a killed process loses less than one
AT_ONCE = 256  # records in one commit
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds until a disk that took nothing is tried again; twice as long each time


@dataclass(slots=True)
class Batch:
    """What is to be written next, in order."""

    records: deque[StepRecord] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)
    joined: list[JoinedParameters] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.events or self.joined)


class Mirror(Protocol):
    """Is shown every record as well."""

    def add(self, record: StepRecord) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Takes records in order, drops them when the writer falls too far behind, and says so.

    Attributes:
        events: what the detectors found and nobody has taken yet, in order; one that lasts comes
            again only when it has become more severe.
        fault: the exception that ended the recording, or None.
        dropped: records that came while the queue was full, or gave way while the disk took nothing.
    """

    def __init__(
        self,
        writer: StoreWriter,
        detectors: Mapping[str, Sequence[Detector]],
        capacity: int = 10_000,
        at_once: bool = False,
        past: Mapping[str, Callable[[], Iterable[StepRecord]]] | None = None,
        mirror: Mirror | None = None,
        team: RankGatherer | None = None,
    ) -> None:
        """``at_once`` writes and judges each record as it comes, not several together.

        ``past`` gives the records of earlier attempts by optimizer, which the detectors see before
        the first new one, in the recorder's thread. ``mirror`` is shown each record that was written. ``team`` brings
        the ranks of a training by several processes together.
        """
        self.events: deque[Event] = deque(maxlen=1000)
        self.fault: BaseException | None = None
        self.dropped = 0
        self._writer = writer
        self._detectors = dict(detectors)
        self._capacity = capacity
        self._at_once = at_once
        self._past = dict(past or {})
        self._mirror = mirror
        self._team = team
        self._queue: deque[MakeRecord | JoinedParameters | JoinedParts] = deque()
        self._batch = Batch()
        self._pause, self._retry_at = 0.0, 0.0
        self._wake = threading.Event()
        self._drained = threading.Event()
        self._closing = False
        self._dropped_written = 0
        self._told: dict[tuple[object, ...], int] = {}
        self._thread = threading.Thread(target=self._work, name="gradwatch", daemon=True)
        self._thread.start()

    def put(self, make_record: MakeRecord) -> None:
        """Queue a record; never waits."""
        if len(self._queue) >= self._capacity:
            self.dropped += 1
        else:
            self._queue.append(make_record)
            if self._at_once:
                self._wake.set()

    def join(self, optimizer: str, parts: Sequence[ParameterPart | None], first: int) -> None:
        """Name parameters that joined an optimizer, before the records that have them."""
        if self._team is not None:
            self._queue.append(JoinedParts(optimizer, first, tuple(parts)))
        else:
            self._queue.extend(
                JoinedParameters(optimizer=optimizer, first=at, infos=(part.info,))
                for at, part in enumerate(parts, first)
                if part is not None
            )

    def add_detectors(self, optimizer: str, detectors: Sequence[Detector]) -> None:
        """Judge the records of one more optimizer; before its first record."""
        self._detectors[optimizer] = detectors

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until what is queued now is on the disk; False where that took too long."""
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._drained.clear()
            self._wake.set()
            if self._drained.wait(0.1) and not (self._queue or self._batch):
                return True
        return not (self._queue or self._batch)

    def close(self, reason: str, timeout: float = 30.0) -> None:
        """Write what is queued and end the attempt."""
        self._closing = True
        if self._team is not None:
            self._team.hurry()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            return
        if self._team is not None:
            self._team.close()
        self._close_mirror()
        if self.fault is not None:
            self._writer.abandon()
            return
        try:
            self._writer.end_attempt(reason)
        except StoreNotWritable as fault:
            self.fault = fault

    def _work(self) -> None:
        try:
            self._see_the_past()
            while True:
                self._wake.wait(INTERVAL)
                self._wake.clear()
                closing = self._closing
                self._write()
                self._drained.set()
                if closing:
                    return
        except BaseException as fault:
            self.fault = fault
            self._queue.clear()
            self._drained.set()

    def _see_the_past(self) -> None:
        for optimizer, records in self._past.items():
            for record in records():
                for detector in self._detectors[optimizer]:
                    for event in detector.update(record):
                        self._is_news(event)

    def _write(self) -> None:
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, JoinedParameters):
                self._batch.joined.append(item)
                continue
            if isinstance(item, JoinedParts):
                assert self._team is not None
                self._team.join(0, item)
                continue
            record = item()
            if self._team is not None:
                self._batch.joined += self._team.take_joined()
            if record is None:
                self.dropped += 1
                continue
            found = [e for detector in self._detectors[record.optimizer] for e in detector.update(record)]
            self._batch.records.append(record)
            self._batch.events += found
            if len(self._batch.records) >= AT_ONCE or any(event.severity == "critical" for event in found):
                self._commit()
        if self._batch or self.dropped > self._dropped_written:
            self._commit()

    def _commit(self) -> None:
        """Write what there is; where the disk does not take it, keep what there is room for, and try later."""
        if self._pause and time.monotonic() < self._retry_at and not self._closing:
            self._make_room()
            return
        batch, dropped = self._batch, self.dropped
        try:
            self._writer.append(batch.records, batch.events, dropped - self._dropped_written, batch.joined)
        except StoreNotWritable as error:
            self._wait(error)
            return
        if self._pause:
            logger.warning("gradwatch writes again; %d steps were lost (recording-resumed)", dropped)
        self._pause = 0.0
        self._dropped_written = dropped
        self._batch = Batch()
        for record in batch.records:
            self._show(record)
        self._tell_news(batch.events)

    def _wait(self, error: StoreNotWritable) -> None:
        if self._closing:
            self.dropped += len(self._batch.records)
            raise error
        if not self._pause:
            logger.warning(
                "%s The training goes on; the latest %d steps are kept and written when that works (recording-waits)",
                error,
                self._capacity,
            )
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or PAUSE)
        self._retry_at = time.monotonic() + self._pause
        self._make_room()

    def _make_room(self) -> None:
        """The latest steps before a crash tell most, so the oldest give way; events are few, and are told at once."""
        while len(self._batch.records) > self._capacity:
            self._batch.records.popleft()
            self.dropped += 1
        self._tell_news(self._batch.events)

    def _show(self, record: StepRecord) -> None:
        """What goes wrong with the mirror ends the mirror alone."""
        if self._mirror is None:
            return
        try:
            self._mirror.add(record)
        except Exception as error:
            logger.warning("gradwatch writes no event files any more: %s (mirror-stopped)", error)
            self._mirror = None

    def _close_mirror(self) -> None:
        if self._mirror is not None:
            try:
                self._mirror.close()
            except Exception as error:
                logger.warning("gradwatch could not write all event files: %s (mirror-stopped)", error)

    def _tell_news(self, events: Sequence[Event]) -> None:
        self.events.extend(event for event in events if self._is_news(event))

    def _is_news(self, event: Event) -> bool:
        severity = SEVERITIES.index(event.severity)
        is_news = severity > self._told.get(event.key, -1)
        self._told[event.key] = max(severity, self._told.get(event.key, -1))
        return is_news
