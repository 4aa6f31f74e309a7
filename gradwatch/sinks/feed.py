"""Feeds a tracker in a separate thread, so a slow or failing one delays neither the recorder nor the training."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from gradwatch.record import Event, StepRecord, small
from gradwatch.sinks.tracker import Closing, RunFacts, Tracker, hint
from gradwatch.text import number

logger = logging.getLogger("gradwatch")

CAPACITY = 10_000  # records and events that may wait
CAPACITY_WITH_LAYERS = 1_000
TICK = 1.0  # seconds between two looks of a tracker that rests
PATIENCE, IN_A_HURRY = 20.0, 2.0  # seconds that the end of a recording waits for trackers


class Feed:
    """The way from the recorder's thread to one tracker; nothing here waits or raises, except `close`, which waits."""

    def __init__(self, tracker: Tracker, facts: RunFacts, capacity: int | None = None) -> None:
        """Start the thread."""
        self._tracker, self._facts = tracker, facts
        size = CAPACITY_WITH_LAYERS if tracker.wants_layers else CAPACITY
        self._queue: queue.Queue[StepRecord | Event | Callable[[], Closing]] = queue.Queue(capacity or size)
        self.is_fed = True  # until it fails or is too slow
        self._was_said = False
        self._thread = threading.Thread(target=self._run, name=f"gradwatch-{tracker.label}", daemon=True)
        self._thread.start()

    def put(self, records: Iterable[StepRecord], events: Iterable[Event]) -> None:
        """Queue records and events; drop the tracker if they find no room."""
        for record in records:
            self._put(record if self._tracker.wants_layers else small(record))
        for event in events:
            self._put(event)

    def close(self, closing: Callable[[], Closing], patience: float = PATIENCE) -> None:
        """Let the tracker end with the result of ``closing`` in its thread; wait at most ``patience`` seconds."""
        deadline = time.monotonic() + patience
        if self.is_fed:
            try:
                self._queue.put(closing, timeout=patience)
            except queue.Full:
                self._drop("it is too slow")
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._drop(f"it did not end within {number(patience, 6)} seconds")

    def _put(self, item: StepRecord | Event) -> None:
        if not self.is_fed:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._drop("it is too slow")

    def _drop(self, why: str) -> None:
        """Feed it no more, and say so once."""
        self.is_fed = False
        if not self._was_said:
            self._was_said = True
            logger.warning(
                "gradwatch stopped sending to %s: %s. The run itself is complete.%s (sink-stopped)",
                self._tracker.label,
                why,
                hint(self._tracker.label),
            )

    def _run(self) -> None:
        try:
            self._tracker.open(self._facts)
            while self.is_fed:
                try:
                    item = self._queue.get(timeout=TICK)
                except queue.Empty:
                    self._tracker.rest()
                    continue
                if isinstance(item, StepRecord):
                    self._tracker.show(item)
                elif isinstance(item, Event):
                    self._tracker.tell(item)
                else:
                    self._tracker.close(item())
                    return
                if self._queue.empty():
                    self._tracker.rest()
        except BaseException as error:
            # The message of a tracker's error may hold an address with a key in it.
            logger.debug("the fault of %s", self._tracker.label, exc_info=error)
            self._drop(f"it failed with {type(error).__name__}")


class Feeds:
    """The feeds of one recording."""

    def __init__(self, trackers: Sequence[Tracker] = (), facts: RunFacts | None = None) -> None:
        self._each = [Feed(tracker, facts) for tracker in trackers] if facts is not None else []

    def put(self, records: Sequence[StepRecord], events: Sequence[Event]) -> None:
        """Queue what was written to the disk."""
        for feed in self._each:
            feed.put(records, events)

    def close(self, closing: Callable[[], Closing], *, hurry: bool = False) -> None:
        """Let all end at the same time, and wait for all of them together."""
        if not self._each:
            return
        once: list[Closing] = []
        lock = threading.Lock()

        def shared() -> Closing:
            with lock:
                if not once:
                    once.append(closing())
                return once[0]

        deadline = time.monotonic() + (IN_A_HURRY if hurry else PATIENCE)
        for feed in self._each:
            feed.close(shared, max(0.1, deadline - time.monotonic()))
        self._each = []
