"""Norms that leave their level slowly, on the way to somewhere else."""

from __future__ import annotations

import math

from gradwatch.detect.changes import Changes
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import Level, factor_text, usable
from gradwatch.record import Event, StepRecord

SLACK, LIMIT = 1.0, 50.0
CUT = 4.0
LEAST_DEVIATION = 0.02


class Drift:
    """A one-sided CUSUM (Page 1954) of the logarithm of the norm: information.

    Each step adds its distance from the level, in deviations, cut at 4, less 1; the sum never
    falls under 0, and 50 is a drift. The level is that of the 500 steps before the last 100, so
    that a drift can't carry it along. Norms drift in many a healthy training: it says that the
    level is not what it was, not that something is wrong.
    """

    def __init__(self) -> None:
        self._level = Level(window=500, least=100, lag=100)
        self._changes = Changes()
        self._sum = 0.0
        self._since: int | None = None
        self._episode = Episode(quiet=100)

    def update(self, record: StepRecord) -> list[Event]:
        if not usable(record):
            return []
        if self._changes.update(record):
            self._restart()
        if not self._level.ready:
            self._level.add(record.total_norm)
            return self._episode.calm()
        distance = math.log(record.total_norm / self._level.value) / max(self._level.spread, LEAST_DEVIATION)
        self._sum = max(0.0, self._sum + min(max(distance, -CUT), CUT) - SLACK)
        self._since = None if self._sum == 0 else self._since if self._since is not None else record.step
        events = self._episode.calm()
        if self._sum > LIMIT:
            events = self._episode.alarm(self._event(record))
            self._restart()
        self._level.add(record.total_norm)
        return events

    def _restart(self) -> None:
        self._level.restart()
        self._sum, self._since = 0.0, None

    def _event(self, record: StepRecord) -> Event:
        factor = record.total_norm / self._level.value
        return Event(
            step=record.step,
            kind="drift",
            severity="info",
            observed=self._sum,
            limit=LIMIT,
            message=f"the norms have drifted up since step {self._since}: total norm {record.total_norm:.3g},"
            f" {factor_text(factor)} the level before",
            optimizer=record.optimizer,
            attempt=record.attempt,
        )
