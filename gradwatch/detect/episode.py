"""One fault as one event, however many steps it lasts."""

from __future__ import annotations

from dataclasses import replace

from gradwatch.record import SEVERITIES, Event

QUIET = 50


class Episode:
    """Opens an event at the first alarm, gives it again where it gets worse, and closes it.

    Over is a fault after ``quiet`` steps without an alarm; `until` is then the step of the last one.

    >>> def warn(step: int) -> Event:
    ...     return Event(step=step, kind="spike", severity="warning", message="")
    >>> episode = Episode(quiet=2)
    >>> [(e.step, e.until) for e in episode.alarm(warn(7)) + episode.alarm(warn(8))]
    [(7, None)]
    >>> [(e.step, e.until) for e in episode.calm() + episode.calm()]
    [(7, 8)]
    """

    def __init__(self, quiet: int = QUIET) -> None:
        self._quiet = quiet
        self._calm_steps = 0
        self._last = 0
        self.event: Event | None = None

    def alarm(self, event: Event) -> list[Event]:
        """Take the event that a step would be, alone; return what is new about it."""
        self._calm_steps, self._last = 0, event.step
        if self.event is None:
            self.event = event
        elif SEVERITIES.index(event.severity) > SEVERITIES.index(self.event.severity):
            begun = self.event
            self.event = replace(
                event,
                step=begun.step,
                parameter=begun.parameter,
                attempt=begun.attempt,
                message=f"{event.message} (at step {event.step})",
            )
        else:
            return []
        return [self.event]

    def again(self, step: int) -> list[Event]:
        """Take a step at which the fault that is open goes on as it was."""
        self._calm_steps, self._last = 0, step
        return []

    def calm(self) -> list[Event]:
        """Take a step without an alarm; return the event with its end, where this is it."""
        if self.event is None:
            return []
        self._calm_steps += 1
        if self._calm_steps < self._quiet:
            return []
        over, self.event = replace(self.event, until=self._last), None
        return [over]
