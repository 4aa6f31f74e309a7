"""A loss that never falls, or stands where nothing has been learnt, and a policy that earns no more."""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.diagnosis.ends import is_no_better_than_at_first
from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Certainty, Finding, Quantity
from gradwatch.analysis.diagnosis.growth import is_diverging
from gradwatch.analysis.diagnosis.rewards import STUCK_SHARE, never_came_back, never_rose, stands_low
from gradwatch.analysis.diagnosis.schedule import end_of_warm_up
from gradwatch.analysis.diagnosis.setbacks import EARLY_PARTS, MIN_FEW_LOSSES, MIN_FEWEST_LOSSES, MIN_LOSSES
from gradwatch.analysis.statistics.loss_levels import first_loss, medians, start_of, uncertainty
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of, robust_deviation
from gradwatch.detect.losses import NO_LOSS
from gradwatch.record import Severity
from gradwatch.text import number
from gradwatch.text import share as percentage

FELL_SHARE = 0.02  # of the first loss: a fall by less is none
SEEN_SHARE = 0.05  # of the first loss: where one by that much could not be told from noise, nothing is said
MIN_AFTER_FIRST, ABOVE_FIRST = 8, 1.05  # losses, and times the first one: of a loss that never came back to it
FIRST_PARTS, STILL_PARTS = 5, 8  # parts of the losses, of which the first is left out, and of those that should stand
STANDS_NOISE, FALLS_SHARE = 0.01, 0.015  # of a loss that stands: how its rows scatter, and its second half may be lower
UNLEARNT_SHARE = 0.3  # of the first loss: one that fell to less has learnt something
UNTRAINED, HIGH_STANDS = 4.0, 0.05  # a loss of language that stands above has learnt nothing; how far it may move
MOST_SCATTER = 4.0  # deviations of a level: how far ten of them lie apart by chance
MOST_BY_GUESS = 12.5  # the logarithm of the largest vocabularies: a loss above it has another unit
HOVERS = 6.3  # a loss of language above it knows how often each word occurs and no more
LATE_PARTS = 3  # last tenths in which a high loss stands, without norms that could move it
FADED = 1 / 15  # of the first norms: beside a loss that stands
CLASSES = (2, 3, 4, 5, 10, 100, 1000)  # that data sets usually have
AT_CHANCE, AROUND_CHANCE, MOST_DOUBT = 0.01, 0.07, 0.02  # of ln k: distance of what stands, of the start, by noise
STEADILY, OUTGROWN = 0.9, 3.0  # of a loss that grew all along: correlation of its levels with time; times the first
FROZEN = 1e-3  # of ln k: where all losses of the second half are as close to it, the outputs do not change
BINARY, AROUND_BINARY, BEGINS_ABOVE = 0.7, 0.03, 0.35  # the same at the cost of two classes, where few others stand


def no_progress(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """No tenth of the losses is lower than the first losses.

    Told of the only optimizer of a run: the losses of adversaries stand still. Not told of a loss about 0, which shows
    no progress, nor of one that is the same number at every step.
    """
    losses = optimizer.history.losses
    if len(facts.optimizers) > 1 or optimizer.history.has_surrogate_loss:
        return _policy_without_progress(facts, optimizer)
    if facts.is_imported and not is_diverging(optimizer):
        if is_no_better_than_at_first(optimizer) or _never_came_back(losses):
            return _no_progress(optimizer, "warning", "likely")
        if _stands_unlearnt(optimizer):
            return _no_progress(optimizer, "warning", "possible")
    if len(losses) < MIN_LOSSES:
        return None
    return _no_progress(optimizer, "info", "likely") if _never_fell(losses, optimizer.history.loss_levels) else None


def _never_came_back(losses: Array) -> bool:
    """Whether each later loss lies above the first one: not all would by chance.

    >>> _never_came_back(np.array([4.4, 7.8, 6.0, 8.6, 9.2, 9.2, 7.6, 8.2, 7.6]))
    True
    >>> _never_came_back(np.array([4.4, 7.8, 6.0, 8.6, 9.2, 9.2, 7.6, 4.5, 7.6]))
    False
    """
    return len(losses) >= MIN_AFTER_FIRST and bool(losses[1:].min() > ABOVE_FIRST * losses[0] > 0)


def _never_fell(losses: Array, levels: list[float]) -> bool:
    """Whether a loss stays at its first level, and neither its noise nor a rise would hide that it fell."""
    start, tenths = levels[0], np.array_split(losses, len(levels))
    if start == 0 or losses[0] == losses.max():
        return False  # a loss that is solved, or that the first updates may have lowered
    fell = max(start, first_loss(losses)) - min(levels)
    unseen = max(uncertainty(tenths[0]) + uncertainty(tenths[-1]), max(levels) - min(levels))
    return fell <= FELL_SHARE * abs(start) and unseen <= SEEN_SHARE * abs(start)


def _stands_unlearnt(optimizer: OptimizerFacts) -> bool:
    """Whether a loss stands from early on at a level at which nothing has been learnt.

    It may be as low as it can be, so one of these has to say it: rows that hardly differ, as if the loss did not depend
    on the inputs; a level too high for a language model that knows more than how often each word occurs; the cost of a
    guess, ln k among k classes; norms that are gone.
    """
    losses = optimizer.history.losses
    if _is_frozen_at_a_guess(losses):
        return True
    if not _shows_its_start(optimizer.history):
        return False
    stood, late = losses[len(losses) // FIRST_PARTS :], losses[-len(losses) // LATE_PARTS :]
    fades = _norms_fade(optimizer)
    if fades and _is_high(late) and _stands_still(late):
        return True
    return _stands_still(stood) and _is_unlearnt(optimizer, stood, fades=fades)


def _is_frozen_at_a_guess(losses: Array) -> bool:
    """Whether the losses of the second half are the cost of a guess, to the digit: outputs that no input changes.

    >>> fell_to = np.r_[np.linspace(2.0, 0.7, 10), np.full(10, 0.6931)]
    >>> _is_frozen_at_a_guess(fell_to), _is_frozen_at_a_guess(fell_to - 0.05)
    (True, False)
    """
    if len(losses) < MIN_FEWEST_LOSSES:
        return False
    half = losses[len(losses) // 2 :]
    return any(np.abs(half / math.log(classes) - 1).max() < FROZEN for classes in CLASSES)


def _is_unlearnt(optimizer: OptimizerFacts, stood: Array, *, fades: bool) -> bool:
    """Whether the losses that stand say that nothing has been learnt, alone or beside norms that fade."""
    losses = optimizer.history.losses
    few, level, first = len(losses) < MIN_FEW_LOSSES, float(np.median(stood)), optimizer.history.loss_levels[0]
    never_fell = max(first, start_of(losses)) < (1 + HIGH_STANDS) * level and losses[0] < level / UNLEARNT_SHARE
    if never_fell and noise_of(stood) < STANDS_NOISE * level and (not few or level < HOVERS):
        return True
    if len(losses) < MIN_LOSSES and _is_warming_up(optimizer):
        return False
    if not few and (fades or _is_high(stood) or (never_fell and UNTRAINED < level < MOST_BY_GUESS)):
        return True
    return any(_is_a_guess(math.log(classes), level, first, _doubt_of(stood)) for classes in CLASSES)


def _shows_its_start(history: OptimizerHistory) -> bool:
    """Whether losses above 0 differ and begin with the training: a record that begins late may have seen its end."""
    losses, steps = history.losses, history.loss_steps
    if len(losses) < MIN_FEWEST_LOSSES or losses.min() <= 0 or losses.min() == losses.max():
        return False
    return bool(steps[0] - (steps[1] - steps[0]) <= (steps[-1] - steps[0]) / EARLY_PARTS)


def _stands_still(losses: Array) -> bool:
    """Whether the levels of losses lie as close together as a level can be told, and do not fall from half to half.

    >>> noise = 0.01 * np.tile([1.0, -1.0], 40)
    >>> _stands_still(0.69 + noise), _stands_still(np.linspace(0.70, 0.66, 80) + noise)
    (True, False)
    """
    level, parts = float(np.median(losses)), np.array_split(losses, STILL_PARTS if len(losses) >= MIN_FEW_LOSSES else 2)
    levels, (first, second) = medians(parts), medians(np.array_split(losses, 2))
    scatter = MOST_SCATTER * robust_deviation(losses) / math.sqrt(len(parts[0]))
    falls = second < (1 - FALLS_SHARE) * first
    return _doubt_of(losses) < MOST_DOUBT and not falls and max(levels) - min(levels) < HIGH_STANDS * level + scatter


def _is_high(losses: Array) -> bool:
    """Whether losses stand higher than those of a language model that knows how often each word occurs."""
    return bool(losses.min() > HOVERS and np.median(losses) < MOST_BY_GUESS)


def _doubt_of(losses: Array) -> float:
    return uncertainty(losses) / float(np.median(losses))


def _is_a_guess(chance: float, level: float, first: float, doubt: float) -> bool:
    """Whether losses stand at the cost of a guess and began near it; at that of two classes few others stand."""
    if chance < BINARY:
        return abs(level / chance - 1) < AROUND_BINARY and first < (1 + BEGINS_ABOVE) * chance
    return abs(level / chance - 1) < max(AT_CHANCE, doubt) and abs(first / chance - 1) < AROUND_CHANCE


def _norms_fade(optimizer: OptimizerFacts) -> bool:
    """Whether the last norms are a fifteenth of the first ones: beside a loss that stands, the model is stuck."""
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    if len(norms) < MIN_FEW_LOSSES:
        return False
    first, *_, last = medians(np.array_split(norms, 10))
    return last < FADED * first


def _is_warming_up(optimizer: OptimizerFacts) -> bool:
    """Whether the learning rate rises in more than half of the record."""
    peak, (first, last) = end_of_warm_up(optimizer), optimizer.span or (0, 0)
    return peak is not None and peak > (first + last) / 2


def _policy_without_progress(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The policy of an imported history earns next to nothing and no more in time, or no more while its loss grows."""
    rewards = optimizer.history.rewards
    if not facts.is_imported or facts.several:
        return None
    is_lost = never_came_back(rewards)
    if not is_lost and not stands_low(rewards, is_sure=_holds_a_reward(optimizer)):
        return _outgrown(optimizer) if _loss_outgrows_reward(optimizer.history) else None
    share = float((rewards == rewards.min()).mean())
    what = f"the reward stands near {number(float(np.median(rewards)))} from the first row to the last"
    if share >= STUCK_SHARE:
        what = f"the reward is {number(float(rewards.min()))}, its lowest, in {percentage(share)} of the rows, and the"
        what += " others do not become more"
    if is_lost:
        what = f"the reward never comes back to what it was at first: it begins at {number(float(rewards[0]))}"
        what += f" and stands near {number(float(np.median(rewards)))}"
    if share == 1:
        what = f"the reward is {number(float(rewards[0]))} in every row"
    return Finding(
        code="no-progress",
        severity="warning",
        certainty="likely",
        what=what,
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "rewards_at_the_lowest": Quantity(share, "share of the rewards"),
            "reward_highest": Quantity(float(rewards.max()), "reward"),
            "rewards": Quantity(len(rewards), "rows"),
        },
        cause="the policy hardly ever does what earns a reward, so that next to nothing tells it how: the task is too"
        " hard for it, or the reward does not recognise a right answer",
        remedy="begin with easier tasks or a reward for parts of them, sample more answers to each, and check the"
        " reward on an answer that is right",
        confirm="print some samples with their rewards",
    )


def _holds_a_reward(optimizer: OptimizerFacts) -> bool:
    """Whether a logged reward of 0 means that nothing was earned, rather than that the log does not hold the reward.

    It does if nothing else is logged, and beside the loss of a value learner, which is above 0, or one of 0. A
    surrogate loss takes both signs.
    """
    losses = optimizer.history.losses
    if not len(losses):
        return not optimizer.has_norms
    return bool((losses.min() >= 0 and losses.max() > 0) or np.abs(losses).max() < NO_LOSS)


def _loss_outgrows_reward(history: OptimizerHistory) -> bool:
    """Whether the loss of a policy grew in size all along, and its reward did not rise meanwhile.

    The errors of a value learner grow with what it earns, and the penalty of a policy as it moves towards more.
    """
    if min(len(history.losses), len(history.rewards)) < MIN_FEW_LOSSES:
        return False
    levels = np.array(history.loss_levels)
    if np.ptp(levels) == 0:
        return False
    steadiness = abs(np.corrcoef(levels, np.arange(len(levels)))[0, 1])
    return bool(steadiness > STEADILY and abs(levels[-1]) > OUTGROWN * abs(levels[0]) and never_rose(history.rewards))


def _outgrown(optimizer: OptimizerFacts) -> Finding:
    rewards, levels = optimizer.history.rewards, optimizer.history.loss_levels
    return Finding(
        code="no-progress",
        severity="warning",
        certainty="likely",
        what=f"the reward does not rise from its level of {number(float(np.median(rewards)))}, while the loss goes from"
        f" {number(levels[0])} to {number(levels[-1])}",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "reward": Quantity(float(np.median(rewards)), "reward, median of all rows"),
            "loss_first": Quantity(levels[0], "loss, median of the first tenth"),
            "loss_last": Quantity(levels[-1], "loss, median of the last tenth"),
        },
        cause="a term of the loss grows and the reward has no part in it: an entropy bonus, a penalty, or values that"
        " are learnt from one another",
        remedy="log the terms of the loss one by one, lower the coefficient of the one that grows or the learning rate,"
        " and check that the reward reaches the loss",
        confirm="print the terms of the loss of a first and of a last batch",
    )


def _no_progress(optimizer: OptimizerFacts, severity: Severity, certainty: Certainty) -> Finding:
    losses = optimizer.history.losses
    levels = medians([tenth for tenth in np.array_split(losses, 10) if len(tenth)])  # there may be fewer than ten
    start, first = levels[0], first_loss(losses)
    what = f"the loss has not fallen: its median is {number(start)} over the first tenth of the losses and"
    what += f" {number(levels[-1])} over the last"
    if (highest := max(first, start)) > (1 + HIGH_STANDS) * levels[-1]:
        what = f"the loss fell from {number(highest)} in its first rows, and then no further than {number(levels[-1])}"
    return Finding(
        code="no-progress",
        severity=severity,
        certainty=certainty,
        what=what,
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "loss_first": Quantity(start, "loss"),
            "loss_last": Quantity(levels[-1], "loss"),
            "loss_lowest": Quantity(min(levels), "loss"),
            "losses": Quantity(len(losses), "steps"),
        },
        cause="the model can't learn the targets from its inputs (shuffled labels, the wrong loss, inputs on a wrong"
        " scale), the learning rate is far from a good one, or the model knew the task before the run began",
        remedy="train on one batch: if its loss does not fall either, the model, the loss or the learning rate is"
        " wrong; if it does, look at the data and the labels",
        confirm="train on a single batch for some hundred steps",
    )


RULES = (no_progress,)
