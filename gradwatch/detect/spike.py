"""A step whose norm stands far above its neighbours."""

from __future__ import annotations

from gradwatch.detect.changes import Changes
from gradwatch.detect.episode import Episode
from gradwatch.detect.level import LayerLevels, Level, LossLevel, factor_text, usable
from gradwatch.record import Event, Severity, StepRecord

NOTED = (3.0, 4.0)  # times the level, robust deviations above it: whichever is higher
WITH_LOSS = (2.0, 3.0)
OF_A_LAYER = (5.0, 5.0)
ALONE, WITHOUT_LOSS, SIGMAS = 4.0, 6.0, 2.0
PATIENCE = 100


class Spike:
    """A norm that healthy steps don't reach: with its loss, in one layer alone, or by itself.

    Compared with the last 128 healthy norms, by their median and by how they scatter above it:

    - the total at twice the median and 3 deviations, while the loss stands 8 deviations and its
      own size above the median loss: a bad batch;
    - a parameter at 5 times its median and 5 deviations, and 6 times more than the median
      parameter rose: a fault in that layer, for a hard batch lifts them all;
    - the total by itself at 4 times the median and 2 deviations on top of that, where it also
      stands out of the 500 steps before; at 6 times where the loss is known and did not rise.

    The total at 3 times the median and 4 deviations is noted as information. So is a spike that
    clipping brought back. A step that raises an alarm never enters the median, a non-finite one
    neither; after `PATIENCE` alarms in a row the new level is believed.
    """

    def __init__(self) -> None:
        self._level = Level()
        self._before = Level(window=500, lag=100)
        self._loss = LossLevel()
        self._layers = LayerLevels()
        self._changes = Changes()
        self._episode = Episode()
        self._in_a_row = 0

    def limit(self) -> float | None:
        """The largest norm that would pass unnoted now; None while there is too little history."""
        return self._level.limit(*NOTED) if self._level.ready else None

    def update(self, record: StepRecord) -> list[Event]:
        if not usable(record):
            return self._episode.calm()
        self._layers.see(record)
        if self._changes.update(record):
            self._restart()
        severity = self._judge(record)
        if severity is None:
            self._learn(record)
            return self._episode.calm()
        self._in_a_row += 1
        events = self._episode.alarm(self._event(record, severity))
        if self._in_a_row >= PATIENCE:
            self._restart()
        return events

    def _judge(self, record: StepRecord) -> Severity | None:
        if not self._level.ready:
            return None
        norm = record.total_norm
        loss_too = self._loss.is_out(record.loss) and norm > self._level.limit(*WITH_LOSS)
        in_a_layer = self._layers.lopsided(*OF_A_LAYER)
        factor = ALONE if record.loss is None else WITHOUT_LOSS
        alone = norm > self._level.limit_beyond(factor, SIGMAS) and not (
            self._before.ready and norm <= self._before.limit(*NOTED)
        )
        if loss_too or in_a_layer or alone:
            held = record.clipped and norm * record.clip_coef <= self._level.limit(*NOTED)
            return "info" if held else "warning"
        return "info" if norm > self._level.limit(*NOTED) else None

    def _learn(self, record: StepRecord) -> None:
        self._level.add(record.total_norm)
        self._before.add(record.total_norm)
        self._loss.add(record.loss)
        self._layers.learn(record)
        self._in_a_row = 0

    def _restart(self) -> None:
        self._level.restart()
        self._before.restart()
        self._layers.restart()
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
        )
