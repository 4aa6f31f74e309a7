"""Hands events to the training thread: to ``on_event``, and as a reason to stop."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from gradwatch.record import Event

logger = logging.getLogger("gradwatch")


class EventDelivery:
    """Calls ``on_event``, and knows the kinds of event that end the training."""

    def __init__(self, on_event: Callable[[Event], None] | None, stop_on: Sequence[str]) -> None:
        self._on_event = on_event
        self._stop_on = frozenset(stop_on)

    def deliver(self, events: deque[Event]) -> Event | None:
        """Take events in order; return the first that ends the training, with those after it left there."""
        while (self._on_event is not None or self._stop_on) and events:
            event = events.popleft()
            self._tell(event)
            if event.kind in self._stop_on and event.severity != "info":
                return event
        return None

    def stop_no_more(self) -> None:
        """The training has ended."""
        self._stop_on = frozenset()

    def _tell(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:
            logger.error("on_event raised %s: %s; it is not called again (on-event)", type(error).__name__, error)
            self._on_event = None
