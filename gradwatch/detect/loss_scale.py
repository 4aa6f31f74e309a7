"""Steps that a GradScaler skipped because the scaled gradients overflowed."""

from __future__ import annotations

import math

from gradwatch.record import Event, StepRecord, event_at
from gradwatch.text import number

QUIET_STEPS = 50
"""Single skipped steps are reported at most once in this many steps."""

STREAK_STEPS = 8


class LossScale:
    """A skipped step is how a GradScaler finds its scale: information, once in `QUIET_STEPS` steps.

    Eight in a row divide the usual scale by 256 and mean that something else is wrong: a warning.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._steps_since = QUIET_STEPS

    def update(self, record: StepRecord) -> list[Event]:
        overflowed = record.loss is None or math.isfinite(record.loss)  # else the loss itself was lost
        if not (record.skipped and record.loss_scale is not None and overflowed):
            self._in_a_row = 0
            self._steps_since += 1
            return []
        self._in_a_row += 1
        is_new = self._steps_since >= QUIET_STEPS
        self._steps_since = 0
        if self._in_a_row != STREAK_STEPS and not is_new:
            return []
        is_streak = self._in_a_row >= STREAK_STEPS
        return [
            event_at(
                record,
                kind="loss-scale",
                severity="warning" if is_streak else "info",
                message=f"{self._in_a_row} updates in a row were skipped, down to a loss scale of"
                f" {number(record.loss_scale, 6)}"
                if is_streak
                else "the update was skipped: the gradients overflowed at a loss scale of"
                f" {number(record.loss_scale, 6)}",
                observed=record.loss_scale,
            )
        ]
