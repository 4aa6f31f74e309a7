"""Whether a loss ended far above its best level or its start, and stayed there.

A single loss says little, so levels are compared: the last twentieth with the best tenth. The rise has to exceed the
noise of this loss and to undo a part of its fall. The norms have to have changed as well (`_norms_witness`), unless the
loss ends at twice its start.

The thresholds were set on 483 histories and then judged on others: benchmarks/diagnosis/RESULTS.md, the ninth round.
"""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.diagnosis.facts import OptimizerFacts, computed_once
from gradwatch.analysis.diagnosis.schedule import restarts_after
from gradwatch.analysis.statistics.loss_levels import first_loss
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of

# Many losses, whose levels are compared
MIN_LOSSES = 15  # losses; levels of fewer are not compared
MIN_LAST = 5  # losses; fewer at the end may be one spike
LAST_PARTS = 20  # parts of the losses, of which the last makes the last level
LOW, HIGH = 0.1, 0.9  # quantiles: nearly all last losses have to lie above nearly all of the best ones
FAR_RATIO = 2.0  # times the best level or the start: no healthy history at hand ended as high
FAR_DEVIATIONS = 12.0  # times the noise above the best level: the loss of a language model never doubles
UNDONE_SHARE = 0.25  # of the fall of the loss; in logarithms where it doubled, because small losses double by chance
LEAST_SHARE = 1e-3  # of the best level: a loss without noise may rise by rounding

# The norms that witness it, as multiples of their median before the end of the best tenth
LEAP_RATIO = 8.0  # of one norm: such a step may have thrown the weights off
RAISED_RATIO = 2.0  # of the last norms
FALLEN_RATIO = 0.1  # of the last norms: saturated outputs give next to no gradient
LEVEL_NORMS = 500  # steps of that median: norms from long before do not count
END_PARTS = 5  # parts of the norms after the best tenth, of which the last gives the last norms
MIN_AFTER = 3  # last norms, or last losses of a few: fewer may be a spike

# Few losses, which are judged one by one
LEFT_RATIO = 2.0  # times all losses before, as for levels
LEFT_NORM_RATIO = 3.0  # times the median norm before: the largest of a few norms exceeds the median anyway
CLIMB_ROWS = 4  # rows, in each of which loss and norm have to grow
CLIMB_RATIO = 3.0  # times, from the first to the last of these rows
RISEN_RATIO = 1.2  # times the median loss before; little, because norms above `growth.HUGE_NORM` witness it


def is_apart(losses: Array, levels: list[float]) -> bool:
    """Whether nearly all last losses lie above nearly all of the best tenth.

    Args:
        losses: in order.
        levels: of the tenths of these losses.

    >>> falling = np.linspace(2.0, 1.0, 100)
    >>> is_apart(falling, [2.0 - 0.1 * i for i in range(10)])
    False
    """
    best = np.array_split(losses, len(levels))[int(np.argmin(levels))]
    return float(np.quantile(last_losses(losses), LOW)) > float(np.quantile(best, HIGH))


def last_losses(losses: Array) -> Array:
    """The last twentieth of the losses, and at least 5."""
    return losses[-max(MIN_LAST, len(losses) // LAST_PARTS) :]


@computed_once
def ends_far_above(optimizer: OptimizerFacts) -> bool:
    """Whether the loss ends far above its best level and the norms witness it, or far above its start.

    False where the run has several optimizers, because the loss of one rises while another learns, and where the
    learning rate starts anew, because that begins a phase of its own.
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
    rise = last - low
    doubled = last > FAR_RATIO * low > 0 and _undone_in_logarithms(first, low, last) > UNDONE_SHARE
    risen = rise > max(FAR_DEVIATIONS * noise_of(losses), UNDONE_SHARE * max(first - low, 0.0), LEAST_SHARE * abs(low))
    return (doubled or risen) and _norms_witness(optimizer, step)


def _undone_in_logarithms(first: float, best: float, last: float) -> float:
    """The share of a fall that a rise undoes; infinite without a fall."""
    return math.log(last / best) / math.log(first / best) if first > best else math.inf


def _norms_witness(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether a norm after a step is not finite or far above those before, or the last norms have left their level."""
    norms, steps = optimizer.total_norm, optimizer.steps
    before, after = norms[(steps <= step) & np.isfinite(norms) & (norms > 0)][-LEVEL_NORMS:], norms[steps > step]
    if not len(before) or not len(after):
        return False
    level = float(np.median(before))
    finite = after[np.isfinite(after)]
    if len(finite) < len(after) or float(finite.max()) > LEAP_RATIO * level:
        return True
    end = float(np.median(finite[-max(MIN_AFTER, len(finite) // END_PARTS) :]))
    return end > RAISED_RATIO * level or end < FALLEN_RATIO * level


def leaves_for_good(losses: Array, norms: Array) -> bool:
    """Whether from some row on each loss is above twice all losses before, and the norms left their level there.

    The level is the median norm before that row. The norms count from one row earlier: a step throws off the loss of
    the next one.

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
    """Whether loss and norm grow in each of the last four rows, threefold in all, and the loss ends above its first.

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
    """Whether the last three losses are above all before, and the last a fifth above the median of those."""
    before, after = losses[:-MIN_AFTER], losses[-MIN_AFTER:]
    return bool(after.min() > before.max() and after[-1] > RISEN_RATIO * np.median(before) > 0)
