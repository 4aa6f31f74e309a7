"""The recent level of a norm and of each parameter, which detectors compare with."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.record import Floats, LayerStats, ParameterInfo, StepRecord

LEFT_LEVEL_FACTOR = 3.0
"""A parameter has left its level when its norm is this many times its median."""

ALIKE_FACTOR = 2.0
"""Parameters rose alike when their rises are within this factor of the largest."""

ALONE_FACTOR = 6.0
"""A parameter rose alone when it rose this many times more than the median parameter."""

NEW_HIGH_FACTOR = 2.0
"""A norm is new when it is this many times the largest healthy one."""

SUDDEN_FACTOR, SUDDEN_STEPS = 3.0, 5
"""A parameter rose suddenly when it stands this factor above each of that many steps before."""

MIN_HEALTHY_STEPS, RENEW_STEPS = 32, 32
"""Healthy steps before the levels of parameters are known, and between computing them anew."""

SIGMAS_OF_90TH = 1.2816
"""The 90th percentile of a normal distribution, in standard deviations above its median."""

MAX_LOG_SPREAD = 100.0
"""Bound of a spread's exponent, so that its exponential stays finite."""


def median(values: Iterable[float] | NDArray[Any]) -> float:
    """The median of what is not NaN; NaN of nothing.

    NumPy's functions import `numpy.ma` at their first call: 2 MB, and files at a time when no descriptor may be left.

    >>> median([3.0, math.nan, 1.0, 2.0]), median([4.0, 1.0]), median([])
    (2.0, 2.5, nan)
    """
    numbers = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    known = np.sort(numbers[~np.isnan(numbers)])
    return float((known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2) if len(known) else math.nan


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

    def quantile(self, fraction: float) -> float:
        values = self._sorted
        return values[min(int(fraction * len(values)), len(values) - 1)]

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    def median_and_deviation(self) -> tuple[float, float]:
        """The median, and how values scatter above it: the distance to the 90th percentile as a standard deviation."""
        values = self._sorted
        median = values[len(values) // 2]
        return median, (values[int(0.9 * len(values))] - median) / SIGMAS_OF_90TH


class Level:
    """The median of the logarithm of the last ``window`` norms, and how they scatter about it.

    Values enter ``lag`` steps late, so that a drift can't move its own reference.

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
        self._known: tuple[float, float] | None = None  # value and spread, until another norm enters

    def add(self, norm: float) -> None:
        self._waiting.append(math.log(norm))
        if len(self._waiting) > self.lag:
            self._logs.add(self._waiting.popleft())
            self._known = None

    def __len__(self) -> int:
        """How many norms the level rests on."""
        return len(self._logs)

    @property
    def ready(self) -> bool:
        return len(self) >= self.least

    @property
    def value(self) -> float:
        """The median norm. Call it only when `ready`."""
        return self._value_and_spread()[0]

    def quantile(self, fraction: float) -> float:
        return math.exp(self._logs.quantile(fraction))

    @property
    def spread(self) -> float:
        """The robust deviation of the logarithm above the median."""
        return self._value_and_spread()[1]

    def limit(self, factor: float, sigmas: float) -> float:
        """The norm ``factor`` times the level or ``sigmas`` robust deviations above it, whichever is higher.

        A run whose healthy norms scatter over decades is not held to a factor that suits a calm one.
        """
        value, spread = self._value_and_spread()
        return value * max(factor, math.exp(min(sigmas * spread, MAX_LOG_SPREAD)))

    def limit_beyond(self, factor: float, sigmas: float) -> float:
        """The norm ``factor`` times the one that lies ``sigmas`` robust deviations above the level."""
        value, spread = self._value_and_spread()
        return value * factor * math.exp(min(sigmas * spread, MAX_LOG_SPREAD))

    def _value_and_spread(self) -> tuple[float, float]:
        if self._known is None:
            median, deviation = self._logs.median_and_deviation()
            self._known = math.exp(median), deviation
        return self._known


class LayerLevels:
    """The recent norms of every parameter: healthy ones as levels, the last few as they came.

    The levels are computed when they are asked for, and again after `RENEW_STEPS` healthy steps, which keeps
    a thousand parameters cheap.
    """

    def __init__(self, window: int = 128, recent: int = 10) -> None:
        self._window = window
        self._rows = np.zeros((0, 0), np.float32)  # norms; the logarithm is taken of the few that make the levels
        self._next = 0
        self._filled = 0
        self._recent: deque[LayerStats] = deque(maxlen=recent)
        self._median = np.zeros(0)
        self._deviation = np.zeros(0)
        self._highest = np.zeros(0)
        self._jump: tuple[float, float, NDArray[np.float64]] | None = None
        self._stale = 0

    def restart(self) -> None:
        """Forget the levels, but not the last few steps."""
        self._next = self._filled = 0
        self._median = self._deviation = np.zeros(0)

    def see(self, layers: LayerStats | None) -> None:
        """Take in the statistics of a step before it is known whether it is healthy."""
        if layers is not None:
            self._recent.append(layers)

    def learn(self, layers: LayerStats | None) -> None:
        """Take the norms of a healthy step into the levels."""
        if layers is None:
            return
        norm = layers.norm
        if len(norm) > self._rows.shape[1]:
            rows = np.zeros((self._window, len(norm)), np.float32)  # takes no memory for rows to come
            rows[: self._filled] = np.nan
            rows[: self._filled, : self._rows.shape[1]] = self._rows[: self._filled]
            self._rows = rows
        row = self._rows[self._next]
        row[: len(norm)] = norm
        row[len(norm) :] = np.nan
        self._next = (self._next + 1) % self._window
        self._filled = min(self._filled + 1, self._window)
        self._stale += 1

    def _renew(self) -> None:
        if self._filled < MIN_HEALTHY_STEPS or (len(self._median) and self._stale < RENEW_STEPS):
            return
        self._stale = 0
        rows = self._rows[: self._filled].copy()
        rows[~((rows > 0) & (rows < np.inf))] = np.inf
        middle, high = len(rows) // 2, int(0.9 * len(rows))
        rows.partition((middle, high), axis=0)
        rows[:, ~np.isfinite(rows[high])] = np.nan
        highest = np.where(np.isfinite(rows[high:]), rows[high:], 0.0).max(axis=0)
        with np.errstate(divide="ignore"):
            self._median, upper, self._highest = (
                np.log(row.astype(float)) for row in (rows[middle], rows[high], highest)
            )
        self._deviation = (upper - self._median) / SIGMAS_OF_90TH
        self._jump = None

    @property
    def _known(self) -> bool:
        self._renew()
        return bool(self._recent) and bool(len(self._median))

    def rise(self, layers: LayerStats) -> NDArray[np.float64]:
        """The logarithm of each norm over its level; NaN where either is not known."""
        known = min(len(layers.norm), len(self._median))
        with np.errstate(divide="ignore", invalid="ignore"):
            rise: NDArray[np.float64] = np.log(layers.norm.astype(float))
            rise[:known] -= self._median[:known]
        rise[known:] = np.nan
        rise[~np.isfinite(rise)] = np.nan
        return rise

    def excess(self, values: Floats, factor: float, sigmas: float) -> NDArray[np.float64]:
        """The logarithm of each value over its limit; -inf where its level is not known.

        The limit is ``factor`` times the level or ``sigmas`` robust deviations above it, whichever is higher.
        """
        excess = np.full(len(values), -np.inf)
        if self._known:
            known = min(len(values), len(self._median))
            limit = self._median + np.maximum(math.log(factor), sigmas * self._deviation)
            with np.errstate(divide="ignore", invalid="ignore"):
                excess[:known] = np.log(values[:known].astype(float)) - limit[:known]
        excess[np.isnan(excess)] = -np.inf
        return excess

    def one_jumped(self, factor: float, sigmas: float) -> bool:
        """Whether some parameter jumped ``factor`` above its level at the last step and the others did not.

        The limit is ``factor``, ``sigmas`` of the parameter's own deviations, or `NEW_HIGH_FACTOR` times its
        largest healthy norm, whichever is highest. It must also have risen `ALONE_FACTOR` times more than
        the median parameter, because what lifts all of them at once is the batch and shows in the total; and
        `SUDDEN_FACTOR` above each of the `SUDDEN_STEPS` steps before, because what grows is learning.
        """
        if not self._known:
            return False
        newest = self._recent[-1]
        limit = self._limit_of_a_jump(factor, sigmas)[: len(newest.norm)]
        known = len(limit)
        with np.errstate(divide="ignore", invalid="ignore"):
            if not (np.log(newest.norm[:known].astype(float)) - self._median[:known] > limit).any():
                return False
        rise = self.rise(newest)
        if len(limit) < len(rise):
            limit = np.pad(limit, (0, len(rise) - len(limit)), constant_values=np.inf)
        above = rise > limit
        if not above.any():
            return False
        alone = above & (rise > median(rise) + math.log(ALONE_FACTOR))
        if not alone.any():
            return False
        for layers in list(self._recent)[-SUDDEN_STEPS - 1 : -1]:
            before = self.rise(layers)
            alone[: len(before)] &= ~(rise[: len(before)] <= before + math.log(SUDDEN_FACTOR))
        return bool(alone.any())

    def _limit_of_a_jump(self, factor: float, sigmas: float) -> NDArray[np.float64]:
        """Of the logarithm of each norm over its level; computed once for each time that the levels are."""
        if self._jump is None or self._jump[:2] != (factor, sigmas):
            limit = np.maximum(math.log(factor), sigmas * self._deviation)
            limit = np.maximum(limit, self._highest - self._median + math.log(NEW_HIGH_FACTOR))
            self._jump = factor, sigmas, limit
        return self._jump[2]

    def highest(self) -> tuple[str | None, float | None]:
        """The parameter furthest above its own level at the last step, and by which factor.

        Of several that rose about as much, the first in backward order: what grows in the backward pass of
        one layer grows in every layer before it.
        """
        return self._highest_over(recent=1)

    def first_to_leave(self) -> tuple[str | None, float | None]:
        """The parameter that has been above its own level longest without a break, and how far now.

        Above means `LEFT_LEVEL_FACTOR` times the level; of several that left at the same step as in `highest`.
        """
        return self._highest_over(recent=len(self._recent))

    def _highest_over(self, recent: int) -> tuple[str | None, float | None]:
        if not self._known:
            return None, None
        newest = self._recent[-1]
        rise = np.nan_to_num(self.rise(newest), nan=-np.inf)
        if not np.isfinite(rise).any():
            return None, None
        above = np.ones(len(rise), bool)
        steps_above = np.zeros(len(rise), int)
        for layers in list(self._recent)[: -recent - 1 : -1]:
            with np.errstate(invalid="ignore"):
                above[: len(layers.norm)] &= self.rise(layers) > math.log(LEFT_LEVEL_FACTOR)
            steps_above += above
        longest = np.where(steps_above == steps_above.max(), rise, -np.inf)
        index = int(np.flatnonzero(longest + math.log(ALIKE_FACTOR) >= longest.max())[-1])
        return newest.parameters[index].name, math.exp(min(float(rise[index]), 700.0))

    def rose_alike(self) -> bool:
        """Whether all parameters rose at the last step, by about the same factor."""
        if not self._known:
            return False
        rise = self.rise(self._recent[-1])
        rise = rise[~np.isnan(rise)]
        return len(rise) > 1 and bool(rise.min() > 0 and rise.max() - rise.min() < 2 * math.log(ALIKE_FACTOR))


class ParameterShapes:
    """Which parameters are matrices and how large each is, computed once and not at every step."""

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
    """Count, for each parameter, the steps in a row for which ``now`` has been true, this step included.

    ``now`` may be longer than ``counts``: parameters that were added begin at 0.

    >>> in_a_row(np.array([3, 3]), np.array([True, False, True])).tolist()
    [4, 0, 1]
    """
    if len(now) > len(counts):
        counts = np.concatenate([counts, np.zeros(len(now) - len(counts), int)])
    return (counts + 1) * now


def is_usable(record: StepRecord) -> bool:
    """Whether a record's norm may enter a baseline: the update happened and the norm is finite and not 0."""
    return not record.skipped and not record.nonfinite and 0 < record.total_norm < math.inf
