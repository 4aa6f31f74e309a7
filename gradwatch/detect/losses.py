"""The recent level of the loss, and what it implies about a step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradwatch.detect.level import Window

SMALL_LOSS_FRACTION = 0.05
"""A loss below this fraction of the first ones is small. A language model's never gets there."""

NO_LOSS = 1e-6
"""A first loss that is not larger is 0: no model knows its task before the first step."""


def begins_at_zero(losses: Sequence[float] | NDArray[np.float64]) -> bool:
    """Whether a loss begins at 0 and can only rise, as a penalty on the distance from the first model does.

    >>> begins_at_zero([0.0, 0.1, 0.2]), begins_at_zero([2.3, 0.0]), begins_at_zero([])
    (True, False, False)
    """
    return bool(len(losses)) and abs(float(losses[0])) < NO_LOSS


class LossLevel:
    """The median of the last ``window`` losses and how they scatter above it. Losses may be negative.

    >>> level = LossLevel()
    >>> for _ in range(40):
    ...     level.add(2.0)
    >>> level.is_out(2.1), level.is_out(5.0), level.is_out(None)
    (False, True, False)
    """

    def __init__(self, window: int = 128, least: int = 32, lag: int = 0) -> None:
        self._least, self._lag = least, lag
        self._waiting: deque[float] = deque()
        self._losses = Window(window)
        self._known: tuple[float, float] | None = None  # median and deviation, until another loss enters
        self._first = Window(least)

    def add(self, loss: float | None) -> None:
        if loss is None or not math.isfinite(loss):
            return
        if len(self._first) < self._least:
            self._first.add(loss)
        self._waiting.append(loss)
        if len(self._waiting) > self._lag:
            self._losses.add(self._waiting.popleft())
            self._known = None

    @property
    def ready(self) -> bool:
        return len(self._losses) >= self._least

    def is_small(self, loss: float | None) -> bool:
        """Whether a loss is less than a twentieth of the first ones; losses that may be negative never are."""
        if loss is None or not self.ready:
            return False
        return 0 < loss < SMALL_LOSS_FRACTION * self._first.median and self._losses.median > 0

    def is_out(self, loss: float | None, sigmas: float = 6.0, fraction: float = 1.0) -> bool:
        """Whether a loss is ``sigmas`` robust deviations and ``fraction`` of the median above the median.

        A small loss is never out: in a task that is solved, one hard sample multiplies the loss and nothing
        follows from it.
        """
        if loss is None or not self.ready or self.is_small(loss):
            return False
        median, deviation = self._median_and_deviation()
        return not loss <= median + max(sigmas * deviation, fraction * abs(median))

    def _median_and_deviation(self) -> tuple[float, float]:
        """Those of the losses, computed once for each loss that enters."""
        if self._known is None:
            self._known = self._losses.median_and_deviation()
        return self._known
