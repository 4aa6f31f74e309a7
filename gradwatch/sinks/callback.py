"""A function of the user's as a place to send records to."""

from __future__ import annotations

from collections.abc import Callable

from gradwatch.record import Event, StepRecord
from gradwatch.sinks.tracker import Closing, RunFacts


class RecordCallback:
    """Calls a function with each record, in a thread that no training waits for.

    Args:
        function: is called with each `StepRecord`, in order.
    """

    label = "on_record"
    wants_layers = True

    def __init__(self, function: Callable[[StepRecord], object]) -> None:
        self._function = function

    def open(self, facts: RunFacts) -> None:
        """Nothing to begin."""

    def show(self, record: StepRecord) -> None:
        """Call the function."""
        self._function(record)

    def tell(self, event: Event) -> None:
        """Events go to ``on_event``."""

    def rest(self) -> None:
        """Nothing waits."""

    def close(self, closing: Closing) -> None:
        """Nothing to end."""
