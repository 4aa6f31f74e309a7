"""A step whose norm stands far above its neighbours."""

from __future__ import annotations

from collections import deque

from gradwatch.detect.changes import Changes
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, LossLevel, factor_text, usable
from gradwatch.record import Event, Severity, StepRecord

NOTED = (3.0, 4.0)  # times the level, robust deviations above it: whichever is higher
WITH_LOSS = (2.0, 3.0)
OF_A_LAYER = (5.0, 5.0)
ALONE, WITHOUT_LOSS, SIGMAS = 4.0, 6.0, 2.0
TAIL = 2.0
HABIT, HABIT_STEPS, BEYOND = 3, 1000, 2.0
PATIENCE = 100
LOUD = 2.0  # times the norm of every other rank


class Spike:
    """A norm that healthy steps don't reach: with its loss, in one layer alone, or by itself.

    Compared with the last 128 healthy norms, by their median and by how they scatter above it:

    - the total at twice the median and 3 deviations, while the loss stands 6 deviations and its
      own size above the median loss, and is no trifle beside the first losses: a bad batch;
    - the total by itself at 4 times the median and 2 deviations on top of that, at 6 times where
      the loss is known and did not rise, and not in a task that is all but solved;
    - a parameter at 5 times its median and 5 deviations, all at once, and 6 times more than the
      median parameter rose: a fault in that layer, for a hard batch lifts them all.

    Some trainings have such steps all the time. The total must therefore also be at twice the 99th
    percentile of the last 500 norms that raised no alarm, and after three spikes in 1,000 steps at
    twice the largest of them.

    The total at 3 times the median and 4 deviations is noted as information. So is a spike that
    clipping brought back. A step that raises an alarm or is noted never enters the median, a
    non-finite one neither; after `PATIENCE` of them in a row the new level is believed.
    """

    def __init__(self) -> None:
        self._level = Level()
        self._tail = Level(window=500, least=100)
        self._loss = LossLevel()
        self._layers = LayerLevels()
        self._changes = Changes()
        self._alarms, self._notes = Episode(), Episode()
        self._past: deque[tuple[int, float]] = deque()
        self._seen = 0
        self._in_a_row = 0

    def limit(self) -> float | None:
        """The largest norm that would pass unnoted now; None while there is too little history."""
        return self._level.limit(*NOTED) if self._level.ready else None

    def update(self, record: StepRecord) -> list[Event]:
        self._seen += 1
        if not usable(record):
            return self._alarms.calm() + self._notes.calm()
        self._layers.see(record)
        if self._changes.update(record):
            self._restart()
        severity = self._judge(record)
        if severity != "warning":
            self._tail.add(record.total_norm)
        if severity is None:
            self._learn(record)
            return self._alarms.calm() + self._notes.calm()
        self._in_a_row += 1
        event = self._event(record, severity)
        if severity == "warning":
            if self._in_a_row == 1:
                self._past.append((self._seen, record.total_norm / self._level.value))
            events = self._alarms.alarm(event) + self._notes.calm()
        else:
            events = self._alarms.calm() + self._notes.alarm(event)
        if self._in_a_row >= PATIENCE:
            self._restart()
        return events

    def _judge(self, record: StepRecord) -> Severity | None:
        if not self._level.ready:
            return None
        norm = record.total_norm
        with_loss = norm > self._level.limit(*WITH_LOSS) and self._loss.is_out(record.loss)
        factor = ALONE if record.loss is None else WITHOUT_LOSS
        alone = norm > self._level.limit_beyond(factor, SIGMAS) and not self._loss.is_trifle(record.loss)
        if ((with_loss or alone) and not self._is_usual(norm)) or self._layers.lopsided(*OF_A_LAYER):
            held = record.clipped and norm * record.clip_coef <= self._level.limit(*NOTED)
            return "info" if held else "warning"
        return "info" if norm > self._level.limit(*NOTED) else None

    def _is_usual(self, norm: float) -> bool:
        """Whether this training has had such norms without anything coming of them."""
        if self._tail.ready and norm <= TAIL * self._tail.quantile(0.99):
            return True
        while self._past and self._past[0][0] < self._seen - HABIT_STEPS:
            self._past.popleft()
        largest = max((factor for _, factor in self._past), default=0.0)
        return len(self._past) >= HABIT and norm <= BEYOND * largest * self._level.value

    def _learn(self, record: StepRecord) -> None:
        self._level.add(record.total_norm)
        self._loss.add(record.loss)
        self._layers.learn(record)
        self._in_a_row = 0

    def _restart(self) -> None:
        self._level.restart()
        self._tail.restart()
        self._layers.restart()
        self._past.clear()
        self._in_a_row = 0

    def _event(self, record: StepRecord, severity: Severity) -> Event:
        norm = record.total_norm
        parameter, factor = self._layers.furthest()
        with_loss = self._loss.is_out(record.loss)
        origin = None
        if self._layers.rose_alike():
            where = ", in all parameters alike"
        else:
            where = f"; most in {parameter} ({factor_text(factor)} its own level)" if factor else ""
        if record.loss is not None:
            origin = "loss" if with_loss else "backward"
            where += f"; the loss rose with it, to {record.loss:.3g}" if with_loss else "; the loss did not rise"
        rank = None if record.ranks is None else record.ranks.dominant_rank(LOUD)
        where += "" if rank is None else f"; most in rank {rank}"
        clipped = f"; clipped to {norm * record.clip_coef:.3g}" if record.clipped else ""
        return Event(
            step=record.step,
            kind="spike",
            severity=severity,
            parameter=parameter,
            observed=norm,
            limit=self._level.limit(*NOTED),
            message=f"total norm {norm:.3g} is {factor_text(norm / self._level.value)} its recent level"
            f"{where}{clipped}",
            optimizer=record.optimizer,
            attempt=record.attempt,
            origin=origin,
            rank=rank,
        )
