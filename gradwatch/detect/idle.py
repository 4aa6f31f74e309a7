"""A clipping threshold that never acts."""

from __future__ import annotations

import math

from gradwatch.record import Event, StepRecord, event_at
from gradwatch.text import number

IDLE_STEPS = 1000
FAR_FRACTION = 0.5
"""No norm came within this fraction of the threshold."""


class IdleClipping:
    """In 1,000 steps nothing was clipped and no norm came within half of the threshold: information, once.

    Such a threshold may still guard against what has not happened yet, but it has no part in the training.
    A step that clips, or another threshold, starts the count again.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._largest = 0.0
        self._threshold: float | None = None
        self._reported = False

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped or not math.isfinite(record.total_norm):
            return []
        if record.max_norm != self._threshold or record.clipped:
            self._threshold, self._steps, self._largest, self._reported = record.max_norm, 0, 0.0, False
        if record.clipped or self._threshold is None or not math.isfinite(self._threshold):
            return []
        self._steps += 1
        self._largest = max(self._largest, record.total_norm)
        is_idle = self._steps >= IDLE_STEPS and self._largest < FAR_FRACTION * self._threshold
        if self._reported or not is_idle:
            return []
        self._reported = True
        return [
            event_at(
                record,
                kind="idle-clipping",
                severity="info",
                message=f"the threshold {number(self._threshold, 6)} clipped nothing in {IDLE_STEPS} steps:"
                f" the largest norm was {number(self._largest / self._threshold, 2)} of it",
                observed=self._largest,
                limit=self._threshold,
            )
        ]
