"""A clipping threshold that never acts."""

from __future__ import annotations

import math

from gradwatch.record import Event, StepRecord

STEPS = 1000
FAR = 0.5


class IdleClipping:
    """In 1,000 steps nothing was clipped, and no norm came within half of the threshold: information, once.

    Such a threshold may still be a guard against what has not come yet; it is no part of the training.
    A step that clips, or another threshold, starts the count again.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._largest = 0.0
        self._threshold: float | None = None
        self._told = False

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped or not math.isfinite(record.total_norm):
            return []
        if record.max_norm != self._threshold or record.clipped:
            self._threshold, self._steps, self._largest, self._told = record.max_norm, 0, 0.0, False
        if self._threshold is None or not math.isfinite(self._threshold) or record.clipped:
            return []
        self._steps += 1
        self._largest = max(self._largest, record.total_norm)
        if self._told or self._steps < STEPS or self._largest >= FAR * self._threshold:
            return []
        self._told = True
        share = self._largest / self._threshold
        return [
            Event(
                step=record.step,
                kind="idle-clipping",
                severity="info",
                observed=self._largest,
                limit=self._threshold,
                message=f"the threshold {self._threshold:g} did nothing in {STEPS} steps:"
                f" the largest norm was {share:.2g} of it",
                optimizer=record.optimizer,
                attempt=record.attempt,
            )
        ]
