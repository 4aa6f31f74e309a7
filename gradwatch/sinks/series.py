"""The names of the series that trackers get, and the base of the trackers that get windows."""

from __future__ import annotations

from collections.abc import Mapping

from gradwatch.record import Event, StepRecord
from gradwatch.sinks.event_files import OF_CLIPPING, PREFIX
from gradwatch.sinks.tracker import Closing, RunFacts
from gradwatch.sinks.windows import Point, Windows


class WindowTracker:
    """Sends the points of windows, and each event once when it is first given as a warning or worse."""

    label = ""
    wants_layers = False

    def __init__(self) -> None:
        self._windows = Windows()
        self._told: set[tuple[object, ...]] = set()
        self._facts: RunFacts | None = None

    @property
    def facts(self) -> RunFacts:
        """What `open` was told."""
        assert self._facts is not None
        return self._facts

    def open(self, facts: RunFacts) -> None:
        """Keep the facts; a tracker begins its own run as well."""
        self._facts = facts

    def show(self, record: StepRecord) -> None:
        """Send the window that is full now, if any."""
        for point in self._windows.add(record):
            self.send(point)

    def tell(self, event: Event) -> None:
        """Send an event once."""
        if event.severity != "info" and event.key not in self._told:
            self._told.add(event.key)
            self.alert(event)

    def rest(self) -> None:
        """Send nothing: windows are full or not."""

    def close(self, closing: Closing) -> None:
        """Send the windows that are not full, and end."""
        for point in self._windows.rest():
            self.send(point)
        self.finish(closing)

    def send(self, point: Point) -> None:
        """Send a point."""
        raise NotImplementedError

    def alert(self, event: Event) -> None:
        """Send an event."""

    def finish(self, closing: Closing) -> None:
        """End the tracker's run."""

    def names(self, point: Point) -> dict[str, float]:
        """The values of a point under the names that the tracker shows."""
        prefix = f"{PREFIX}/{point.optimizer}" if self.facts.several else PREFIX
        left_out = () if self.facts.knows_clipping else OF_CLIPPING
        return {f"{prefix}/{name}": value for name, value in point.values.items() if name not in left_out}


def title(event: Event) -> str:
    """One line for an event.

    >>> title(Event(step=3, kind="spike", severity="warning", message="", parameter="a.weight"))
    'spike at step 3 in a.weight'
    """
    where = "" if event.parameter is None else f" in {event.parameter}"
    return f"{event.kind} at step {event.step}{where}"


def known(closing: Closing) -> Mapping[str, str | int | float]:
    """The entries of a closing that are known, with our prefix."""
    return {f"{PREFIX}/{name}": value for name, value in closing.items() if value is not None}
