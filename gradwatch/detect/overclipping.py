"""Clipping at most steps, which is another learning rate rather than a guard."""

from __future__ import annotations

import math
from collections import deque

from gradwatch.record import Event, Severity, StepRecord

WINDOW = 300
SHARE = 0.5
REARM = 0.3
COEF = 0.5

_SCALE_FREE = ("adam", "rmsprop", "adagrad", "adadelta", "lion", "adafactor", "muon", "rprop", "lamb")


def is_adaptive(optimizer_class: str) -> bool:
    """Whether multiplying all gradients by a constant leaves this optimizer's steps as they are.

    >>> is_adaptive("AdamW"), is_adaptive("SGD")
    (True, False)
    """
    return any(name in optimizer_class.lower() for name in _SCALE_FREE)


class OverClipping:
    """More than half of the last 300 steps clipped.

    No published evidence says which share is healthy, so the share alone is information. It is a
    warning where the mean coefficient is below 0.5 as well and the optimizer follows the size of
    its gradient (SGD): there the learning rate is in effect multiplied by that coefficient. For
    Adam and its like clipping at most steps acts as normalisation.
    """

    def __init__(self, optimizer_class: str = "SGD") -> None:
        self._scale_free = is_adaptive(optimizer_class)
        self._coefs: deque[float] = deque(maxlen=WINDOW)
        self._clipped: deque[bool] = deque(maxlen=WINDOW)
        self._armed = True

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped or not math.isfinite(record.clip_coef):
            return []
        self._coefs.append(record.clip_coef)
        self._clipped.append(record.clipped)
        share = sum(self._clipped) / WINDOW
        if len(self._clipped) < WINDOW or share <= SHARE:
            self._armed = self._armed or share < REARM
            return []
        if not self._armed:
            return []
        self._armed = False
        return [self._event(record, share, sum(self._coefs) / WINDOW)]

    def _event(self, record: StepRecord, share: float, coef: float) -> Event:
        severity: Severity = "warning" if coef < COEF and not self._scale_free else "info"
        effect = (
            "acts as normalisation under this optimizer"
            if self._scale_free
            else f"the learning rate is in effect multiplied by {coef:.2g}"
        )
        return Event(
            step=record.step,
            kind="overclipping",
            severity=severity,
            observed=share,
            limit=SHARE,
            message=f"{share:.0%} of the last {WINDOW} steps were clipped, mean clip_coef {coef:.2g}: {effect}",
            optimizer=record.optimizer,
            attempt=record.attempt,
        )
