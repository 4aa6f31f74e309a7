"""One fault as one event, however many steps it lasts."""

from __future__ import annotations

from dataclasses import replace

from gradwatch.record import SEVERITIES, Event

QUIET_STEPS = 50
"""Steps without an alarm after which a fault is over."""


class Episode:
    """Opens an event at the first alarm, gives it again when it gets graver, and closes it.

    A fault is over after ``quiet_steps`` steps without an alarm; `Event.until` is then the step of the last
    alarm.

    >>> def warn(step: int) -> Event:
    ...     return Event(step=step, kind="spike", severity="warning", message="")
    >>> episode = Episode(quiet_steps=2)
    >>> [(e.step, e.until) for e in episode.alarm(warn(7)) + episode.alarm(warn(8))]
    [(7, None)]
    >>> [(e.step, e.until) for e in episode.calm() + episode.calm()]
    [(7, 8)]
    """

    def __init__(self, quiet_steps: int = QUIET_STEPS) -> None:
        self._quiet_steps = quiet_steps
        self._calm_steps = 0
        self._last_alarm = 0
        self.event: Event | None = None  # the open one

    def alarm(self, event: Event) -> list[Event]:
        """Take the event of this step alone; return it if it is new or more severe."""
        self._calm_steps, self._last_alarm = 0, event.step
        if self.event is None:
            self.event = event
        elif SEVERITIES.index(event.severity) > SEVERITIES.index(self.event.severity):
            begun = self.event
            self.event = replace(
                event,
                step=begun.step,
                parameter=begun.parameter,
                attempt=begun.attempt,
                message=f"by step {event.step} {event.message}",
            )
        else:
            return []
        return [self.event]

    def again(self, step: int) -> list[Event]:
        """Take a step at which the open fault goes on unchanged."""
        self._calm_steps, self._last_alarm = 0, step
        return []

    def calm(self, came_back: str | None = None) -> list[Event]:
        """Take a step without an alarm; return the event with its end where the fault is over now.

        Args:
            came_back: what is back where it was, if the training is. A critical event is then lowered to
                a warning, with this text added to its message: the fault had no lasting consequence.
        """
        if self.event is None:
            return []
        self._calm_steps += 1
        if self._calm_steps < self._quiet_steps:
            return []
        over, self.event = replace(self.event, until=self._last_alarm), None
        if came_back is not None and over.severity == "critical":
            over = replace(over, severity="warning", message=f"{over.message}; {came_back}")
        return [over]
