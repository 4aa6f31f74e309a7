"""The finding about the reward of a policy: its loss is a surrogate that shows no progress, its reward does."""

from __future__ import annotations

import math

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.statistics.loss_levels import is_above, medians, uncertainty
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of
from gradwatch.text import number

MIN_REWARDS = 20  # rewards without which their course is not judged
PARTS = 10  # of the rewards, each with its median
MIN_FEW_REWARDS, FEW_PARTS = 8, 4  # the same of few rewards, of which the last have to lie below all before
LOST_SHARE = 0.33  # of the size of the best level: a smaller fall is not told
UNDONE_SHARE = 0.75  # of what the reward had gained: a fall by as much is told of a reward of any size
LEAST_LOST = 0.15  # of the best level of a reward that is never below 0, which has a size
STUCK_SHARE, SELDOM_AT_END, CHANCE = 0.75, 0.5, 2.0  # of all rewards, of the last; deviations of a count
NEAR_ZERO, NEARLY_ALL = 0.1, 0.95  # of a reward of at most 1: next to none; the share of rewards that is so low
LEAST_REWARD = 0.01  # a reward that is never as large has another unit
MIN_STANDING = 100  # rewards without which a level below 0 is not said to stand
MOSTLY_BELOW, SURE_RANKS = 0.88, 3.3  # of the pairs of a last and a best reward; deviations of that share by chance
LAST_PART, FEWEST_PART, MIN_LATE = 20, 40, 3  # part of the rewards, and how many, that tell of a fall at the very end
LATE_NOISE, BELOW_ALL_NOISE = 4.0, 6.0  # times the noise of rewards: how far these have fallen
FEW_LOST_SHARE, SURE_NOISE = 0.5, 4.0  # the same of few, unless it is so many times their noise
RISEN_PARTS = 5  # parts of the rewards: the last one is compared with as many before a step
MIN_EARLY, EARLY_PARTS, EARLY_LEFT = 5, 30, 0.2  # first rewards, of so many parts, and what is left of their level
WITNESSED_SHARE, RAISED_RATIO = 0.15, 5.0  # the same beside norms that rose so far since the best level
LOW, HIGH = 0.1, 0.9  # quantiles: nearly all rewards of one part lie below nearly all of another
SURE, LOW_OF_FAR, HIGH_OF_FAR = 2.0, 0.25, 0.75  # times its doubt: of such a fall most rewards are enough


def reward_fell(rewards: Array, share: float = LOST_SHARE) -> bool:
    """Whether nearly all of the last rewards lie below nearly all of those at their best, by a share of that level.

    >>> reward_fell(np.repeat([0.9, 0.8, 0.0], 10)), reward_fell(np.repeat([0.9, 0.0, 0.8], 10))
    (True, False)
    >>> reward_fell(np.array([0.6, 0.7, 0.6, 0.7, 0.7, 0.6, 0.6, 0.1, 0.0]))
    True
    """
    if len(rewards) < MIN_FEW_REWARDS:
        return False
    parts = _parts(rewards)
    levels = medians(parts)
    if rewards.min() >= 0 and max(levels) < LEAST_REWARD:
        return False
    best, last = parts[int(np.argmax(levels))], rewards[-_last(rewards) :]
    if len(rewards) < MIN_REWARDS and last.max() >= rewards[: -len(last)].min():
        return False
    fall = max(levels) - float(np.median(last))
    if len(rewards) < MIN_REWARDS and fall < SURE_NOISE * noise_of(rewards):
        share = max(share, FEW_LOST_SHARE)
    doubt = uncertainty(best) + uncertainty(last)
    low, high = (LOW, HIGH) if fall < SURE * doubt else (LOW_OF_FAR, HIGH_OF_FAR)
    is_apart = fall > doubt and float(np.quantile(last, high)) < float(np.quantile(best, low))
    lost = share * abs(max(levels))
    if len(rewards) >= MIN_REWARDS:
        # Below 0 a reward has no size of its own: then what it moves at all counts, else what it had gained.
        moved = max(levels) - (min(levels) if rewards.min() < 0 else levels[0])
        lost = min(lost, UNDONE_SHARE * moved) if moved > SURE * doubt else lost
        is_apart = is_apart or _is_mostly_below(rewards)
    if rewards.min() >= 0:
        lost = max(lost, LEAST_LOST * max(levels))
    return is_apart and fall > lost


def _is_mostly_below(rewards: Array) -> bool:
    """Whether the last fifth of the rewards lies below the best fifth in most pairs, not by chance (Mann-Whitney).

    >>> noise = np.random.default_rng(0).standard_normal(100)
    >>> _is_mostly_below(np.linspace(4.0, 0.0, 100) + noise), _is_mostly_below(noise)
    (True, False)
    """
    fifths = np.array_split(rewards, PARTS // 2)
    best, last = np.sort(max(fifths, key=np.median)), fifths[-1]
    share = 1 - float(np.searchsorted(best, last).mean()) / len(best)
    deviation = math.sqrt((len(best) + len(last) + 1) / (12 * len(best) * len(last)))
    return share > MOSTLY_BELOW and share - 0.5 > SURE_RANKS * deviation


def _fell_late(rewards: Array) -> bool:
    """Whether the reward is lost in its last rows, which are too few to make a level.

    All of them lie below all before, or nearly all below its best and where it began.

    >>> late = np.r_[np.linspace(0.0, 1.0, 95), np.zeros(5)] + 0.01 * np.tile([1.0, -1.0], 50)
    >>> _fell_late(late), _fell_late(late[:-5]), _fell_late(np.r_[late, late[90:95]])
    (True, False, False)
    """
    if len(rewards) < MIN_REWARDS:
        return False
    few = max(MIN_LATE, len(rewards) // LAST_PART)
    before, last, lowest = rewards[:-few], rewards[-few:], rewards[-max(MIN_LATE, len(rewards) // FEWEST_PART) :]
    levels = medians(np.array_split(before, PARTS))
    # Most differences of seldom rewards are 0; the mean of all has the others in it.
    noise = max(noise_of(before), float(np.abs(np.diff(before)).mean()) * math.sqrt(math.pi) / 2)
    highest, left = max(levels), float(np.median(last))
    is_below_all = lowest.max() < rewards[: -len(lowest)].min()
    if is_below_all and levels[-1] - float(np.median(lowest)) > BELOW_ALL_NOISE * noise:
        return True
    gain, fall = highest - levels[0], highest - left
    if rewards.min() >= 0 and fall < LEAST_LOST * highest:
        return False
    is_apart = float(np.quantile(last, HIGH)) < (highest + left) / 2
    return is_apart and gain > LATE_NOISE * noise and fall > max(UNDONE_SHARE * gain, LATE_NOISE * noise)


def _fell_early(rewards: Array) -> bool:
    """Whether the reward fell within its first tenth, which then has no level, to a fifth of the first ones or less.

    >>> _fell_early(np.r_[np.full(6, 9.0), np.full(94, 0.1)]), _fell_early(np.r_[np.full(6, 9.0), np.full(94, 5.0)])
    (True, False)
    """
    if len(rewards) < MIN_REWARDS:
        return False
    first, last = _first(rewards), rewards[-_last(rewards) :]
    level, left = float(np.median(first)), float(np.median(last))
    is_apart = float(np.quantile(last, HIGH)) < float(np.quantile(first, LOW))
    return is_apart and level > 0 and left < EARLY_LEFT * level and is_above(first, last)


def _first(rewards: Array) -> Array:
    return rewards[: max(MIN_EARLY, len(rewards) // EARLY_PARTS)]


def reward_rose(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether the last rewards are better than those up to a step, beyond doubt; False without a reward."""
    rewards, steps = optimizer.history.rewards, optimizer.steps
    if len(rewards) < MIN_REWARDS:
        return False
    few = len(rewards) // RISEN_PARTS
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


def stays_near_zero(rewards: Array) -> bool:
    """Whether nearly all rewards lie just above 0, where nothing is earned, and become no more.

    >>> near = np.tile([0.0, 0.03, 0.06, 0.02], 10)
    >>> stays_near_zero(near), stays_near_zero(np.sort(near)), stays_near_zero(np.full(40, 0.03))
    (True, False, False)
    """
    if len(rewards) < MIN_REWARDS or rewards.min() < 0 or rewards.max() < LEAST_REWARD or np.ptp(rewards) == 0:
        return False
    first, second = np.array_split(rewards, 2)
    if float(np.quantile(rewards, NEARLY_ALL)) > NEAR_ZERO:
        return False
    doubt = CHANCE * math.hypot(first.std(), second.std()) / math.sqrt(len(second))
    return float(second.mean() - first.mean()) < doubt


def return_stands(rewards: Array, losses: Array) -> bool:
    """Whether a value learner gets nothing in any row, or a return below 0 that is no better at any time than at first.

    Its loss is the error of its values, above 0 in every row; that of a policy is a surrogate, and lies about 0. A
    return above 0 that stands may be the best there is.

    >>> errors, noise = np.full(200, 0.5), 0.1 * np.tile([1.0, -1.0], 100)
    >>> return_stands(np.zeros(200), errors), return_stands(noise - 15, errors), return_stands(noise + 15, errors)
    (True, True, False)
    >>> return_stands(np.linspace(-15, -5, 200) + noise, errors)
    False
    """
    if len(rewards) < MIN_REWARDS or not len(losses) or losses.min() <= 0:
        return False
    if len(rewards) < MIN_STANDING or not rewards.any():
        return not rewards.any()
    tenths, (first, second) = np.array_split(rewards, PARTS), np.array_split(rewards, 2)
    best = max(tenths, key=np.median)
    return float(np.median(best)) < 0 and not is_above(best, tenths[0]) and not is_above(second, first)


def _parts(rewards: Array) -> list[Array]:
    return np.array_split(rewards, PARTS if len(rewards) >= MIN_REWARDS else FEW_PARTS)


def _last(rewards: Array) -> int:
    """How many rewards make the last level."""
    return max(MIN_FEW_REWARDS // FEW_PARTS, len(rewards) // (PARTS // 2))


def _norms_rose(optimizer: OptimizerFacts) -> bool:
    """Whether the last norms are far above those up to the best level of the reward."""
    parts = _parts(optimizer.history.rewards)
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm) & (optimizer.total_norm > 0)]
    if len(norms) < len(parts):
        return False
    by_part = medians(np.array_split(norms, len(parts)))
    return by_part[-1] > RAISED_RATIO * float(np.median(by_part[: int(np.argmax(medians(parts))) + 1]))


def reward_lost(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a policy whose reward fell far below its best level and did not come back."""
    rewards = optimizer.history.rewards
    fell = reward_fell(rewards) or (reward_fell(rewards, WITNESSED_SHARE) and _norms_rose(optimizer))
    is_late = not fell and _fell_late(rewards)
    if not (fell or is_late or _fell_early(rewards)):
        return None
    fell |= is_late
    levels = medians(_parts(rewards))
    parts = len(levels) if fell else EARLY_PARTS
    best = int(np.argmax(levels)) if fell else 0
    highest = levels[best] if fell else float(np.median(_first(rewards)))
    few = max(MIN_LATE, len(rewards) // LAST_PART) if is_late else _last(rewards)
    last = float(np.median(rewards[-few:]))
    begin = int(np.array_split(optimizer.steps, parts)[best][-1])
    return Finding(
        code="reward-lost",
        severity="warning",
        certainty="shown",
        what=f"the reward{facts.of(optimizer)} ends near {number(last)}, far below its best level of"
        f" {number(highest)}: the policy lost what it could",
        optimizer=optimizer.name,
        steps=(begin, int(optimizer.steps[-1])),
        evidence={
            "reward_first": Quantity(levels[0] if fell else highest, f"reward, median of the first of {parts} parts"),
            "reward_best": Quantity(highest, "reward, median of such a part"),
            "reward_last": Quantity(last, f"reward, median of the last {few}"),
        },
        cause="updates that take the policy too far from the one that sampled: the learning rate, too many updates on"
        " the same samples, a penalty on the distance (KL) that is too small, or a reward that collapsed answers get",
        remedy="go back to a checkpoint of the best level; lower the learning rate or raise the KL coefficient, and"
        " look at samples from before and after the fall",
        confirm="print samples, the entropy and the KL distance around the step at which the reward falls",
    )


RULES = (reward_lost,)
