"""Whether a training recovered from an event; the severity depends on that."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.detect.losses import begins_at_zero
from gradwatch.record import Event

MIN_STEPS_AFTER = 20  # steps: what begins so late cannot be seen to recover
RAISED_NORM_RATIO = 100.0  # times the norm before: a training that stays so far above it did not come back
RAISED_WITHOUT_LOSS = 5.0  # the same where no loss shows that the training went on
LOSS_DEVIATIONS = 6.0  # robust deviations of the loss before: how far above it a loss that came back may lie
LOSS_SHARE = 0.1  # of the loss before


def robust_deviation(values: Array) -> float:
    """A robust standard deviation: 1.4826 times the median distance from the median.

    >>> robust_deviation(np.array([1.0, 2.0, 3.0, 100.0]))
    1.4826
    """
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def noise_of(values: Array) -> float:
    """How values scatter from one to the next, as a robust standard deviation. A trend does not show in it.

    >>> noise_of(np.arange(10.0))
    0.0
    """
    return robust_deviation(np.diff(values)) / math.sqrt(2)


def came_back(steps: NDArray[np.int64], norms: Array, losses: Array, event: Event) -> bool:
    """Whether norms and losses are at the end where they were before an event.

    Args:
        steps: step numbers, (steps,).
        norms: total norms, (steps,); NaN and infinity are left out.
        losses: (steps,), NaN where none is known.
        event: with the step at which it ended, where it is over.
    """
    ended = event.step if event.until is None else event.until
    usable = np.isfinite(norms) & (norms > 0)
    before, after = norms[usable & (steps < event.step)][-500:], norms[usable & (steps > ended)]
    if len(after) < min(MIN_STEPS_AFTER, max(3, len(steps) // 20)):
        return False
    if not _loss_came_back(steps, losses, event.step, ended):
        return False
    if not len(before):
        return True
    ratio = RAISED_NORM_RATIO if np.isfinite(losses).any() else RAISED_WITHOUT_LOSS
    return float(np.median(after[-max(3, len(after) // 5) :])) < ratio * float(np.median(before))


def _loss_came_back(steps: NDArray[np.int64], losses: Array, first: int, last: int) -> bool:
    there = np.isfinite(losses)
    before, after = losses[there & (steps < first)][-100:], losses[there & (steps > last)]
    if len(before) < 3 or begins_at_zero(losses[there]):
        return True
    if len(after) < 3:
        return False
    level = float(np.median(before))
    doubt = max(LOSS_DEVIATIONS * robust_deviation(before), LOSS_SHARE * abs(level))
    return float(np.median(after[-max(3, len(after) // 10) :])) <= level + doubt
