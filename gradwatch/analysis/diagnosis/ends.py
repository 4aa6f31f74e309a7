"""Whether loss or norms ended far above their best level or their start, and stayed there.

A single loss says little, so levels are compared: the last twentieth with the best tenth. The rise has to exceed the
noise of this loss and to undo a part of its fall. The norms have to have changed as well (`_norms_witness`), unless the
loss ends at twice its start and larger targets don't explain it (`targets_grew`).

Few rows have no levels. There the last rows have to stand apart from all before, in loss and norm. Where no loss is
known, or it stands, norms alone tell: healthy ones never end twentyfold higher in few rows, nor a hundredfold in many.

The thresholds were set on 561 histories: benchmarks/diagnosis/ROUNDS.md, the ninth and the tenth round.
"""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.diagnosis.facts import OptimizerFacts, computed_once
from gradwatch.analysis.diagnosis.schedule import restarts_after
from gradwatch.analysis.statistics.loss_levels import (
    first_loss,
    is_above,
    is_surely_above,
    medians,
    share_above,
    start_of,
)
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of

# Many losses, whose levels are compared
MIN_LOSSES = 15  # losses; levels of fewer are not compared
MANY_LOSSES = 100  # losses without which it is not judged whether norms outgrew them, nor whether they only came back
MIN_LAST = 5  # losses; fewer at the end may be one spike
LAST_PARTS = 20  # parts of the losses, of which the last makes the last level
LOW, HIGH = 0.1, 0.9  # quantiles: nearly all last losses have to lie above nearly all of the best ones
MOSTLY = 0.85  # of the pairs of a last and a best loss
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
STEADY_PARTS, STEADY_RATIO = 3, 1.5  # tenths of the losses at the end, and how far they and the norms may differ
TARGETS_LOW, TARGETS_HIGH = 3.0, 2.5  # how far norms may lie from the scale of targets that grow slowly
GRADUAL_PARTS, ON_THE_WAY = 2, 0.15  # tenths on the way up, and how far from both ends of it, of its logarithm
TARGETS_START = 10.0  # times the end: a loss that began as high was not lifted by growing targets
MOST_TARGETS = 30.0  # how far errors may grow with their targets where no reward shows that these grew
GROWN_RATIO, RUNAWAY_RATIO = 5.0, 3.0  # of a loss beside a reward; of its norms in the root of that
FALLEN_SHARE = 0.25  # of the best level of a reward: it has not risen if it has come down again by so much
FAR_GROWN_RATIO = 20.0  # of such a loss: beside it the norms need only be raised
GAINED, NEARLY = 0.1, 0.05  # of the first level: a gain by less is none; a loss so near it came back to it
RESUMED_SHARE = 0.5  # of the rise up to the end: a training that was resumed as much higher was not lifted by updates
WORSE_PARTS, WORSE_RATIO = 3, 1.08  # tenths at the end, and their levels as multiples of the first one
ABOVE_START_NORMS = 1.4  # times the first norms, beside a loss that ends worse than it began: it diverged
MIN_END, MOST_AT_END, END_SHARE, USUAL = 40, 10, 100, 0.98  # losses; last ones, of so many; quantile of those before
MIN_AFTER = 3  # last norms, or last losses of a few: fewer may be a spike

# Few losses, which are judged one by one
LEFT_RATIO = 2.0  # times all losses before, as for levels
LEFT_NORM_RATIO = 3.0  # times the median norm before: the largest of a few norms exceeds the median anyway
TOLD_BY_TWO, TWO_NORM_RATIO = 3.0, 8.0  # the same for two rows at the end, which may be a spike
BY_FEW_RATIO = 5.0  # the same where fewer than three losses came before, which may be low by chance
CLIMB_ROWS, MIN_BEFORE = 4, 2  # rows, in each of which loss and norm have to grow, and rows before them
CLIMB_RATIO = 3.0  # times, from the first to the last of these rows
RISEN_RATIO = 1.2  # times the median loss before; little, because norms that are huge or left their level witness it
RISEN_NORM_RATIO = 5.0  # times the median norm before, of each of the last three
LEAP_LOSS_RATIO, FEW_LEAP_RATIO = 10.0, 30.0  # times, from the first to the last of two or three losses; of more
HUGE_LOSS = 1e6  # no loss of one sample that was scaled on purpose is as large
OUT_OF_RANGE = 1e6  # times all losses before: no outlier of a batch is as far off
MIN_OUT, OFTEN = 3, 0.05  # rows that are out of every range, and their share
LEARNS_AGAIN, STEADILY = 0.5, -0.8  # of the level before, in the last tenth; correlation of its logarithm with time

# Norms of which no loss shows that the training goes on
HUGE_NORM = 1e3  # the gradient of a mean loss is not as large for long in a training that is well
FEW_GROWN, FEWER_GROWN = 20.0, 100.0  # times the first norms; of fewer than six rows
MANY_GROWN, MIN_MANY = 100.0, 20  # times the first fifth of many norms, and how many; healthy ones reached 12
ALONE_GROWN, ALONE_LARGE = 4.0, 50.0  # the same of norms beside which nothing is known, and their size at the end
ENDLESS_RATIO, ENDLESS_NORMS = 10.0, 10.0  # of the first losses and norms: how far a loss falls that has no least value
STANDS_RATIO = 0.9  # of the first loss: one that fell to less shows that the training goes on
OUTGROWN, STILL_FALLS = 5.0, 0.02  # times their level while the loss was best; of that level, in half of the losses


def is_apart(losses: Array, levels: list[float]) -> bool:
    """Whether nearly all last losses lie above nearly all of the best tenth.

    Args:
        losses: in order.
        levels: of the tenths of these losses.

    >>> falling = np.linspace(2.0, 1.0, 100)
    >>> is_apart(falling, [2.0 - 0.1 * i for i in range(10)])
    False
    """
    last = last_losses(losses)
    best = np.array_split(losses, len(levels))[int(np.argmin(levels))]
    return float(np.quantile(last, LOW)) > float(np.quantile(before_it_left(best, float(last.max())), HIGH))


def before_it_left(best: Array, most: float) -> Array:
    """The best tenth without the losses at its end that lie above ``most``: there the loss has left already.

    >>> before_it_left(np.array([0.2, 0.1, 11.0]), most=2.9).tolist()
    [0.2, 0.1]
    >>> before_it_left(np.array([0.2, 3.0, 0.2, 5.7]), most=1.25).tolist()
    [0.2, 3.0, 0.2]
    """
    calm = np.flatnonzero(best <= most)
    return best[: calm[-1] + 1] if len(calm) else best


def is_mostly_above(losses: Array, many: int) -> bool:
    """Whether a loss of the last of so many parts is above one of the best part in most pairs, which noise leaves.

    >>> falls_and_rises = np.r_[np.linspace(3.0, 1.0, 80), np.full(20, 1.5)] + np.tile([0.1, -0.1], 50)
    >>> is_mostly_above(falls_and_rises, 10), is_mostly_above(falls_and_rises[:80], 10)
    (True, False)
    """
    parts = np.array_split(losses, many)
    return share_above(parts[-1], parts[int(np.argmin(medians(parts)))]) > MOSTLY


def last_losses(losses: Array) -> Array:
    """The last twentieth of the losses, and at least 5."""
    return losses[-max(MIN_LAST, len(losses) // LAST_PARTS) :]


def _end_of_level(optimizer: OptimizerFacts, level: int) -> int:
    """The last step of a level of the loss, by its position."""
    history = optimizer.history
    return int(np.array_split(history.loss_steps, len(history.loss_levels))[level][-1])


@computed_once
def ends_far_above(optimizer: OptimizerFacts) -> bool:
    """Whether the loss ends far above its best level and the norms witness it, or far above its start.

    False where the run has several optimizers, because the loss of one rises while another learns, and where the
    learning rate starts anew, the loss learns something new, or the rise came before the first update of a resumed
    training, because that begins a phase of its own.
    """
    losses, levels = optimizer.history.losses, optimizer.history.loss_levels
    if len(losses) < MIN_LOSSES or optimizer.has_rivals or not is_apart(losses, levels):
        return False
    best, ends = int(np.argmin(levels)), last_losses(losses)
    calm = before_it_left(np.array_split(losses, len(levels))[best], float(ends.max()))
    step = int(np.array_split(optimizer.history.loss_steps, len(levels))[best][len(calm) - 1])
    low, last, first = levels[best], float(np.median(ends)), first_loss(losses)
    if restarts_after(optimizer, step) or _learns_again(losses, levels) or resumed_higher_at(optimizer) is not None:
        return False
    if values_grew(optimizer):
        return False
    if last > FAR_RATIO * max(first, low) > 0:
        return not targets_grew(optimizer, step, math.sqrt(last / low))
    rise = last - low
    if is_no_better_than_at_first(optimizer) and (raised_at_the_end(optimizer, step) or 0.0) > ABOVE_START_NORMS:
        return True
    doubled = last > FAR_RATIO * low > 0 and _undone_in_logarithms(first, low, last) > UNDONE_SHARE
    risen = rise > max(FAR_DEVIATIONS * noise_of(losses), UNDONE_SHARE * max(first - low, 0.0), LEAST_SHARE * abs(low))
    return (doubled or risen) and _norms_witness(optimizer, step)


@computed_once
def resumed_higher_at(optimizer: OptimizerFacts) -> int | None:
    """The first step of an attempt whose first loss is nearer to the last ones than to those before it; None: of none.

    No update made such a rise: the data are others, or a checkpoint was not loaded. Attempts from before the best level
    do not count.
    """
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    attempts = optimizer.frame["attempt"].to_numpy()[np.searchsorted(optimizer.steps, steps)]
    best = np.array_split(steps, len(optimizer.history.loss_levels))[int(np.argmin(optimizer.history.loss_levels))]
    last = float(np.median(last_losses(losses)))
    for begin in np.flatnonzero(np.diff(attempts)) + 1:
        before = float(np.median(losses[max(0, begin - MIN_LAST) : begin]))
        if steps[begin] > best[0] and losses[begin] - before > RESUMED_SHARE * (last - before) > 0:
            return int(steps[begin])
    return None


@computed_once
def is_no_better_than_at_first(optimizer: OptimizerFacts) -> bool:
    """Whether no tenth of a loss is better than its first, and the last ones are worse or only came back from a leap.

    Worse by more than chance, as ranks tell of many losses, or by far more than the noise of few.
    """
    losses = optimizer.history.losses
    if len(losses) < MIN_LOSSES or values_grew(optimizer):
        return False
    levels = optimizer.history.loss_levels
    first, late = levels[0], levels[-WORSE_PARTS:]
    if not 0 < (1 - GAINED) * first <= min(levels):
        return False
    tenths = np.array_split(losses, len(levels))
    is_sure = is_surely_above(np.concatenate(tenths[-WORSE_PARTS:]), tenths[0])
    is_sure |= min(late) - first > FAR_DEVIATIONS * noise_of(losses)
    if min(late) > WORSE_RATIO * first and is_sure:
        return True
    is_back = len(losses) >= MANY_LOSSES and levels[-1] > (1 - NEARLY) * first
    return is_back and max(levels[1:-1]) > FAR_RATIO * first


def leaves_at_the_end(losses: Array, norms: Array) -> bool:
    """Whether each of the last losses is twice nearly all of the half before them, and the norms left with them.

    >>> calm, norms = np.tile([1.0, 1.1], 60), np.ones(123)
    >>> norms[-3:] = 30.0
    >>> leaves_at_the_end(np.r_[calm, 2.5, 3.0, 4.0], norms), leaves_at_the_end(np.r_[calm, 2.5, 3.0, 1.0], norms)
    (True, False)
    """
    if len(losses) < MIN_END:
        return False
    few = max(MIN_AFTER, min(MOST_AT_END, len(losses) // END_SHARE))
    half, last = slice(len(losses) // 2, -few), slice(-few, None)
    usual = float(np.quantile(losses[half], USUAL))
    return bool(
        losses[last].min() > FAR_RATIO * usual > 0
        and losses[-1] > losses[0]
        and np.median(norms[last]) > LEFT_NORM_RATIO * np.median(norms[half])
    )


def _learns_again(losses: Array, levels: list[float]) -> bool:
    """Whether a loss below half of its start halves within its last tenth, steadily: its task has grown.

    >>> again = np.r_[np.geomspace(2.0, 0.01, 100), np.geomspace(9.0, 0.2, 50)]
    >>> levels = [float(np.median(part)) for part in np.array_split(again, 10)]
    >>> _learns_again(again, levels), _learns_again(10 * again[::-1], levels)
    (True, False)
    """
    if losses.min() <= 0 or not float(np.median(last_losses(losses))) < LEARNS_AGAIN * first_loss(losses):
        return False
    end = np.log(np.array_split(losses, len(levels))[-1])
    falls = np.ptp(end) > 0 and np.corrcoef(end, np.arange(len(end)))[0, 1] < STEADILY
    return bool(falls and levels[-1] < LEARNS_AGAIN * levels[-2])


def _undone_in_logarithms(first: float, best: float, last: float) -> float:
    """The share of a fall that a rise undoes; infinite without a fall."""
    return math.log(last / best) / math.log(first / best) if first > best else math.inf


@computed_once
def values_grew(optimizer: OptimizerFacts) -> bool:
    """Whether the loss rose ever more slowly, with norms as the growing targets of a value learner leave them.

    Its errors and norms grow with the return, without a peak before the end. A training that is lost raises its norms
    by more, leaps, grows to the end, or grows further than the values of a task that nothing is known of.
    """
    losses, levels = optimizer.history.losses, optimizer.history.loss_levels
    if len(losses) < MIN_LOSSES or not levels[-1] > FAR_RATIO * min(levels) > 0 or not _rose_slowly(levels):
        return False
    if levels[-1] > MOST_TARGETS * min(levels) or first_loss(losses) > TARGETS_START * levels[-1]:
        return False
    best = int(np.argmin(levels))
    raised = raised_at_the_end(optimizer, _end_of_level(optimizer, best))
    scale = math.sqrt(levels[-1] / levels[best])
    return raised is not None and scale / TARGETS_LOW < raised < scale * TARGETS_HIGH


def targets_grew(optimizer: OptimizerFacts, step: int, scale: float) -> bool:
    """Whether the loss rose at once and stands since, with norms as a change of the targets' scale leaves them.

    Targets that are ``scale`` times as large raise the norms as much, and a squared error by its square.
    """
    levels, raised = optimizer.history.loss_levels[-STEADY_PARTS:], raised_at_the_end(optimizer, step)
    is_steady = max(levels) < STEADY_RATIO * min(levels)
    return raised is not None and is_steady and scale / STEADY_RATIO < raised < scale * STEADY_RATIO


def _rose_slowly(levels: list[float]) -> bool:
    """Whether levels above 0 rose gradually, and neither had a peak before the end nor grow on as fast.

    >>> _rose_slowly([2.0, 1.0, 2.0, 4.0, 6.0, 7.0]), _rose_slowly([2.0, 1.0, 1.0, 7.0, 7.0, 7.0])
    (True, False)
    >>> _rose_slowly([2.0, 1.0, 2.0, 4.0, 8.0, 16.0]), _rose_slowly([2.0, 1.0, 2.0, 4.0, 12.0, 7.0])
    (False, False)
    """
    after = levels[int(np.argmin(levels)) :]
    if len(after) < 2 or max(after) > STEADY_RATIO * after[-1] or after[-1] > STEADY_RATIO * after[-2]:
        return False
    low, last = math.log(after[0]), math.log(after[-1])
    ways = [(math.log(level) - low) / max(last - low, 1e-300) for level in after]
    return sum(ON_THE_WAY < way < 1 - ON_THE_WAY for way in ways) >= GRADUAL_PARTS


def grows_beside_a_reward(optimizer: OptimizerFacts) -> bool:
    """Whether the loss of a policy and its norms grew far, and the reward has not risen meanwhile, or fell again.

    The errors of a value learner grow with its returns, and the norms as their root. Values that run away raise the
    norms by more, or the loss without end, and earn nothing.
    """
    losses, levels, rewards = optimizer.history.losses, optimizer.history.loss_levels, optimizer.history.rewards
    if not len(rewards) or len(losses) < MIN_LOSSES or losses.min() <= 0 or optimizer.has_rivals:
        return False
    best, last = int(np.argmin(levels)), float(np.median(last_losses(losses)))
    if last < GROWN_RATIO * levels[best] or not is_mostly_above(losses, len(levels)):
        return False
    raised = raised_at_the_end(optimizer, _end_of_level(optimizer, best))
    ratio = last / levels[best]
    least = RAISED_RATIO if ratio > FAR_GROWN_RATIO else RUNAWAY_RATIO * math.sqrt(ratio)
    if raised is None or raised < least:
        return False
    few = max(1, len(rewards) // END_PARTS)
    then, now = rewards[: max(1, len(rewards) * (best + 1) // len(levels))][-few:], rewards[-few:]
    highest = max(np.array_split(rewards, min(len(levels), len(rewards))), key=np.median)
    falls = is_above(highest, now) and float(np.median(now)) < (1 - FALLEN_SHARE) * float(np.median(highest))
    return falls or not is_above(now, then)


def _norms_witness(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether a norm after a step is not finite or far above those before, or the last norms have left their level."""
    level, after = _level_before(optimizer, step), optimizer.total_norm[optimizer.steps > step]
    raised = raised_at_the_end(optimizer, step)
    if not np.isfinite(after).all():
        return level is not None
    if level is None or raised is None:
        return False
    return float(after.max()) > LEAP_RATIO * level or raised > RAISED_RATIO or raised < FALLEN_RATIO


def _level_before(optimizer: OptimizerFacts, step: int) -> float | None:
    """The level of the norms up to a step; None without any."""
    norms = optimizer.total_norm
    before = norms[(optimizer.steps <= step) & np.isfinite(norms) & (norms > 0)][-LEVEL_NORMS:]
    return float(np.median(before)) if len(before) else None


def raised_at_the_end(optimizer: OptimizerFacts, step: int) -> float | None:
    """The last norms as a multiple of their level up to a step; None where either is not known."""
    level, norms = _level_before(optimizer, step), optimizer.total_norm
    finite = norms[(optimizer.steps > step) & np.isfinite(norms)]
    if level is None or not len(finite):
        return None
    return float(np.median(finite[-max(MIN_AFTER, len(finite) // END_PARTS) :])) / level


def leaves_for_good(losses: Array, norms: Array) -> bool:
    """Whether from some row on each loss is above twice all losses before, and the norms left their level there.

    The level is the median norm before that row. The norms count from one row earlier: a step throws off the loss of
    the next one. Two rows are enough where loss and norms left farther. One or two first losses may be low by chance:
    then all others have to lie above five times these.

    >>> leaves_for_good(np.array([3.1, 2.9, 2.8, 7.0, 9.0, 8.5]), np.array([1.0, 1, 4, 9, 5, 5]))
    True
    >>> leaves_for_good(np.array([3.1, 2.9, 2.8, 7.0, 9.0, 3.5]), np.array([1.0, 1, 4, 9, 5, 5]))
    False
    """
    for at in range(1, len(losses) - 1):
        is_told_by_two = at > len(losses) - MIN_AFTER
        ratio, norm_ratio = (TOLD_BY_TWO, TWO_NORM_RATIO) if is_told_by_two else (LEFT_RATIO, LEFT_NORM_RATIO)
        if losses[at:].min() > (BY_FEW_RATIO if at < MIN_AFTER else ratio) * losses[:at].max() > 0:
            level, after = float(np.median(norms[:at])), norms[max(1, at - 1) :]
            return bool(after.max() > norm_ratio * level or np.median(after) < FALLEN_RATIO * level)
    return False


def climbs_to_the_end(losses: Array, norms: Array) -> bool:
    """Whether loss and norm grow in each of the last four rows, threefold in all, and the loss ends above its first.

    >>> climbs_to_the_end(np.array([9.0, 3, 2, 2, 3, 5, 12]), np.array([5.0, 2, 2, 3, 4, 9, 20]))
    True
    >>> climbs_to_the_end(np.array([9.0, 3, 2, 2, 3, 5, 8]), np.array([5.0, 2, 2, 3, 4, 9, 20]))
    False
    """
    ends = losses[-CLIMB_ROWS:], norms[-CLIMB_ROWS:]
    if len(losses) < CLIMB_ROWS + MIN_BEFORE or not losses[-1] > losses[0]:
        return False
    if len(losses) >= MIN_END and not losses[-1] > np.quantile(losses[:-CLIMB_ROWS], USUAL):
        return False  # of many losses that scatter, four in a row grow by chance
    return all((np.diff(end) > 0).all() and end[-1] > CLIMB_RATIO * end[0] > 0 for end in ends)


def rises_above_all(losses: Array, norms: Array) -> bool:
    """Whether the last three losses are above all before and the norms witness it: all huge, or the last ones raised.

    >>> rises_above_all(np.array([3.0, 2.9, 3.0, 3.3, 3.5, 3.8]), np.array([1.0, 1, 1, 9, 9, 9]))
    True
    >>> rises_above_all(np.array([3.0, 2.9, 3.0, 3.3, 3.5, 3.8]), np.array([1.0, 1, 1, 9, 9, 2]))
    False
    """
    before, after = losses[:-MIN_AFTER], losses[-MIN_AFTER:]
    if not (len(before) and after.min() > before.max() and after[-1] > RISEN_RATIO * np.median(before) > 0):
        return False
    raised = norms[-MIN_AFTER:].min() > RISEN_NORM_RATIO * np.median(norms[:-MIN_AFTER])
    return bool(norms.min() > HUGE_NORM or raised)


def leaps_at_once(losses: Array, norms: Array) -> bool:
    """Whether two or three losses grow in each row, tenfold in all, and their norms threefold; more losses thirtyfold.

    >>> leaps_at_once(np.array([1.5, 63.0]), np.array([2.0, 90.0]))
    True
    >>> leaps_at_once(np.array([0.3, 1.4, 4.1, 11.0, 343.0]), np.array([1.0, 2, 4, 9, 90]))
    True
    """
    least = LEAP_LOSS_RATIO if len(losses) <= MIN_AFTER else FEW_LEAP_RATIO
    if not (len(losses) > 1 and losses[0] > 0 and (np.diff(losses) > 0).all()):
        return False
    return bool(losses[-1] > least * losses[0] and norms[-1] > LEFT_NORM_RATIO * norms[0] > 0)


def leaves_every_range(losses: Array) -> bool:
    """Whether the last loss is huge and a million times the size of all before: no further row need show that it stays.

    >>> leaves_every_range(np.array([0.04, 0.14, 2e8])), leaves_every_range(np.array([1e-6, 0.1, 20.0]))
    (True, False)
    """
    before = float(np.abs(losses[:-1]).max(initial=0.0))
    return bool(losses[-1] > HUGE_LOSS and losses[-1] > OUT_OF_RANGE * before > 0)


@computed_once
def out_of_range_from(optimizer: OptimizerFacts) -> int | None:
    """The first step whose loss is huge and a million times its first level, if 5% of the rows and three have such.

    Single losses between them may be small: values that run away swing over many orders of magnitude. Beside a reward
    the errors may grow as the square of it.
    """
    losses, rewards = optimizer.history.losses, np.abs(optimizer.history.rewards)
    if len(losses) <= MIN_OUT or optimizer.has_rivals or not losses.min() > 0:
        return None
    first = start_of(rewards) if len(rewards) else 0.0
    grown = 1.0 if not len(rewards) else float(rewards.max()) / first if first else math.inf
    limit = max(HUGE_LOSS, OUT_OF_RANGE * max(1.0, grown * grown) * start_of(losses))
    out = np.flatnonzero(losses > limit)
    return int(optimizer.history.loss_steps[out[0]]) if len(out) >= max(MIN_OUT, OFTEN * len(losses)) else None


def falls_without_end(optimizer: OptimizerFacts) -> bool:
    """Whether a loss below 0 grew in size without end, and the norms with it: it has no least value, as a critic's.

    A likelihood falls below 0 too, but as a logarithm: by little, and with norms that stay.
    """
    losses = optimizer.history.losses
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm) & (optimizer.total_norm > 0)]
    if min(len(losses), len(norms)) < MIN_MANY or len(optimizer.history.rewards):
        return False
    few, fifth = max(MIN_LAST, len(losses) // LAST_PARTS), len(norms) // 5
    start = norms[: max(MIN_LAST, len(norms) // LAST_PARTS)]
    is_lower = float(np.quantile(losses[-len(losses) // 5 :], HIGH)) < -ENDLESS_RATIO * float(
        np.abs(losses[:few]).max()
    )
    return is_lower and float(np.quantile(norms[-fifth:], LOW)) > ENDLESS_NORMS * float(np.median(start))


@computed_once
def norms_leave_for_good(optimizer: OptimizerFacts) -> bool:
    """Whether the norms ended far above their first level, and no loss fell meanwhile.

    A loss that reaches 0 may fall without end, as a critic's does, and a surrogate shows nothing: then the reward is
    asked, where there is one.
    """
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm) & (optimizer.total_norm > 0)]
    losses, rewards = optimizer.history.losses, optimizer.history.rewards
    knows_progress = bool(len(losses)) and losses.min() > 0 and not optimizer.history.has_surrogate_loss
    if knows_progress and _end_of(losses) < STANDS_RATIO * float(losses[0]):
        return False
    if len(rewards) >= 2 and _end_of(rewards) > float(np.median(rewards[: _few(rewards)])):
        return False
    if len(norms) < MIN_MANY:
        return _few_grew(norms)
    if not len(losses) and not len(rewards) and _large_ones_grew(norms):
        return True
    return _many_grew(norms) or falls_without_end(optimizer)


@computed_once
def norms_outgrow_from(optimizer: OptimizerFacts) -> int | None:
    """The step from which the norms grew tenfold while the loss fell no more, for half of the losses or longer."""
    if len(optimizer.history.losses) < MANY_LOSSES or optimizer.has_rivals or optimizer.history.has_surrogate_loss:
        return None
    levels = optimizer.history.loss_levels
    early = levels[: len(levels) // 2]
    stood = float(np.median(optimizer.history.losses[len(optimizer.history.losses) // 2 :]))
    if not min(stood, levels[-1]) > (1 - STILL_FALLS) * min(early) > 0:
        return None
    step = _end_of_level(optimizer, int(np.argmin(early)))
    raised = raised_at_the_end(optimizer, step)
    return None if raised is None or raised < OUTGROWN or values_grew(optimizer) else step


def _few(values: Array) -> int:
    """How many of a few values make their first or their last level."""
    return MIN_AFTER if len(values) >= 2 * MIN_AFTER else max(1, len(values) // 2)


def _end_of(values: Array) -> float:
    return float(np.median(values[-_few(values) :]))


def _few_grew(norms: Array) -> bool:
    """Whether each of the last norms is twentyfold the median of the first ones; a hundredfold, if they are very few.

    >>> _few_grew(np.array([1.0, 2.0, 9.0, 20.0, 60.0, 50.0, 90.0])), _few_grew(np.array([1.0, 1, 1, 1, 1, 90]))
    (True, False)
    """
    if len(norms) < MIN_AFTER:
        return False
    few = len(norms) < 2 * MIN_AFTER
    first, last = norms[: len(norms) // 2 if few else MIN_AFTER], norms[-2:] if few else norms[-MIN_AFTER:]
    return bool(last.min() > (FEWER_GROWN if few else FEW_GROWN) * np.median(first))


def _many_grew(norms: Array, times: float = MANY_GROWN) -> bool:
    """Whether nearly all of the last fifth of the norms are far above nearly all of the first fifth."""
    fifth = len(norms) // 5
    return float(np.quantile(norms[-fifth:], LOW)) > times * float(np.quantile(norms[:fifth], HIGH))


def _large_ones_grew(norms: Array) -> bool:
    """Whether norms ended clearly above their start and are large: small ones grow as far in trainings that are well.

    >>> grown = np.geomspace(1.0, 20.0, 100)
    >>> _large_ones_grew(10 * grown), _large_ones_grew(0.1 * grown)
    (True, False)
    """
    return _many_grew(norms, ALONE_GROWN) and float(np.median(norms[-(len(norms) // 5) :])) > ALONE_LARGE
