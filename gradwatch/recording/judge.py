"""Runs the detectors over the records of a run, in order; a run that is continued catches up first.

Records are committed even if this fails. While the records of earlier attempts are being read
again, new ones are written without being judged; the reader of the store reaches them later.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeAlias

from gradwatch.detect import Detector
from gradwatch.record import SEVERITIES, Event, StepRecord

logger = logging.getLogger("gradwatch")

SLICE = 0.1  # seconds of catching up between two commits
REST = 3.0  # seconds of sleep for each second of catching up, so that the training runs on

Past: TypeAlias = Callable[[], Iterable[StepRecord]]
"""Opens the records of one optimizer in the store, in order; those that are written meanwhile come last."""


class Judge:
    """The detectors of each optimizer, and which of their events are news.

    Attributes:
        events: news that the training thread has not taken yet. An event that lasts comes again only
            when it has become more severe.
        is_among_own: whether catching up has come to records of this attempt.
    """

    def __init__(
        self,
        detectors: Mapping[str, Sequence[Detector]],
        past: Mapping[str, Past],
        since: int = 0,
        attempt: int | None = None,
    ) -> None:
        """Begin before the first record.

        Args:
            detectors: by optimizer.
            past: of the optimizers that have earlier records.
            since: the first attempt whose events are not in the store yet.
            attempt: the one that is being recorded; its own records are caught up with at full speed, or
                a fast loop would never be caught up with.
        """
        self.events: deque[Event] = deque(maxlen=1000)
        self._detectors = dict(detectors)
        self._behind: dict[str, Generator[StepRecord, None, None]] = {name: _opened(past[name]) for name in past}
        self._since = since
        self._attempt = attempt
        self.is_among_own = False
        self._told: dict[tuple[object, ...], int] = {}

    @property
    def detectors(self) -> Mapping[str, Sequence[Detector]]:
        """The detectors of each optimizer."""
        return self._detectors

    @property
    def is_behind(self) -> bool:
        """Whether the store has records that are not judged yet."""
        return bool(self._behind)

    def admit(self, optimizer: str, detectors: Sequence[Detector], past: Past | None = None) -> None:
        """Judge the records of one more optimizer, before its first of this attempt."""
        if past is not None:
            self._behind[optimizer] = _opened(past)
        self._detectors[optimizer] = detectors

    def dismiss(self, optimizer: str) -> None:
        """Let go of the detectors of an optimizer that makes no more steps, unless earlier ones wait for them."""
        if optimizer not in self._behind:
            self._detectors.pop(optimizer, None)

    def see(self, record: StepRecord) -> list[Event]:
        """The events of a new record; none while those before it are not judged."""
        return [] if record.optimizer in self._behind else self._update(record)

    def catch_up(self, seconds: float, *, rest: float = REST) -> list[Event]:
        """Judge records of the store for this long; return the events that it does not have yet.

        An optimizer has caught up when its reader finds no more records, so all records made so far
        must have been written.
        """
        found: list[Event] = []
        deadline = time.monotonic() + seconds
        while self._behind and time.monotonic() < deadline:
            optimizer, records = next(iter(self._behind.items()))
            began = time.perf_counter()
            record = self._next(records)
            if record is None:
                self._behind.pop(optimizer, None)
                continue
            events = self._update(record)
            if record.attempt >= self._since:
                found += events
            else:
                self.note(events)
            self.is_among_own = record.attempt == self._attempt
            if rest and not self.is_among_own:
                time.sleep(rest * (time.perf_counter() - began))
        return found

    def close(self) -> None:
        """Let go of the store."""
        for records in self._behind.values():
            records.close()
        self._behind = {}

    def tell_news(self, events: Iterable[Event]) -> None:
        """Hand the events that are news to the training thread."""
        self.events.extend(event for event in events if self._is_news(event))

    def note(self, events: Iterable[Event]) -> None:
        """Remember events that have already been reported."""
        for event in events:
            self._is_news(event)

    def _update(self, record: StepRecord) -> list[Event]:
        try:
            return [event for one in self._detectors.get(record.optimizer, ()) for event in one.update(record)]
        except Exception as fault:
            self._give_up(fault)
            return []

    def _next(self, records: Generator[StepRecord, None, None]) -> StepRecord | None:
        try:
            return next(records, None)
        except Exception as fault:
            self._give_up(fault)
            return None

    def _give_up(self, fault: Exception) -> None:
        """Records are made and written all the same."""
        self._detectors, self._behind = {}, {}
        logger.error(
            "gradwatch stopped looking for events; the recording goes on. %s: %s (detectors-stopped)",
            type(fault).__name__,
            fault,
        )
        logger.debug("the fault of a detector", exc_info=fault)

    def _is_news(self, event: Event) -> bool:
        severity = SEVERITIES.index(event.severity)
        is_news = severity > self._told.get(event.key, -1)
        self._told[event.key] = max(severity, self._told.get(event.key, -1))
        return is_news


def _opened(past: Past) -> Generator[StepRecord, None, None]:
    """Open the store when the first record is asked for, in the recorder's thread."""
    yield from past()
