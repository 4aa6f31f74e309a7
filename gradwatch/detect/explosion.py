"""Norms that leave their level and stay away, or leave it so far that one step is enough."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from gradwatch.detect.changes import Changes, Rates
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, LossLevel, Parameters, factor_text, usable
from gradwatch.detect.overclipping import is_adaptive
from gradwatch.record import Event, Severity, StepRecord

WARN = (3.0, 4.0)  # times the level, robust deviations above it: whichever is higher
CRITICAL = (10.0, 6.0)
AT_ONCE = (100.0, 8.0)
HOT_STEPS, OF_LAST = 5, 10
ENOUGH = 32  # norms that a level needs before the narrow limits count
PATIENCE = 100
LOST_STEPS, AFTER = 20, 200
OF_WEIGHTS = 0.7
LOSING = (4.0, 0.3)  # robust deviations, share of the median loss: both


class Explosion:
    """Five of the last ten norms far above the level, or one that no training survives unclipped.

    The level is the median of a window that ends 100 steps ago, so that growth can't carry it
    along; until that exists, of the steps so far; in the first 32 steps, of the first five, which
    a training that explodes from the start leaves behind. Alarmed and non-finite steps never enter it.

    How bad it is, the loss tells where it is known. Norms that grow while the loss does not are a
    training that gets going: information. With a loss that left its own level they are a warning,
    at 10 times the level critical; so they are where no loss is known, but not within 100 steps of
    a changed learning rate. One unclipped step at 100 times the level is critical where the
    optimizer follows the size of its gradient (SGD), and so is a non-finite step right after a
    rise. What clipping brings back under the limit is information.

    A loss that stays out of its level for 20 steps after a rise is critical, wherever the norms
    went since. And an update that changes a matrix by more than 0.7 of itself is a warning at
    once: where a learning rate is too high from the first step on there is no level to leave.
    """

    def __init__(self, optimizer_class: str = "SGD") -> None:
        self._scale_free = is_adaptive(optimizer_class)
        self._lagged = Level(window=500, least=100, lag=100)
        self._early = Level(window=500, least=ENOUGH)
        self._start = Level(window=500, least=5)
        self._loss = LossLevel(window=500, lag=100)
        self._early_loss = LossLevel(window=500, least=5)
        self._losses: deque[float] = deque(maxlen=OF_LAST)
        self._layers = LayerLevels()
        self._changes = Changes()
        self._rates = Rates()
        self._parameters = Parameters()
        self._since_hot = AFTER
        self._lost_steps = 0
        self._grades: deque[int] = deque(maxlen=OF_LAST)
        self._episode = Episode()
        self._hot_in_a_row = 0

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped:
            return []
        self._rates.update(record)
        if record.loss is not None:
            self._losses.append(record.loss)
        if not usable(record):
            return self._nonfinite(record)
        self._layers.see(record)
        if self._changes.update(record):
            self._believe_the_new_level()
        level = self._level()
        grade = _grade(record.total_norm, level)
        self._grades.append(grade)
        self._since_hot = 0 if grade >= 0 else self._since_hot + 1
        self._lost_steps = self._lost_steps + 1 if self._losing() else 0
        events = self._judge(record, level)
        if grade < 0:
            self._learn(record)
            return events
        self._hot_in_a_row += 1
        if self._hot_in_a_row >= PATIENCE:
            self._believe_the_new_level()
        return events

    def _judge(self, record: StepRecord, level: Level | None) -> list[Event]:
        out_of_proportion = self._out_of_proportion(record)
        if level is not None:
            worst = self._worst(record, level)
            if self._lost_steps >= LOST_STEPS and (self._since_hot < AFTER or self._rates.changed):
                return self._episode.alarm(self._event(record, "critical", level))
            if worst >= 0:
                return self._episode.alarm(self._event(record, self._severity(record, level, worst), level))
        if out_of_proportion:
            return self._episode.alarm(out_of_proportion)
        return self._episode.calm()

    def _out_of_proportion(self, record: StepRecord) -> Event | None:
        """The event of an update that changed a matrix by more than 0.7 of itself, where it was sampled."""
        if record.weights is None or record.layers is None:
            return None
        ratio = record.weights.update_ratio.astype(float)
        self._parameters.see(record.layers.parameters)
        ratio[~(self._parameters.matrices[: len(ratio)] & np.isfinite(ratio))] = 0.0
        largest = int(np.argmax(ratio)) if len(ratio) else 0
        if not len(ratio) or ratio[largest] <= OF_WEIGHTS:
            return None
        name = record.layers.parameters[largest].name
        rate = f" at a learning rate of {record.learning_rates[0]:.3g}" if record.learning_rates else ""
        return Event(
            step=record.step,
            kind="explosion",
            severity="warning",
            parameter=name,
            observed=float(ratio[largest]),
            limit=OF_WEIGHTS,
            message=f"one update changed {name} by {ratio[largest]:.2g} times its own norm{rate}",
            optimizer=record.optimizer,
            attempt=record.attempt,
        )

    def _level(self) -> Level | None:
        if self._lagged.ready:
            return self._lagged
        if self._early.ready:
            return self._early
        return self._start if self._start.ready else None

    def _learn(self, record: StepRecord) -> None:
        self._lagged.add(record.total_norm)
        self._early.add(record.total_norm)
        if not self._start.ready:
            self._start.add(record.total_norm)
        if not self._lost_steps:
            self._loss.add(record.loss)
            self._early_loss.add(record.loss)
        self._layers.learn(record)
        self._hot_in_a_row = 0

    def _worst(self, record: StepRecord, level: Level) -> int:
        """The worst grade that holds now; -1 where the rise has not lasted."""
        hot = [grade for grade in self._grades if grade >= 0]
        sustained = len(hot) >= HOT_STEPS and len(level) >= ENOUGH
        if _grade(record.total_norm * record.clip_coef, level) >= 2:
            return 2
        return sorted(hot)[-HOT_STEPS] if sustained else -1

    def _severity(self, record: StepRecord, level: Level, worst: int) -> Severity:
        losing = self._losing()
        if record.clipped and record.total_norm * record.clip_coef <= level.limit(*WARN):
            return "info"
        if worst == 2 and not self._scale_free:
            return "critical"
        if losing is False or (losing is None and self._rates.changed):
            return "info"
        return "warning" if worst == 0 else "critical"

    def _losing(self) -> bool | None:
        """Whether the loss has left its level; None where it is not known."""
        if not self._losses:
            return None
        level = self._loss if self._loss.ready else self._early_loss
        recent = sorted(self._losses)[len(self._losses) // 2 :]
        return level.is_out(recent[0], *LOSING) or not all(map(math.isfinite, recent))

    def _nonfinite(self, record: StepRecord) -> list[Event]:
        rising = any(grade >= 0 for grade in self._grades)
        level = self._level()
        bad = record.nonfinite > 0 or not math.isfinite(record.total_norm)
        if not (rising and bad and level is not None):
            return self._episode.calm()
        return self._episode.alarm(self._event(record, "critical", level))

    def _where_it_began(self) -> tuple[str | None, str]:
        """The parameter and its part of the message; what gets worse keeps those of its beginning."""
        begun = self._episode.event
        if begun is not None:
            return begun.parameter, f"; first in {begun.parameter}" if begun.parameter else ""
        parameter, own = self._layers.first_to_leave()
        return parameter, f"; first in {parameter} ({factor_text(own)} its own level)" if own else ""

    def _event(self, record: StepRecord, severity: Severity, level: Level) -> Event:
        norm = record.total_norm
        parameter, first = self._where_it_began()
        grown = (
            f"total norm {norm:.3g}, {factor_text(norm / level.value)} its level"
            if math.isfinite(norm)
            else "the norm grew until it was no longer finite"
        )
        losing = self._losing()
        loss = {True: "; the loss left its level too", False: "; the loss has not risen", None: ""}[losing]
        rate = f"; the learning rate was changed to {record.learning_rates[0]:.3g}" if self._rates.changed else ""
        clipped = f"; clipped to {norm * record.clip_coef:.3g}" if record.clipped else ""
        return Event(
            step=record.step,
            kind="explosion",
            severity=severity,
            parameter=parameter,
            observed=norm,
            limit=level.limit(*WARN),
            message=grown + first + loss + rate + clipped,
            optimizer=record.optimizer,
            attempt=record.attempt,
        )

    def _believe_the_new_level(self) -> None:
        self._lagged.restart()
        self._early.restart()
        self._start.restart()
        self._layers.restart()
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
