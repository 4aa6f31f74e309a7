"""Norms that leave their level and stay away, or leave it so far that one step is enough."""

from __future__ import annotations

import math
from collections import deque

from gradwatch.detect.level import LayerHistory, Level, factor_text, usable
from gradwatch.record import Event, Severity, StepRecord

WARN = (3.0, 4.0)  # times the level, robust deviations above it: whichever is higher
CRITICAL = (10.0, 6.0)
AT_ONCE = (100.0, 8.0)
HOT_STEPS, OF_LAST = 5, 10
ENOUGH = 32  # norms that a level needs before the narrow limits count
QUIET = 50
PATIENCE = 100


class Explosion:
    """Five of the last ten norms far above the level, or one that no training survives unclipped.

    The level is the median of a window that ends 100 steps ago, so that growth can't carry it
    along; until that exists, of the steps so far; in the first 32 steps, of the first five, which
    a training that explodes from the start leaves behind. Alarmed and non-finite steps never enter it.
    Above 3 times the level it is a warning, above 10 times critical, above 100 times a single
    unclipped step is enough, and so is a non-finite step right after a rise. Where clipping
    brings the step back under the limit it is information: the norms grew, the updates did not.
    """

    def __init__(self) -> None:
        self._lagged = Level(window=500, least=100, lag=100)
        self._early = Level(window=500, least=ENOUGH)
        self._start = Level(window=500, least=5)
        self._layers = LayerHistory()
        self._grades: deque[int] = deque(maxlen=OF_LAST)
        self._since_hot = QUIET
        self._reported = -1
        self._hot_in_a_row = 0

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped:
            return []
        if not usable(record):
            return self._nonfinite(record)
        self._layers.see(record)
        level = self._level()
        grade = _grade(record.total_norm, level)
        if grade < 0 or level is None:
            self._cool(record)
            return []
        self._since_hot = 0
        self._hot_in_a_row += 1
        self._grades.append(grade)
        events = self._judge(record, level)
        if self._hot_in_a_row >= PATIENCE:
            self._believe_the_new_level()
        return events

    def _level(self) -> Level | None:
        if self._lagged.ready:
            return self._lagged
        if self._early.ready:
            return self._early
        return self._start if self._start.ready else None

    def _cool(self, record: StepRecord) -> None:
        self._lagged.add(record.total_norm)
        self._early.add(record.total_norm)
        if not self._start.ready:
            self._start.add(record.total_norm)
        self._layers.learn(record)
        self._grades.append(-1)
        self._hot_in_a_row = 0
        self._since_hot += 1
        if self._since_hot >= QUIET:
            self._reported = -1

    def _judge(self, record: StepRecord, level: Level) -> list[Event]:
        """The worst grade that holds now, if it is worse than what was said of this rise already."""
        hot = [grade for grade in self._grades if grade >= 0]
        sustained = len(hot) >= HOT_STEPS and len(level) >= ENOUGH
        worst = sorted(hot)[-HOT_STEPS] if sustained else -1
        if _grade(record.total_norm * record.clip_coef, level) >= 2:
            worst = 2
        if worst <= self._reported:
            return []
        self._reported = worst
        left = record.total_norm * record.clip_coef
        severity: Severity = "warning" if worst == 0 else "critical"
        if record.clipped and left <= level.limit(*WARN):
            severity = "info"
        return [self._event(record, severity, record.total_norm / level.value, level)]

    def _nonfinite(self, record: StepRecord) -> list[Event]:
        rising = any(grade >= 0 for grade in self._grades)
        level = self._level()
        bad = record.nonfinite > 0 or not math.isfinite(record.total_norm)
        if not (rising and bad and level is not None and self._reported < 1):
            return []
        self._reported = 2
        return [self._event(record, "critical", math.inf, level)]

    def _event(self, record: StepRecord, severity: Severity, factor: float, level: Level) -> Event:
        parameter, own = self._layers.first_to_leave()
        first = f"; first in {parameter} ({factor_text(own)} its own level)" if own else ""
        grown = (
            f"total norm {record.total_norm:.3g}, {factor_text(factor)} its level"
            if math.isfinite(factor)
            else "the norm grew until it was no longer finite"
        )
        clipped = f"; clipped to {record.total_norm * record.clip_coef:.3g}" if record.clipped else ""
        return Event(
            step=record.step,
            kind="explosion",
            severity=severity,
            parameter=parameter,
            observed=record.total_norm,
            limit=level.limit(*WARN),
            message=grown + first + clipped,
            optimizer=record.optimizer,
            attempt=record.attempt,
        )

    def _believe_the_new_level(self) -> None:
        self._lagged.restart()
        self._early.restart()
        self._start.restart()
        self._grades.clear()
        self._hot_in_a_row = 0


def _grade(norm: float, level: Level | None) -> int:
    """-1 where the norm is within the limits, else 0, 1 or 2: warn, critical, at once."""
    if level is None:
        return -1
    if len(level) < ENOUGH:  # too early for more than the widest limit
        return 2 if norm > level.limit(*AT_ONCE) else -1
    limits = (WARN, CRITICAL, AT_ONCE)
    return sum(norm > level.limit(*limit) for limit in limits) - 1
