"""Norms that leave their level and stay away, or leave it so far that one step is enough."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.changes import PresenceChanges, RateChanges
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, ParameterShapes, is_usable, median
from gradwatch.detect.losses import LossLevel, begins_at_zero
from gradwatch.detect.optimizers import UpdateRule
from gradwatch.record import Event, Severity, StepRecord, WeightStats, event_at
from gradwatch.text import factor_text, number

HIGH = (3.0, 4.0)
"""Limits of a norm above its level: times the level, robust deviations above it; whichever is higher."""

VERY_HIGH = (10.0, 6.0)
EXTREME = (100.0, 8.0)

HIGH_STEPS, OF_LAST_STEPS = 5, 10
"""A rise has lasted when this many of the last steps are high."""

MIN_NORMS = 32
"""Norms that a level needs before the narrower limits count."""

PATIENCE_STEPS = 100
"""High steps in a row after which the new level is believed."""

LOST_STEPS, AFTER_RISE_STEPS = 20, 200
"""Steps that a loss must stay out of its level to be lost, and steps after a rise within which this counts."""

LARGEST_UPDATE_RATIO = 0.7
"""An update out of proportion changes a matrix by more than this fraction of its norm."""

LOSING = (4.0, 0.3)
"""A loss has left its level: robust deviations above the median, and fraction of it; both."""


class Explosion:
    """Finds norms that explode: five of the last ten far above the level, or one that no training survives unclipped.

    The level is the median of a window that ends 100 steps ago, so that growth can't move it. Until that
    window is full, the level is the median of the steps so far. In the first 32 steps it is the median of the first
    five steps, which a training that explodes from the start leaves behind. High and non-finite steps never enter it.

    A known loss decides the severity. If norms grow while the loss does not, the training is getting going: the
    event is information. If the loss left its own level, the event is a warning, and critical at 10 times the level
    of the norm. The same holds if no loss is known, except within 100 steps of a changed learning rate. One
    unclipped step at 100 times the level is critical for an optimizer whose update follows the gradient. So is a
    non-finite step right after a rise. A rise that clipping brings back under the limit is information.

    An explosion from which norms and loss come back is lowered to a warning when it is over, however high it
    went: it had no lasting consequence.

    A loss that stays out of its level for 20 steps after a rise of the norm or of the learning rate is critical,
    wherever the norms went since.

    An update that changes a matrix by more than 0.7 of its norm is a warning at once: if the learning rate is too
    high from the first step on, there is no level to leave. A step of an optimizer that iterates makes many updates:
    together they may change the weights by far more.
    """

    def __init__(self, update_rule: UpdateRule | None = None, iterates: bool = False) -> None:
        self._update_rule = update_rule
        self._iterates = iterates
        self._levels = _Levels()
        self._losses = _Losses()
        self._layers = LayerLevels()
        self._changes = PresenceChanges()
        self._rates = RateChanges()
        self._updates = _LargeUpdates()
        self._steps_since_rise = AFTER_RISE_STEPS
        self._grades: deque[int] = deque(maxlen=OF_LAST_STEPS)
        self._episode = Episode()
        self._high_in_a_row = 0
        self._stayed = False  # norms did not come back from the rise: a new level was believed

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped:
            return []
        self._rates.update(record)
        self._losses.see(record.loss)
        if not is_usable(record):
            return self._nonfinite(record)
        self._layers.see(record.layers)
        if self._changes.update(record):
            self._believe_the_new_level()
        level = self._levels.current
        grade = _grade(record.total_norm, level)
        self._grades.append(grade)
        self._steps_since_rise = 0 if grade >= 0 else self._steps_since_rise + 1
        self._losses.count()
        events = self._alarm_or_calm(record, level)
        if grade < 0:
            self._learn(record)
            return events
        self._high_in_a_row += 1
        if self._high_in_a_row >= PATIENCE_STEPS:
            self._believe_the_new_level()
        return events

    def _alarm_or_calm(self, record: StepRecord, level: Level | None) -> list[Event]:
        large_update = None if self._iterates else self._updates.event(record)
        if level is not None:
            if self._losses.steps_out >= LOST_STEPS and (
                self._steps_since_rise < AFTER_RISE_STEPS or self._rates.raised
            ):
                return self._episode.alarm(self._event(record, "critical", level))
            worst = self._worst_grade(record, level)
            if worst >= 0:
                self._stayed = self._stayed and self._episode.event is not None
                return self._episode.alarm(self._event(record, self._severity(record, level, worst), level))
        if large_update is not None:
            return self._episode.alarm(large_update)
        return self._episode.calm(self._came_back(level))

    def _came_back(self, level: Level | None) -> str | None:
        """What shows that a rise had no lasting consequence; None where there was none, or the level or loss stayed."""
        if self._episode.event is None or level is None or self._stayed or self._losses.are_out():
            return None
        return "norms came back" if self._losses.are_out() is None else "loss and norms came back"

    def _learn(self, record: StepRecord) -> None:
        self._levels.add(record.total_norm)
        self._losses.learn(record.loss)
        self._layers.learn(record.layers)
        self._high_in_a_row = 0

    def _worst_grade(self, record: StepRecord, level: Level) -> int:
        """The worst grade that holds now; -1 where the rise has not lasted."""
        high = [grade for grade in self._grades if grade >= 0]
        has_lasted = len(high) >= HIGH_STEPS and len(level) >= MIN_NORMS
        if _grade(record.total_norm * record.clip_coef, level) >= 2:
            return 2
        return sorted(high)[-HIGH_STEPS] if has_lasted else -1

    def _severity(self, record: StepRecord, level: Level, worst: int) -> Severity:
        losing = self._losses.are_out()
        if record.clipped and record.total_norm * record.clip_coef <= level.limit(*HIGH):
            return "info"
        if worst == 2 and self._update_rule == "follows-gradient":
            return "critical"
        if losing is False or (losing is None and self._rates.changed):
            return "info"
        return "warning" if worst == 0 else "critical"

    def _nonfinite(self, record: StepRecord) -> list[Event]:
        rising = any(grade >= 0 for grade in self._grades)
        is_nonfinite = record.nonfinite > 0 or math.isinf(record.total_norm)
        level = self._levels.current
        if not (rising and is_nonfinite and level is not None):
            return self._episode.calm()
        return self._episode.alarm(self._event(record, "critical", level))

    def _where_it_began(self) -> tuple[str | None, str]:
        """The parameter and its part of the message; an event that gets graver keeps those of its beginning."""
        begun = self._episode.event
        if begun is not None:
            return begun.parameter, f"; first in {begun.parameter}" if begun.parameter else ""
        parameter, factor = self._layers.first_to_leave()
        return parameter, f"; first in {parameter} ({factor_text(factor)} its own level)" if factor else ""

    def _event(self, record: StepRecord, severity: Severity, level: Level) -> Event:
        norm = record.total_norm
        parameter, first = self._where_it_began()
        grown = (
            f"total norm {number(norm)}, {factor_text(norm / level.value)} its level"
            if math.isfinite(norm)
            else "the norm grew, and was no longer finite in the end"
        )
        loss = {True: "; the loss left its level too", False: "; the loss has not risen", None: ""}[
            self._losses.are_out()
        ]
        is_changed = self._rates.changed and bool(record.learning_rates)
        rate = f"; the learning rate was changed to {number(record.learning_rates[0])}" if is_changed else ""
        clipped = f"; clipped to {number(norm * record.clip_coef)}" if record.clipped else ""
        return event_at(
            record,
            kind="explosion",
            severity=severity,
            message=grown + first + loss + rate + clipped,
            parameter=parameter,
            observed=norm,
            limit=level.limit(*HIGH),
        )

    def _believe_the_new_level(self) -> None:
        self._levels.restart()
        self._layers.restart()
        self._grades.clear()
        self._high_in_a_row = 0
        self._stayed = True


class _Levels:
    """The level to compare with: lagged, early or of the start, the first of them that is ready."""

    def __init__(self) -> None:
        self._lagged = Level(window=500, least=100, lag=100)
        self._early = Level(window=500, least=MIN_NORMS)
        self._start = Level(window=500, least=5)

    @property
    def current(self) -> Level | None:
        return next((level for level in (self._lagged, self._early, self._start) if level.ready), None)

    def add(self, norm: float) -> None:
        self._lagged.add(norm)
        self._early.add(norm)
        if not self._start.ready:
            self._start.add(norm)

    def restart(self) -> None:
        for level in (self._lagged, self._early, self._start):
            level.restart()


class _Losses:
    """The last losses, beside the level that they had before.

    Attributes:
        steps_out: the steps in a row whose loss was out of its level.
    """

    def __init__(self) -> None:
        self.steps_out = 0
        self._begins_at_zero = False
        self._lagged = LossLevel(window=500, lag=100)
        self._early = LossLevel(window=500, least=5)
        self._last: deque[float] = deque(maxlen=OF_LAST_STEPS)

    def see(self, loss: float | None) -> None:
        if loss is None:
            return
        if not self._last:
            self._begins_at_zero = begins_at_zero([loss])
        self._last.append(loss)

    def count(self) -> None:
        """Count a step whose norm is finite."""
        self.steps_out = self.steps_out + 1 if self.are_out() else 0

    def learn(self, loss: float | None) -> None:
        """Take a loss into the level, unless the last ones are out of it."""
        if not self.steps_out:
            self._lagged.add(loss)
            self._early.add(loss)

    def are_out(self) -> bool | None:
        """Whether the loss has left its level; None if no loss is known."""
        if not self._last:
            return None
        level = self._lagged if self._lagged.ready else self._early
        recent = sorted(self._last)[len(self._last) // 2 :]
        if self._begins_at_zero:
            return not all(map(math.isfinite, recent))
        return level.is_out(recent[0], *LOSING) or not all(map(math.isfinite, recent))


class _LargeUpdates:
    """Finds updates that change a matrix by a large fraction of its norm, where they are sampled."""

    def __init__(self) -> None:
        self._shapes = ParameterShapes()

    def event(self, record: StepRecord) -> Event | None:
        if record.weights is None or record.layers is None:
            return None
        ratio = record.weights.update_ratio.astype(float)
        self._shapes.see(record.layers.parameters)
        ratio[~(self._shapes.matrices[: len(ratio)] & np.isfinite(ratio))] = 0.0
        ratio[self._is_small(record.weights)] = 0.0
        largest = int(np.argmax(ratio)) if len(ratio) else 0
        if not len(ratio) or ratio[largest] <= LARGEST_UPDATE_RATIO:
            return None
        name = record.layers.parameters[largest].name
        rate = f" at a learning rate of {number(record.learning_rates[0])}" if record.learning_rates else ""
        return event_at(
            record,
            kind="explosion",
            severity="warning",
            message=f"one update changed {name} by {number(ratio[largest])} times its own norm{rate}",
            parameter=name,
            observed=float(ratio[largest]),
            limit=LARGEST_UPDATE_RATIO,
        )

    def _is_small(self, weights: WeightStats) -> NDArray[np.bool_]:
        """Which updates are small beside the typical entry of a matrix: what begins near zero may move."""
        root = np.sqrt(self._shapes.sizes[: len(weights.weight_norm)])
        with np.errstate(divide="ignore", invalid="ignore"):  # a parameter may have no entry, a weight may be infinite
            entries = weights.weight_norm / root
            known = entries[self._shapes.matrices[: len(entries)] & (entries > 0)]
            typical = median(known) if len(known) else 0.0
            small: NDArray[np.bool_] = weights.update_norm / root <= LARGEST_UPDATE_RATIO * typical
        return small


def _grade(norm: float, level: Level | None) -> int:
    """Grade a norm: -1 within the limits, 0 high, 1 very high, 2 extreme."""
    if level is None:
        return -1
    if len(level) < MIN_NORMS:  # too early for any but the widest limit
        return 2 if norm > level.limit(*EXTREME) else -1
    if not norm > level.limit(*HIGH):
        return -1
    return sum(norm > level.limit(*limit) for limit in (VERY_HIGH, EXTREME))
