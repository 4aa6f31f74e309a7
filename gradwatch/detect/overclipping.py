"""Clipping at most steps, which lowers the learning rate instead of guarding against spikes."""

from __future__ import annotations

import math
from collections import deque

from gradwatch.detect.optimizers import UpdateRule, traits_of
from gradwatch.record import Event, Severity, StepRecord, event_at
from gradwatch.text import number
from gradwatch.text import share as percentage

WINDOW_STEPS = 300
CLIPPED_FRACTION, REARM_FRACTION = 0.5, 0.3
"""Fraction of clipped steps that is reported, and below which it may be reported again."""

LOW_COEF = 0.5
"""A mean coefficient below this slows an optimizer that follows the gradient."""


def is_adaptive(optimizer_class: str) -> bool:
    """Whether an optimizer of `torch.optim` is known to step alike when all gradients are multiplied by a constant.

    >>> is_adaptive("AdamW"), is_adaptive("SGD")
    (True, False)
    """
    return traits_of(optimizer_class).update_rule == "normalises"


class OverClipping:
    """More than half of the last 300 steps were clipped.

    No published evidence says which fraction is healthy, so the fraction alone is information. It is a warning
    where the mean coefficient is below 0.5 as well and the optimizer's update follows the gradient (SGD): the
    learning rate is in effect multiplied by that coefficient. For an optimizer that normalises (Adam), clipping
    at most steps acts as normalisation.
    """

    def __init__(self, update_rule: UpdateRule | None = None) -> None:
        self._update_rule = update_rule
        self._coefs: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._clipped: deque[bool] = deque(maxlen=WINDOW_STEPS)
        self._armed = True

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped or not math.isfinite(record.clip_coef):
            return []
        self._coefs.append(record.clip_coef)
        self._clipped.append(record.clipped)
        fraction = sum(self._clipped) / WINDOW_STEPS
        if len(self._clipped) < WINDOW_STEPS or fraction <= CLIPPED_FRACTION:
            self._armed = self._armed or fraction < REARM_FRACTION
            return []
        if not self._armed:
            return []
        self._armed = False
        return [self._event(record, fraction, sum(self._coefs) / WINDOW_STEPS)]

    def _event(self, record: StepRecord, fraction: float, coef: float) -> Event:
        is_by_value = record.clip_value is not None and record.max_norm is None  # no factor stands for it
        how = "clipped by value" if is_by_value else f"clipped, mean clip_coef {number(coef, 2)}"
        is_slowed = coef < LOW_COEF and self._update_rule == "follows-gradient"
        severity: Severity = "warning" if is_slowed else "info"
        return event_at(
            record,
            kind="overclipping",
            severity=severity,
            message=f"{percentage(fraction)} of the last {WINDOW_STEPS} steps were {how}",
            observed=fraction,
            limit=CLIPPED_FRACTION,
        )
