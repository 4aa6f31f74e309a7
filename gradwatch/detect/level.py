"""What detectors compare with: the recent level of a norm, of the whole and of each parameter."""

from __future__ import annotations

import bisect
import math
from collections import deque

import numpy as np

from gradwatch.record import Floats, LayerStats, StepRecord

LEFT = 3.0
"""How many times its own median makes a parameter's norm one that left its level."""


class Level:
    """The median of the logarithm of the last ``window`` norms, and how they scatter about it.

    Values enter ``lag`` steps late, so that a drift can't carry its own reference along.

    >>> level = Level(window=5, least=3)
    >>> for norm in (1.0, 100.0, 10.0):
    ...     level.add(norm)
    >>> round(level.value, 6)
    10.0
    """

    def __init__(self, window: int = 128, least: int = 32, lag: int = 0) -> None:
        self.window, self.least, self.lag = window, least, lag
        self.restart()

    def restart(self) -> None:
        self._waiting: deque[float] = deque()
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, norm: float) -> None:
        self._waiting.append(math.log(norm))
        if len(self._waiting) > self.lag:
            log_norm = self._waiting.popleft()
            self._in_order.append(log_norm)
            bisect.insort(self._sorted, log_norm)
        if len(self._in_order) > self.window:
            del self._sorted[bisect.bisect_left(self._sorted, self._in_order.popleft())]

    def __len__(self) -> int:
        """How many norms the level rests on."""
        return len(self._sorted)

    @property
    def ready(self) -> bool:
        return len(self) >= self.least

    @property
    def value(self) -> float:
        """The median norm; only while `ready`."""
        return math.exp(self._quantile(0.5))

    def limit(self, factor: float, sigmas: float) -> float:
        """The norm that is ``factor`` times the level, or ``sigmas`` robust deviations above it.

        Whichever is higher: a run whose norms scatter over decades when it is well is not judged
        by a factor that suits a calm one. The deviation is taken above the median alone, by the
        90th percentile (1.2816 deviations of a normal distribution).
        """
        deviation = (self._quantile(0.9) - self._quantile(0.5)) / 1.2816
        return self.value * max(factor, math.exp(min(sigmas * deviation, 100.0)))

    def _quantile(self, share: float) -> float:
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)]


class LayerHistory:
    """The recent norms of every parameter: healthy ones as the level, the last few as they came."""

    def __init__(self, window: int = 128, recent: int = 10) -> None:
        self._healthy: deque[Floats] = deque(maxlen=window)
        self._recent: deque[LayerStats] = deque(maxlen=recent)

    def see(self, record: StepRecord) -> None:
        """Take a record, before it is known whether it is healthy."""
        if record.layers is not None:
            self._recent.append(record.layers)

    def learn(self, record: StepRecord) -> None:
        """Take a healthy record into the level."""
        if record.layers is not None:
            self._healthy.append(record.layers.norm)

    def furthest(self) -> tuple[str | None, float | None]:
        """The parameter furthest above its own level at the last step, and by which factor."""
        return self._furthest(recent=1)

    def first_to_leave(self) -> tuple[str | None, float | None]:
        """The parameter that has been above its own level longest without a break, and how far now.

        Above means `LEFT` times the level; of several that left at the same step, the furthest.
        """
        return self._furthest(recent=len(self._recent))

    def _furthest(self, recent: int) -> tuple[str | None, float | None]:
        if not self._healthy or not self._recent:
            return None, None
        newest = self._recent[-1]
        level = self._levels(len(newest.parameters))
        ratio = _ratio(newest.norm, level)
        if not np.any(ratio > 0):
            return None, None
        above = np.ones(len(level), bool)
        steps_above = np.zeros(len(level), int)
        for layers in list(self._recent)[: -recent - 1 : -1]:
            above &= _ratio(layers.norm, level) > LEFT
            steps_above += above
        longest = steps_above == steps_above.max()
        index = int(np.argmax(np.where(longest, ratio, 0)))
        return newest.parameters[index].name, float(ratio[index])

    def _levels(self, length: int) -> Floats:
        table = np.full((len(self._healthy), length), np.nan, np.float32)
        for row, norm in zip(table, self._healthy, strict=True):
            row[: len(norm)] = norm
        table[~np.isfinite(table) | (table == 0)] = np.inf
        level = np.sort(table, axis=0)[len(table) // 2]
        return np.asarray(np.where(np.isfinite(level), level, np.nan), np.float32)


def _ratio(norm: Floats, level: Floats) -> Floats:
    """Norm / level, 0 where either is unknown; a NaN norm counts as unknown."""
    ratio = np.zeros_like(level)
    ratio[: len(norm)] = norm / level[: len(norm)]
    return np.where(np.isnan(ratio), np.float32(0), ratio)


def usable(record: StepRecord) -> bool:
    """Whether a record's norm may enter a baseline as far as its value goes."""
    return not record.skipped and not record.nonfinite and 0 < record.total_norm < math.inf


def factor_text(factor: float) -> str:
    """>>> factor_text(3.21), factor_text(57.3), factor_text(48100.0), factor_text(float("inf"))
    ('3.2x', '57x', '4.8e+04x', 'infx')
    """
    if factor < 10:
        return f"{factor:.1f}x"
    return f"{factor:.0f}x" if factor < 10000 else f"{factor:.1e}x"
