"""A step whose norm stands far above its neighbours."""

from __future__ import annotations

from gradwatch.detect.level import LayerHistory, Level, factor_text, usable
from gradwatch.record import Event, Severity, StepRecord

FACTOR = 3.0
SIGMAS = 4.0
QUIET = 50
PATIENCE = 100


class Spike:
    """A total norm over 3 times the median of the last 128 healthy steps.

    Three rules keep the level honest: a step that raises an alarm never enters it, a non-finite
    step never enters it, and where healthy norms scatter widely the factor grows to four robust
    deviations. Alarms less than `QUIET` steps apart are one event. After `PATIENCE` alarms in a
    row the new level is believed.

    A spike that clipping brought back under the limit is information, any other a warning.
    """

    def __init__(self) -> None:
        self._level = Level()
        self._layers = LayerHistory()
        self._since_alarm = QUIET
        self._in_a_row = 0

    def limit(self) -> float | None:
        """The largest norm that would pass now; None while there is too little history."""
        return self._level.limit(FACTOR, SIGMAS) if self._level.ready else None

    def update(self, record: StepRecord) -> list[Event]:
        if not usable(record):
            return []
        self._layers.see(record)
        limit = self.limit()
        if limit is None or record.total_norm <= limit:
            self._level.add(record.total_norm)
            self._layers.learn(record)
            self._since_alarm += 1
            self._in_a_row = 0
            return []
        is_new = self._since_alarm >= QUIET
        self._since_alarm = 0
        self._in_a_row += 1
        events = [self._event(record, limit)] if is_new else []
        if self._in_a_row >= PATIENCE:
            self._level.restart()
        return events

    def _event(self, record: StepRecord, limit: float) -> Event:
        left = record.total_norm * record.clip_coef
        severity: Severity = "info" if left <= limit else "warning"
        parameter, factor = self._layers.furthest()
        most = f"; most in {parameter} ({factor_text(factor)} its own level)" if factor else ""
        clipped = f"; clipped to {left:.3g}" if record.clipped else ""
        return Event(
            step=record.step,
            kind="spike",
            severity=severity,
            parameter=parameter,
            observed=record.total_norm,
            limit=limit,
            message=f"total norm {record.total_norm:.3g} is {factor_text(record.total_norm / self._level.value)}"
            f" its recent level{most}{clipped}",
            optimizer=record.optimizer,
            attempt=record.attempt,
        )
