"""Levels of the loss: at the start, over parts of a run, and how uncertain they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.detect.losses import begins_at_zero

SURE_RANKS = 3.3  # deviations of the share of pairs by chance: once in two thousand


def is_about_zero(losses: Array) -> bool:
    """Whether losses scatter about 0 or begin there, as those of reinforcement learning do: they show no progress.

    >>> is_about_zero(np.array([-0.1, 0.2, -0.05, 0.1])), is_about_zero(np.array([2.0, 1.5, 1.2]))
    (True, False)
    """
    if not len(losses):
        return False
    if begins_at_zero(losses):
        return True
    if not losses.min() < 0 < losses.max():
        return False
    low, high = np.quantile(losses, [0.25, 0.75])
    return bool(abs(np.median(losses)) < 2 * max(high - low, 1e-300))


def medians(parts: Sequence[Array]) -> list[float]:
    """The median of each part."""
    return [float(np.median(part)) for part in parts]


def start_of(losses: Array) -> float:
    """The median of the first 3: where a loss begins, before updates have thrown it off."""
    return float(np.median(losses[:3]))


def first_loss(losses: Array) -> float:
    """The loss at the start: the larger median of the first 3 and the first 10, for fast trainings leave it at once."""
    return max(start_of(losses), float(np.median(losses[:10])))


def uncertainty(losses: Array) -> float:
    """Three standard errors of the median, estimated from the quartiles under a normal distribution."""
    low, high = np.quantile(losses, [0.25, 0.75])
    return float(3 * 1.2533 * (high - low) / 1.349 / math.sqrt(len(losses)))


def is_above(high: Array, low: Array) -> bool:
    """Whether the median of some values is above that of others by more than the uncertainty of both.

    >>> is_above(np.array([3.0, 3.1, 2.9]), np.zeros(3)), is_above(np.array([3.0, -3.0, 0.1]), np.zeros(3))
    (True, False)
    """
    return float(np.median(high) - np.median(low)) > uncertainty(high) + uncertainty(low)


def share_above(high: Array, low: Array) -> float:
    """The share of pairs in which a value of the first is above one of the second; equal ones count half.

    >>> share_above(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0]))
    0.5
    """
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left") + np.searchsorted(ordered, high, side="right")
    return float(below.mean()) / 2 / len(low)


def is_surely_above(high: Array, low: Array, deviations: float = SURE_RANKS) -> bool:
    """Whether values are above others more often than by chance (Mann-Whitney): few of them never are.

    >>> is_surely_above(np.arange(30.0) + 20, np.arange(30.0)), is_surely_above(np.arange(3.0) + 20, np.arange(3.0))
    (True, False)
    """
    deviation = math.sqrt((len(high) + len(low) + 1) / (12 * len(high) * len(low)))
    return share_above(high, low) - 0.5 > deviations * deviation
