"""What detectors compare with: the recent level of a norm, of the loss, and of each parameter."""

from __future__ import annotations

import bisect
import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import LayerStats, ParameterInfo, StepRecord

LEFT = 3.0
"""How many times its own median makes a parameter's norm one that left its level."""

ALIKE = 2.0
"""Parameters whose norms rose by factors within this of the largest rose together."""


LONE = 6.0
"""How many times more than the median parameter a parameter rises that rose alone."""

LEAST, RENEW = 32, 32

NINETIETH = 1.2816
"""The 90th percentile of a normal distribution, in deviations above its median."""

TRIFLE = 0.05
"""A loss under this share of the first ones is small, whatever it was before; a language model's never gets there."""

USUAL = 2.0
"""A norm under so many times the largest healthy one is nothing new."""

SUDDEN, LAST = 3.0, 5
"""A parameter that rose at once stands this much above each of so many steps before."""


class Window:
    """The last ``size`` values, in order of arrival and of size.

    >>> window = Window(size=3)
    >>> for value in (9.0, 1.0, 2.0, 3.0):
    ...     window.add(value)
    >>> window.quantile(0.5), len(window)
    (2.0, 3)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        self._in_order.append(value)
        bisect.insort(self._sorted, value)
        if len(self._in_order) > self._size:
            del self._sorted[bisect.bisect_left(self._sorted, self._in_order.popleft())]

    def __len__(self) -> int:
        return len(self._sorted)

    def quantile(self, share: float) -> float:
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)]

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    @property
    def deviation(self) -> float:
        """How values scatter above the median, by the 90th percentile."""
        return (self.quantile(0.9) - self.quantile(0.5)) / NINETIETH


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
        self._logs = Window(self.window)

    def add(self, norm: float) -> None:
        self._waiting.append(math.log(norm))
        if len(self._waiting) > self.lag:
            self._logs.add(self._waiting.popleft())

    def __len__(self) -> int:
        """How many norms the level rests on."""
        return len(self._logs)

    @property
    def ready(self) -> bool:
        return len(self) >= self.least

    @property
    def value(self) -> float:
        """The median norm; only while `ready`."""
        return math.exp(self._logs.median)

    def quantile(self, share: float) -> float:
        return math.exp(self._logs.quantile(share))

    @property
    def spread(self) -> float:
        """The robust deviation of the logarithm above the median."""
        return self._logs.deviation

    def limit(self, factor: float, sigmas: float) -> float:
        """The norm that is ``factor`` times the level, or ``sigmas`` robust deviations above it.

        Whichever is higher: a run whose norms scatter over decades when it is well is not judged
        by a factor that suits a calm one.
        """
        return self.value * max(factor, math.exp(min(sigmas * self.spread, 100.0)))

    def limit_beyond(self, factor: float, sigmas: float) -> float:
        """The norm that is ``factor`` times what stands ``sigmas`` robust deviations above the level."""
        return self.value * factor * math.exp(min(sigmas * self.spread, 100.0))


class LossLevel:
    """The median of the last 128 losses and how they scatter above it; losses may be negative.

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
        self._first = Window(least)

    def add(self, loss: float | None) -> None:
        if loss is None or not math.isfinite(loss):
            return
        if len(self._first) < self._least:
            self._first.add(loss)
        self._waiting.append(loss)
        if len(self._waiting) > self._lag:
            self._losses.add(self._waiting.popleft())

    @property
    def ready(self) -> bool:
        return len(self._losses) >= self._least

    def is_trifle(self, loss: float | None) -> bool:
        """Whether a loss is less than a twentieth of the first ones; losses that may be negative never are."""
        if loss is None or not self.ready:
            return False
        return 0 < loss < TRIFLE * self._first.median and self._losses.median > 0

    def is_out(self, loss: float | None, sigmas: float = 6.0, share: float = 1.0) -> bool:
        """Whether a loss is ``sigmas`` robust deviations and ``share`` of the median above the median.

        A trifle is never out: in a task that is solved one hard sample makes the loss many times
        what it was, and nothing comes of it.
        """
        if loss is None or not self.ready or self.is_trifle(loss):
            return False
        far = max(sigmas * self._losses.deviation, share * abs(self._losses.median))
        return not loss <= self._losses.median + far


class LayerLevels:
    """The recent norms of every parameter: healthy ones as their levels, the last few as they came.

    The levels are worked out when they are asked for, and anew after `RENEW` healthy steps, which
    keeps a thousand parameters cheap.
    """

    def __init__(self, window: int = 128, recent: int = 10) -> None:
        self._window = window
        self._rows = np.zeros((0, 0))
        self._next = 0
        self._filled = 0
        self._recent: deque[LayerStats] = deque(maxlen=recent)
        self._median = np.zeros(0)
        self._deviation = np.zeros(0)
        self._highest = np.zeros(0)
        self._stale = 0

    def restart(self) -> None:
        """Forget the levels, not what came last."""
        self._next = self._filled = 0
        self._median = self._deviation = np.zeros(0)

    def see(self, record: StepRecord) -> None:
        """Take a record, before it is known whether it is healthy."""
        if record.layers is not None:
            self._recent.append(record.layers)

    def learn(self, record: StepRecord) -> None:
        """Take a healthy record into the levels."""
        if record.layers is None:
            return
        norm = record.layers.norm
        if len(norm) > self._rows.shape[1]:
            self._rows = np.pad(
                self._rows,
                ((0, self._window - len(self._rows)), (0, len(norm) - self._rows.shape[1])),
                constant_values=np.nan,
            )
        row = self._rows[self._next]
        row[:] = np.nan
        with np.errstate(divide="ignore"):
            row[: len(norm)] = np.log(norm.astype(float))
        self._next = (self._next + 1) % self._window
        self._filled = min(self._filled + 1, self._window)
        self._stale += 1

    def _renew(self) -> None:
        if self._filled < LEAST or (len(self._median) and self._stale < RENEW):
            return
        self._stale = 0
        rows = self._rows[: self._filled].copy()
        rows[~np.isfinite(rows)] = np.inf
        middle, high = len(rows) // 2, int(0.9 * len(rows))
        rows.partition((middle, high), axis=0)
        rows[:, ~np.isfinite(rows[high])] = np.nan
        self._highest = np.where(np.isfinite(rows[high:]), rows[high:], -np.inf).max(axis=0)
        self._median = rows[middle]
        self._deviation = (rows[high] - rows[middle]) / NINETIETH

    def rise(self, layers: LayerStats) -> NDArray[np.float64]:
        """The logarithm of each norm over its level; NaN where either is not known."""
        rise = np.full(len(layers.norm), np.nan)
        known = min(len(rise), len(self._median))
        with np.errstate(divide="ignore", invalid="ignore"):
            rise[:known] = np.log(layers.norm[:known].astype(float)) - self._median[:known]
        rise[~np.isfinite(rise)] = np.nan
        return rise

    def lopsided(self, factor: float, sigmas: float) -> bool:
        """Whether at the last step some parameter jumped ``factor`` above its level and the others did not.

        Or ``sigmas`` of its own deviations or `USUAL` times the largest of its healthy norms,
        whichever is highest; `LONE` times more than the median parameter; and `SUDDEN` times above
        each of the `LAST` steps before. What lifts all at once is the batch's doing, and the
        total's business; what grows is learning.
        """
        self._renew()
        if not self._recent or not len(self._median):
            return False
        rise = self.rise(self._recent[-1])
        limit = np.maximum(math.log(factor), sigmas * self._deviation)
        limit = np.maximum(limit, self._highest - self._median + math.log(USUAL))[: len(rise)]
        if len(limit) < len(rise):
            limit = np.pad(limit, (0, len(rise) - len(limit)), constant_values=np.inf)
        above = rise > limit
        if not np.any(above):
            return False
        alone = above & (rise > np.nanmedian(rise) + math.log(LONE))
        if not np.any(alone):
            return False
        for layers in list(self._recent)[-LAST - 1 : -1]:
            before = self.rise(layers)
            alone[: len(before)] &= ~(rise[: len(before)] <= before + math.log(SUDDEN))
        return bool(np.any(alone))

    def furthest(self) -> tuple[str | None, float | None]:
        """The parameter that rose above its own level at the last step, and by which factor.

        Of several that rose about as much, the first in backward order: what grows in the backward
        of one layer grows in every layer before it.
        """
        return self._furthest(recent=1)

    def first_to_leave(self) -> tuple[str | None, float | None]:
        """The parameter that has been above its own level longest without a break, and how far now.

        Above means `LEFT` times the level; of several that left at the same step as in `furthest`.
        """
        return self._furthest(recent=len(self._recent))

    def _furthest(self, recent: int) -> tuple[str | None, float | None]:
        self._renew()
        if not self._recent or not len(self._median):
            return None, None
        newest = self._recent[-1]
        rise = np.nan_to_num(self.rise(newest), nan=-np.inf)
        if not np.any(np.isfinite(rise)):
            return None, None
        above = np.ones(len(rise), bool)
        steps_above = np.zeros(len(rise), int)
        for layers in list(self._recent)[: -recent - 1 : -1]:
            with np.errstate(invalid="ignore"):
                above[: len(layers.norm)] &= self.rise(layers) > math.log(LEFT)
            steps_above += above
        longest = np.where(steps_above == steps_above.max(), rise, -np.inf)
        index = int(np.flatnonzero(longest + math.log(ALIKE) >= longest.max())[-1])
        return newest.parameters[index].name, math.exp(min(float(rise[index]), 700.0))

    def rose_alike(self) -> bool:
        """Whether at the last step all parameters rose, by about the same factor."""
        self._renew()
        if not self._recent or not len(self._median):
            return False
        rise = self.rise(self._recent[-1])
        rise = rise[~np.isnan(rise)]
        return len(rise) > 1 and bool(rise.min() > 0 and rise.max() - rise.min() < 2 * math.log(ALIKE))


class Parameters:
    """What of the parameters alone a detector needs, worked out once and not at every step."""

    def __init__(self) -> None:
        self._seen: tuple[ParameterInfo, ...] = ()
        self.matrices = np.zeros(0, bool)
        self.sizes = np.zeros(0)

    def see(self, parameters: tuple[ParameterInfo, ...]) -> None:
        if parameters is not self._seen:
            self._seen = parameters
            self.matrices = np.array([len(p.shape) >= 2 for p in parameters], bool)
            self.sizes = np.array([float(p.numel) for p in parameters])


def in_a_row(counts: NDArray[np.int_], now: NDArray[np.bool_]) -> NDArray[np.int_]:
    """For how many steps each parameter has been so, this one included; parameters may have been added.

    >>> in_a_row(np.array([3, 3]), np.array([True, False, True])).tolist()
    [4, 0, 1]
    """
    grown = np.concatenate([counts, np.zeros(len(now) - len(counts), int)])
    return np.where(now, grown + 1, 0)


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
