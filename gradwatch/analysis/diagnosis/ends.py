"""Whether a loss ended where it should not: far above its best level or its start, for good.

A single loss says little, so levels are compared: the last twentieth with the best tenth, by the noise of this loss and
by the fall that it undoes. Unless it ends at twice its start, the norms have to witness that something happened.
"""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.diagnosis.facts import OptimizerFacts, computed_once
from gradwatch.analysis.diagnosis.schedule import restarts_after
from gradwatch.analysis.statistics.loss_levels import first_loss
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import robust_deviation

MIN_LOSSES = 15  # losses without which levels are not compared
MIN_LAST = 5  # losses: fewer at the end may be a spike
LAST_SHARE = 20  # the last level is that of one loss in so many
LOW, HIGH = 0.1, 0.9  # quantiles: nearly all last losses lie above nearly all of the best ones
FAR_RATIO = 2.0  # times the best level, or the first losses
FAR_DEVIATIONS = 12.0  # robust deviations: losses of language models never double
UNDONE_SHARE = 0.25  # of the fall of the loss: in logarithms where it doubled, for small losses double by chance
LEAP_RATIO = 8.0  # times the norm up to the best level: one such step may have thrown the weights off
RAISED_RATIO = 2.0  # the same of the last norms
FALLEN_RATIO = 0.1  # the same: outputs that are saturated give next to no gradient
LEFT_RATIO = 2.0  # times all losses before: few losses that leave them for good
LEFT_NORM_RATIO = 3.0  # times the norm before
CLIMB_RATIO = 3.0  # times, within the last rows, of loss and norm
CLIMB_ROWS = 4
RISEN_RATIO = 1.2  # times the losses before, under huge norms
MIN_AFTER = 3  # losses


def is_apart(losses: Array, levels: list[float]) -> bool:
    """Whether nearly all last losses lie above nearly all of the best tenth; ``levels`` are those of tenths.

    >>> falling = np.linspace(2.0, 1.0, 100)
    >>> is_apart(falling, [2.0 - 0.1 * i for i in range(10)])
    False
    """
    best = np.array_split(losses, len(levels))[int(np.argmin(levels))]
    return float(np.quantile(last_losses(losses), LOW)) > float(np.quantile(best, HIGH))


def last_losses(losses: Array) -> Array:
    """The last twentieth of the losses, and at least 5."""
    return losses[-max(MIN_LAST, len(losses) // LAST_SHARE) :]


@computed_once
def ends_far_above(optimizer: OptimizerFacts) -> bool:
    """Whether the loss ends far above its best level and the norms witness it, or far above its start.

    Not of rivals, as the loss of one rises while the other learns, nor where the learning rate starts anew, which
    begins a phase of its own.
    """
    losses, levels = optimizer.history.losses, optimizer.history.loss_levels
    if len(losses) < MIN_LOSSES or optimizer.has_rivals or not is_apart(losses, levels):
        return False
    best = int(np.argmin(levels))
    step = int(np.array_split(optimizer.history.loss_steps, len(levels))[best][-1])
    low, last, first = levels[best], float(np.median(last_losses(losses))), first_loss(losses)
    if restarts_after(optimizer, step):
        return False
    if last > FAR_RATIO * max(first, low) > 0:
        return True
    noise = robust_deviation(np.diff(losses)) / math.sqrt(2)  # a trend does not show in differences
    rise = last - low
    doubled = last > FAR_RATIO * low > 0 and _undone_in_logarithms(first, low, last) > UNDONE_SHARE
    risen = rise > max(FAR_DEVIATIONS * noise, UNDONE_SHARE * max(first - low, 0.0), 1e-3 * abs(low))
    return (doubled or risen) and _norms_witness(optimizer, step)


def _undone_in_logarithms(first: float, best: float, last: float) -> float:
    """The share of a fall that a rise undoes; infinite without a fall."""
    return math.log(last / best) / math.log(first / best) if first > best else math.inf


def _norms_witness(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether a norm after a step leapt out of those before, or the last norms have left their level."""
    norms, steps = optimizer.total_norm, optimizer.steps
    before, after = norms[(steps <= step) & np.isfinite(norms) & (norms > 0)][-500:], norms[steps > step]
    if not len(before) or not len(after):
        return False
    level = float(np.median(before))
    finite = after[np.isfinite(after)]
    if len(finite) < len(after) or float(finite.max()) > LEAP_RATIO * level:
        return True
    end = float(np.median(finite[-max(MIN_AFTER, len(finite) // 5) :]))
    return end > RAISED_RATIO * level or end < FALLEN_RATIO * level


def leaves_for_good(losses: Array, norms: Array) -> bool:
    """Whether from some row on each loss is above twice all losses before, and the norm left its level there.

    >>> leaves_for_good(np.array([3.1, 2.9, 2.8, 7.0, 9.0, 8.5]), np.array([1.0, 1, 4, 9, 5, 5]))
    True
    >>> leaves_for_good(np.array([3.1, 2.9, 2.8, 7.0, 9.0, 3.5]), np.array([1.0, 1, 4, 9, 5, 5]))
    False
    """
    for at in range(1, len(losses) - MIN_AFTER + 1):
        if losses[at:].min() > LEFT_RATIO * losses[:at].max() > 0:
            level, after = float(np.median(norms[:at])), norms[max(1, at - 1) :]
            return bool(after.max() > LEFT_NORM_RATIO * level or np.median(after) < FALLEN_RATIO * level)
    return False


def climbs_to_the_end(losses: Array, norms: Array) -> bool:
    """Whether loss and norm grow threefold over the last four rows, in each of them, to above the first loss.

    >>> climbs_to_the_end(np.array([9.0, 3, 2, 2, 3, 5, 12]), np.array([5.0, 2, 2, 3, 4, 9, 20]))
    True
    >>> climbs_to_the_end(np.array([9.0, 3, 2, 2, 3, 5, 8]), np.array([5.0, 2, 2, 3, 4, 9, 20]))
    False
    """
    ends = losses[-CLIMB_ROWS:], norms[-CLIMB_ROWS:]
    if len(losses) <= CLIMB_ROWS or not losses[-1] > losses[0]:
        return False
    return all((np.diff(end) > 0).all() and end[-1] > CLIMB_RATIO * end[0] > 0 for end in ends)


def rises_above_all(losses: Array) -> bool:
    """Whether the last three losses are above all before, and the last by a fifth above their level."""
    before, after = losses[:-MIN_AFTER], losses[-MIN_AFTER:]
    return bool(after.min() > before.max() and after[-1] > RISEN_RATIO * np.median(before) > 0)
