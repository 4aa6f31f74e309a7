"""Steps that a GradScaler skipped because the scaled gradients overflowed."""

from __future__ import annotations

from gradwatch.record import Event, StepRecord

QUIET = 50
STREAK = 8


class LossScale:
    """A back-off of the scaler is how it finds its scale: information, once in `QUIET` steps.

    Eight in a row divide the usual scale by 256 and say that something else is wrong: a warning.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._since = QUIET

    def update(self, record: StepRecord) -> list[Event]:
        if not (record.skipped and record.loss_scale is not None):
            self._in_a_row = 0
            self._since += 1
            return []
        self._in_a_row += 1
        is_new = self._since >= QUIET
        self._since = 0
        if self._in_a_row != STREAK and not is_new:
            return []
        streak = self._in_a_row >= STREAK
        return [
            Event(
                step=record.step,
                kind="loss-scale",
                severity="warning" if streak else "info",
                observed=record.loss_scale,
                message=f"{self._in_a_row} updates in a row were skipped, down to a loss scale of {record.loss_scale:g}"
                if streak
                else f"the update was skipped: the gradients overflowed at a loss scale of {record.loss_scale:g}",
                optimizer=record.optimizer,
                attempt=record.attempt,
            )
        ]
