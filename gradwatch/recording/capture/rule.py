"""The rule that decides which step is captured. It is small, because it runs in the training thread before the update.

It knows only the norms of the steps so far, so it recognises fewer kinds of bad steps than the detectors.
"""

from __future__ import annotations

import math

from gradwatch.capture import Why
from gradwatch.detect.level import Level

FACTOR, SIGMAS = 4.0, 2.0
"""A norm is far above its level at FACTOR times the value SIGMAS robust deviations above the level."""

EXPLOSION_FACTOR = 100.0
"""A norm this many times its level is an explosion rather than a spike."""

TAIL_FACTOR = 2.0
"""A norm below this many times the 99th percentile of the last 500 is usual for this training."""

PATIENCE_STEPS = 100
"""Norms far above the level in a row after which the new level is believed."""


class CaptureRule:
    """Says of each step in turn whether it is bad, and only of the first of several in a row.

    A step is bad if its norm is not finite, or is 4 times the one that lies 2 robust deviations above the median of
    the last 128, and twice the 99th percentile of the last 500. The median needs 32 norms. A bad step enters neither.

    >>> rule = CaptureRule()
    >>> [rule.judge(norm) for norm in [1.0] * 40 + [30.0, 30.0, 1.0, 900.0, math.nan]][39:]
    [None, 'spike', None, None, 'explosion', 'nonfinite']
    """

    def __init__(self) -> None:
        self._level = Level()
        self._tail = Level(window=500, least=100)
        self._last: Why | None = None
        self._high_in_a_row = 0

    @property
    def limit(self) -> float | None:
        """The norm above which a step is bad; None as long as too few norms are known."""
        if not self._level.ready:
            return None
        limit = self._level.limit_beyond(FACTOR, SIGMAS)
        return max(limit, TAIL_FACTOR * self._tail.quantile(0.99)) if self._tail.ready else limit

    def judge(self, norm: float) -> Why | None:
        """Return why a step of this norm is to be kept; None if it is not, or is like the one before."""
        why = self._why(norm)
        if why in {"spike", "explosion"}:
            self._high_in_a_row += 1
            if self._high_in_a_row >= PATIENCE_STEPS:
                self._level.restart()
                self._tail.restart()
                self._high_in_a_row = 0
        elif why is None:
            self._high_in_a_row = 0
            if norm > 0:
                self._level.add(norm)
                self._tail.add(norm)
        is_new = why is not None and why != self._last and not (why == "spike" and self._last == "explosion")
        self._last = why
        return why if is_new else None

    def _why(self, norm: float) -> Why | None:
        if not math.isfinite(norm):
            return "nonfinite"
        limit = self.limit
        if limit is None or norm <= limit:
            return None
        return "explosion" if norm > EXPLOSION_FACTOR * self._level.value else "spike"
