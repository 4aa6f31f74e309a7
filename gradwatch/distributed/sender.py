"""What stands in the place of the recorder in the processes that do not write the run."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from gradwatch.distributed.mailbox import Mailbox
from gradwatch.distributed.messages import Ended, Item, JoinedParts, LocalStep, ParameterPart, pack
from gradwatch.record import Event

logger = logging.getLogger("gradwatch")

INTERVAL = 0.25  # seconds between two letters
LETTER = 4 * 2**20  # bytes of a letter, about


class NullSink:
    """Takes nothing and tells nothing: rank 0 needs nothing from this process."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.fault: BaseException | None = None
        self.dropped = 0

    def put(self, make: Callable[[], LocalStep]) -> None:
        """Nobody asks for it."""

    def join(self, optimizer: str, parts: Sequence[ParameterPart | None], first: int) -> None:
        """Nobody asks for it."""

    def flush(self, timeout: float = 10.0) -> bool:
        return True

    def close(self, reason: str, timeout: float = 30.0) -> None:
        """Nothing is open."""


class RankSender(NullSink):
    """Sends what this process has of each step to rank 0, from a thread of its own."""

    def __init__(self, mailbox: Mailbox, capacity: int) -> None:
        super().__init__()
        self._mailbox, self._capacity = mailbox, capacity
        self._queue: deque[Callable[[], LocalStep] | JoinedParts] = deque()
        self._unsent: list[Item] = []
        self._wake, self._drained = threading.Event(), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="gradwatch", daemon=True)
        self._thread.start()

    def put(self, make: Callable[[], LocalStep]) -> None:
        """Queue a step; never waits. One that there is no room for is missed by rank 0 when the next comes."""
        if len(self._queue) < self._capacity:
            self._queue.append(make)
        else:
            self.dropped += 1

    def join(self, optimizer: str, parts: Sequence[ParameterPart | None], first: int) -> None:
        """Say which parameters this process has, before the steps that have them."""
        self._queue.append(JoinedParts(optimizer, first, tuple(parts)))

    def flush(self, timeout: float = 10.0) -> bool:
        deadline = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._drained.clear()
            self._wake.set()
            if self._drained.wait(0.1) and not (self._queue or self._unsent):
                return True
        return not (self._queue or self._unsent)

    def close(self, reason: str, timeout: float = 10.0) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)

    def _work(self) -> None:
        try:
            while True:
                self._wake.wait(INTERVAL)
                self._wake.clear()
                closing = self._closing
                if self._mailbox.announced("closed") is not None:
                    self._queue.clear()
                    return
                self._send(closing)
                self._drained.set()
                if closing:
                    return
        except Exception as fault:  # the store is gone, and the training with it or soon
            logger.debug("rank 0 is not heard any more", exc_info=fault)
            self._queue.clear()
        finally:
            self._drained.set()

    def _send(self, closing: bool) -> None:
        if self._mailbox.is_full() and not closing:
            return
        size = 0
        while self._queue:
            item = self._queue.popleft()
            made = item if isinstance(item, JoinedParts) else item()
            self._unsent.append(made)
            size += made.table.nbytes if isinstance(made, LocalStep) else 0
            if size > LETTER:
                self._send_unsent()
                size = 0
        if closing:
            self._unsent.append(Ended())
        self._send_unsent()

    def _send_unsent(self) -> None:
        if self._unsent:
            self._mailbox.send(pack(self._unsent))
            self._unsent = []
