"""The finding about the reward of a policy: its loss is a surrogate that shows no progress, its reward does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.statistics.loss_levels import is_above, is_surely_above, medians, share_above
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of
from gradwatch.text import number

MIN_REWARDS = 20  # rewards without which their course is not judged
MIN_FEW_REWARDS, FEW_PARTS = 8, 4  # few rewards, of which the last part has to lie below all before
PARTS, SHORT_PARTS, MIN_PART, MIN_LAST = 5, 20, 5, 3  # parts of the rewards, and the least that make one
MOSTLY, MIN_SURE = 0.82, 10  # of the pairs of a last and a best reward, where a part has so many, else nearly all
OFTEN = 0.6  # the same where the level fell far: single returns scatter that much
SURE_RANKS = 2.4  # deviations of that share by chance
SURE_NOISE, FAR_SHARE = 4.0, 0.6  # times the noise of rewards, or of their best level: a fall that is far
UNDONE_SHARE, NEARLY_UNDONE = 0.4, 0.75  # of what the reward had gained
LOST_SHARE, LOST_OF_ANY = 0.28, 0.55  # of the best level: enough of a reward that is never below 0; of any reward
LEAST_LOST = 0.15  # of the best level: needed beside the gain
STUCK_SHARE, SELDOM_AT_END, CHANCE = 0.75, 0.5, 2.0  # of all rewards, of the last; deviations of a count
FIRST_PARTS, BELOW_FIRST = 50, 0.03  # parts of the rewards, and how far below the first one all others have to lie
NEAR_ZERO, NEARLY_ALL = 0.1, 0.95  # of a reward of at most 1: next to none; the share of rewards, or of pairs
LEAST_REWARD = 0.01  # a reward that is never as large has another unit
MIN_STANDING, STANDING_PARTS = 60, 10  # rewards: of fewer no level but one near 0 is said to stand; their parts
NO_SHARE = 5.0  # a median reward as large is no share of right answers, nor the sum of a few such shares
STILL_LOW = 0.5  # of the first level below 0: one that came as near to 0 has learnt something
ROSE = 3.0  # standard errors of the difference of two means: a rise beyond chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """A reward that ends far below its best level: both levels, and how many rewards make each."""

    best: float
    last: float
    until: int  # the position after the best rewards
    few: int


def fall_of(rewards: Array) -> Fall | None:
    """The fall of a reward that was lost, if it was: by fifths, or nearly all of its gain by shorter parts.

    >>> fall_of(np.repeat([0.9, 0.8, 0.0], 10)).last, fall_of(np.repeat([0.9, 0.0, 0.8], 10))
    (0.0, None)
    >>> fall_of(np.array([0.6, 0.7, 0.6, 0.7, 0.7, 0.6, 0.6, 0.1, 0.0])).best
    0.7
    """
    many = len(rewards)
    if many < MIN_FEW_REWARDS or (rewards.min() >= 0 and rewards.max() < LEAST_REWARD):
        return None
    if many < MIN_REWARDS:
        return _fall(rewards, many // FEW_PARTS, UNDONE_SHARE)
    return (
        _fall(rewards, max(MIN_PART, many // PARTS), UNDONE_SHARE)
        or _fall(rewards, max(MIN_PART, many // SHORT_PARTS), NEARLY_UNDONE)
        or _fall(rewards, MIN_LAST, NEARLY_UNDONE)
    )


def _fall(rewards: Array, few: int, undone: float) -> Fall | None:
    """The fall from the best of parts of so many rewards to the last ones, if it is by so much of what was gained.

    The last ones lie mostly below the best ones, in short parts by more than noise as well, or below all before. The
    gain is that from the lowest level. A large share of the best level is enough as well (``LOST_OF_ANY``), and a
    smaller one where no reward is below 0.
    """
    parts, last = np.array_split(rewards, len(rewards) // few), rewards[-few:]
    levels, is_short = medians(parts), undone > UNDONE_SHARE
    at, left = int(np.argmax(levels)), float(np.median(last))
    fall, size = levels[at] - left, abs(levels[at])
    is_far = fall > min(SURE_NOISE * noise_of(rewards), FAR_SHARE * size)
    often = OFTEN if fall > FAR_SHARE * size else MOSTLY
    is_below = share_above(parts[at], last) > (often if few >= MIN_SURE else NEARLY_ALL)
    is_below &= is_surely_above(parts[at], last, SURE_RANKS)
    if not (is_far and last.max() < rewards[:-few].min()) and not (is_below and (is_far or not is_short)):
        return None
    lowest = min(medians(np.array_split(rewards, min(SHORT_PARTS, len(rewards) // MIN_LAST))))
    least = undone * (levels[at] - lowest)
    if not is_short:
        least = min(least, size * (LOST_SHARE if rewards.min() >= 0 else LOST_OF_ANY))
    if fall < max(least, LEAST_LOST * size):
        return None
    return Fall(best=levels[at], last=left, until=sum(map(len, parts[: at + 1])), few=few)


def reward_rose(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether the last rewards are better than those up to a step, beyond doubt; False without a reward."""
    rewards, steps = optimizer.history.rewards, optimizer.steps
    if len(rewards) < MIN_REWARDS:
        return False
    few = len(rewards) // PARTS
    at = int(np.searchsorted(steps, step, side="right") * len(rewards) / len(steps))
    then, now = rewards[: max(few, at)][-few:], rewards[-few:]
    return is_above(now, then)


def is_stuck_at_lowest(rewards: Array) -> bool:
    """Whether most rewards, also at the end, are the lowest of all, and those that are not become no more.

    One and the same number in every row may be a reward that the log does not hold.

    >>> seldom = np.tile([0.0, 0, 0, 0, 0.25], 20)
    >>> is_stuck_at_lowest(seldom), is_stuck_at_lowest(np.sort(seldom)), is_stuck_at_lowest(np.zeros(100))
    (True, False, False)
    """
    if len(rewards) < MIN_REWARDS:
        return False
    is_better = rewards > rewards.min()
    first, second = (int(half.sum()) for half in np.array_split(is_better, 2))
    most = 1 - STUCK_SHARE
    is_seldom = is_better.mean() <= most and is_better[-len(rewards) // 4 :].mean() < SELDOM_AT_END
    return bool(is_seldom and first + second > 0 and second <= first + CHANCE * math.sqrt(first + second))


def never_rose(rewards: Array) -> bool:
    """Whether the rewards of the second half are no higher on average than those of the first, beyond chance.

    >>> noise = np.tile([0.1, -0.1], 20)
    >>> never_rose(noise), never_rose(noise + np.linspace(0.0, 0.4, 40))
    (True, False)
    """
    first, second = np.array_split(rewards, 2)
    doubt = ROSE * math.hypot(first.std(), second.std()) / math.sqrt(len(second))
    return float(second.mean() - first.mean()) <= doubt


def never_came_back(rewards: Array) -> bool:
    """Whether each reward after the first fiftieth lies below the level of that one: not all would by chance.

    >>> never_came_back(np.r_[5400.0, np.tile([1600.0, 1900.0], 20)])
    True
    >>> never_came_back(np.r_[5400.0, np.tile([1600.0, 1900.0], 20), 5500.0])
    False
    """
    if len(rewards) < MIN_REWARDS:
        return False
    few = max(1, len(rewards) // FIRST_PARTS)
    first = float(np.median(rewards[:few]))
    return bool(rewards[few:].max() < first - BELOW_FIRST * abs(first))


def stands_low(rewards: Array, *, is_sure: bool) -> bool:
    """Whether the reward of a policy never rose from a level at which it has learnt next to nothing.

    That is the lowest reward in most rows, next to none, a level below 0 in many rows, or one that no part of them
    exceeds. A share of right answers may have been as good from the start. A 0 in nearly every row may be a reward that
    the log does not hold, unless the loss says otherwise (``is_sure``): that of a value learner, or one of 0.

    >>> near = np.tile([0.0, 0.03, 0.06, 0.02], 50)
    >>> stands_low(near, is_sure=False), stands_low(np.sort(near), is_sure=False)
    (True, False)
    >>> stands_low(near - 2.6, is_sure=False), stands_low(near + 2.6, is_sure=False)
    (True, False)
    """
    if len(rewards) < MIN_REWARDS:
        return False
    if is_stuck_at_lowest(rewards) or (np.ptp(rewards) == 0 and rewards[0] < 0):
        return True
    if (rewards == 0).mean() >= NEARLY_ALL:
        return is_sure
    is_near_zero = rewards.max() >= LEAST_REWARD and np.quantile(np.abs(rewards), NEARLY_ALL) <= NEAR_ZERO
    return _stands(rewards) or (bool(is_near_zero or _stays_below_zero(rewards)) and never_rose(rewards))


def _stands(rewards: Array) -> bool:
    """Whether no fifth of many rewards is better than the first, beyond chance, and they are no shares of 1.

    A model may give right answers from the start, but an agent hardly earns from the start what it can.

    >>> scattered = 20 + np.random.default_rng(0).standard_normal(100)
    >>> _stands(scattered), _stands(scattered / 20), _stands(np.sort(scattered))
    (True, False, False)
    """
    if len(rewards) < MIN_STANDING or abs(np.median(rewards)) < NO_SHARE:
        return False
    first, *later = np.array_split(rewards, PARTS)
    return not any(is_surely_above(part, first, SURE_RANKS) for part in later)


def _stays_below_zero(rewards: Array) -> bool:
    """Whether each level of many rewards lies below 0, and none of them much nearer to it than the first."""
    levels = medians(np.array_split(rewards, STANDING_PARTS))
    return len(rewards) >= MIN_STANDING and max(levels) < STILL_LOW * levels[0] < 0


def reward_lost(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a policy whose reward fell far below its best level and did not come back."""
    rewards, steps = optimizer.history.rewards, optimizer.steps
    fall = fall_of(rewards)
    if fall is None:
        return None
    begin = int(steps[min(len(steps) - 1, fall.until * len(steps) // len(rewards))])
    return Finding(
        code="reward-lost",
        severity="warning",
        certainty="shown",
        what=f"the reward{facts.of(optimizer)} ends near {number(fall.last)}, far below its best level of"
        f" {number(fall.best)}: the policy lost what it could",
        optimizer=optimizer.name,
        steps=(begin, int(optimizer.steps[-1])),
        evidence={
            "reward_first": Quantity(float(np.median(rewards[: fall.few])), f"reward, median of the first {fall.few}"),
            "reward_best": Quantity(fall.best, f"reward, median of {fall.few}"),
            "reward_last": Quantity(fall.last, f"reward, median of the last {fall.few}"),
        },
        cause="updates that take the policy too far from the one that sampled: the learning rate, too many updates on"
        " the same samples, a penalty on the distance (KL) that is too small, or a reward that collapsed answers get",
        remedy="go back to a checkpoint of the best level; lower the learning rate or raise the KL coefficient, and"
        " look at samples from before and after the fall",
        confirm="print samples, the entropy and the KL distance around the step at which the reward falls",
    )


RULES = (reward_lost,)
