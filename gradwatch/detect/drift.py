"""Norms that leave their level slowly."""

from __future__ import annotations

import math
from collections import deque

from gradwatch.detect.changes import PresenceChanges
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import Level, is_usable
from gradwatch.detect.steady_state import explained_rise
from gradwatch.record import Event, StepRecord, event_at
from gradwatch.text import factor_text, number

SLACK_DEVIATIONS, LIMIT_DEVIATIONS = 1.0, 50.0
"""Of the CUSUM: subtracted from each distance; the sum that is a drift."""

MAX_DISTANCE = 4.0
"""A step's distance from the level counts up to this many deviations."""

WINDOW_STEPS, LAG_STEPS = 500, 100
"""Of the level: how many steps it rests on, and how many steps before this one they end."""

TELLING_RISE = 1.1
"""Times: the rise that weight decay explains is told from there on."""

MIN_DEVIATION = 0.02
"""The smallest deviation of a logarithm that distances are divided by."""


class Drift:
    """A one-sided CUSUM (Page 1954) of the logarithm of the norm: information.

    Each step adds its distance from the level in deviations, at most 4, less 1. The sum never falls below 0,
    and 50 is a drift. The level is that of the 500 steps before the last 100, so that a drift can't move it.
    Norms drift in many healthy trainings: a drift means that the level has changed, not that something is
    wrong. Where weight decay explains a part of the rise, as at the end of a schedule, the event says how much.

    Args:
        decay: the share of the weights that a step takes away, over the learning rate.
    """

    def __init__(self, decay: float = 0.0) -> None:
        self._decay = decay
        self._rates: deque[float] = deque(maxlen=WINDOW_STEPS + LAG_STEPS)  # since the level may have begun
        self._level = Level(window=WINDOW_STEPS, least=LAG_STEPS, lag=LAG_STEPS)
        self._changes = PresenceChanges()
        self._sum = 0.0
        self._since: int | None = None
        self._episode = Episode(quiet_steps=100)

    def update(self, record: StepRecord) -> list[Event]:
        if not is_usable(record):
            return []
        if self._changes.update(record):
            self._restart()
        if record.learning_rates:
            self._rates.append(record.learning_rates[0])
        if not self._level.ready:
            self._level.add(record.total_norm)
            return self._episode.calm()
        distance = math.log(record.total_norm / self._level.value) / max(self._level.spread, MIN_DEVIATION)
        self._sum = max(0.0, self._sum + min(max(distance, -MAX_DISTANCE), MAX_DISTANCE) - SLACK_DEVIATIONS)
        self._since = None if self._sum == 0 else self._since if self._since is not None else record.step
        events = self._episode.calm()
        if self._sum > LIMIT_DEVIATIONS:
            events = self._episode.alarm(self._event(record))
            self._restart()
        self._level.add(record.total_norm)
        return events

    def _restart(self) -> None:
        self._level.restart()
        self._sum, self._since = 0.0, None

    def _event(self, record: StepRecord) -> Event:
        factor, explained = record.total_norm / self._level.value, explained_rise(self._rates, self._decay)
        decay = f"; weight decay lets them rise {number(explained, 2)}x as the rate falls"
        why = decay if explained >= TELLING_RISE else ""
        return event_at(
            record,
            kind="drift",
            severity="info",
            message=f"the norms have drifted up since step {self._since}: total norm {number(record.total_norm)},"
            f" {factor_text(factor)} the level before{why}",
            observed=self._sum,
            limit=LIMIT_DEVIATIONS,
        )
