"""A step whose norm stands far above its neighbours."""

from __future__ import annotations

from collections import deque

from gradwatch.detect.changes import PresenceChanges
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, is_usable
from gradwatch.detect.losses import LossLevel
from gradwatch.record import Event, Origin, Severity, StepRecord, event_at
from gradwatch.text import factor_text, number

NOTED = (3.0, 4.0)
"""Limits of a norm that is noted: times the level, robust deviations above it; whichever is higher."""

WITH_LOSS = (2.0, 3.0)
"""The same, of a norm that rises together with the loss."""

ONE_LAYER = (5.0, 5.0)
"""The same, of one parameter that jumps alone."""

WITHOUT_LOSS_FACTOR, LOSS_STAYED_FACTOR, BEYOND_SIGMAS = 4.0, 6.0, 2.0
"""A norm on its own: the factor without a known loss, the factor if the known loss did not rise, and the deviations
above the level to which both apply."""

USUAL_TAIL_FACTOR = 2.0
"""A norm below this many times the 99th percentile is usual for this training."""

HABIT_SPIKES, HABIT_STEPS, HABIT_FACTOR = 3, 1000, 2.0
"""After the first number of spikes within the second number of steps, the next must be the factor times the largest."""

PATIENCE_STEPS = 100
"""Steps above the level in a row after which the new level is believed."""

DOMINANT_RANK_FACTOR = 2.0
"""A rank dominates when its norm is this many times that of every other."""


class Spike:
    """A norm that healthy steps don't reach: together with the loss, in one layer alone, or on its own.

    It is compared with the last 128 healthy norms, by their median and by how they scatter above it:

    - the total at twice the median and 3 deviations, while the loss stands 6 deviations and its own size
      above the median loss, and is not small beside the first losses: a bad batch;
    - the total on its own, at 4 times the level 2 deviations above the median, or at 6 times if the loss is
      known and did not rise, except in an almost solved task;
    - a parameter at 5 times its median and 5 deviations, all at once, having risen 6 times more than the
      median parameter: a fault in that layer, because a hard batch lifts all of them.

    Some trainings have such steps all the time. The total must therefore also exceed twice the 99th
    percentile of the last 500 norms that raised no alarm, and after three spikes in 1,000 steps twice the
    largest of them.

    The total at 3 times the median and 4 deviations is noted as information. So is a spike that clipping
    brought back. A step that is noted or raises an alarm never enters the median, and neither does a
    non-finite one; after `PATIENCE_STEPS` of them in a row the new level is believed.
    """

    def __init__(self) -> None:
        self._level = Level()
        self._tail = Level(window=500, least=100)
        self._loss = LossLevel()
        self._layers = LayerLevels()
        self._changes = PresenceChanges()
        self._alarms, self._notes = Episode(), Episode()
        self._past: deque[tuple[int, float]] = deque()  # step counts and factors of past spikes
        self._steps_seen = 0
        self._above_in_a_row = 0

    def limit(self) -> float | None:
        """The largest norm that would pass unnoted now; None while the history is too short."""
        return self._level.limit(*NOTED) if self._level.ready else None

    def update(self, record: StepRecord) -> list[Event]:
        self._steps_seen += 1
        if not is_usable(record):
            return self._alarms.calm() + self._notes.calm()
        self._layers.see(record.layers)
        if self._changes.update(record):
            self._restart()
        severity = self._severity(record)
        if severity != "warning":
            self._tail.add(record.total_norm)
        if severity is None:
            self._learn(record)
            return self._alarms.calm() + self._notes.calm()
        self._above_in_a_row += 1
        event = self._event(record, severity)
        if severity == "warning":
            if self._above_in_a_row == 1:
                self._past.append((self._steps_seen, record.total_norm / self._level.value))
            events = self._alarms.alarm(event) + self._notes.calm()
        else:
            events = self._alarms.calm() + self._notes.alarm(event)
        if self._above_in_a_row >= PATIENCE_STEPS:
            self._restart()
        return events

    def _severity(self, record: StepRecord) -> Severity | None:
        if not self._level.ready:
            return None
        norm, noted = record.total_norm, self._level.limit(*NOTED)
        if self._is_alarming(record):
            was_held = record.clipped and norm * record.clip_coef <= noted
            return "info" if was_held else "warning"
        return "info" if norm > noted else None

    def _is_alarming(self, record: StepRecord) -> bool:
        norm = record.total_norm
        with_loss = norm > self._level.limit(*WITH_LOSS) and self._loss.is_out(record.loss)
        factor = WITHOUT_LOSS_FACTOR if record.loss is None else LOSS_STAYED_FACTOR
        by_itself = norm > self._level.limit_beyond(factor, BEYOND_SIGMAS) and not self._loss.is_small(record.loss)
        if (with_loss or by_itself) and not self._is_usual(norm):
            return True
        return self._layers.one_jumped(*ONE_LAYER)

    def _is_usual(self, norm: float) -> bool:
        """Whether this training has had such norms before and went on."""
        if self._tail.ready and norm <= USUAL_TAIL_FACTOR * self._tail.quantile(0.99):
            return True
        while self._past and self._past[0][0] < self._steps_seen - HABIT_STEPS:
            self._past.popleft()
        largest = max((factor for _, factor in self._past), default=0.0)
        return len(self._past) >= HABIT_SPIKES and norm <= HABIT_FACTOR * largest * self._level.value

    def _learn(self, record: StepRecord) -> None:
        self._level.add(record.total_norm)
        self._loss.add(record.loss)
        self._layers.learn(record.layers)
        self._above_in_a_row = 0

    def _restart(self) -> None:
        self._level.restart()
        self._tail.restart()
        self._layers.restart()
        self._past.clear()
        self._above_in_a_row = 0

    def _event(self, record: StepRecord, severity: Severity) -> Event:
        norm = record.total_norm
        parameter, factor = self._layers.highest()
        if self._layers.rose_alike():
            where = ", in all parameters alike"
        else:
            where = f"; most in {parameter} ({factor_text(factor)} its own level)" if factor else ""
        origin, loss = self._origin(record)
        rank = None if record.ranks is None else record.ranks.dominant_rank(DOMINANT_RANK_FACTOR)
        in_rank = "" if rank is None else f"; most in rank {rank}"
        clipped = f"; clipped to {number(norm * record.clip_coef)}" if record.clipped else ""
        return event_at(
            record,
            kind="spike",
            severity=severity,
            message=f"total norm {number(norm)} is {factor_text(norm / self._level.value)} its recent level"
            f"{where}{loss}{in_rank}{clipped}",
            parameter=parameter,
            observed=norm,
            limit=self._level.limit(*NOTED),
            origin=origin,
            rank=rank,
        )

    def _origin(self, record: StepRecord) -> tuple[Origin | None, str]:
        """Where the spike came from, and its part of the message."""
        if record.loss is None:
            return None, ""
        if self._loss.is_out(record.loss):
            return "loss", f"; the loss rose with it, to {number(record.loss)}"
        return "backward", "; the loss did not rise"
