"""The finding about the reward of a policy: its loss is a surrogate that shows no progress, its reward does."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.statistics.loss_levels import medians, uncertainty
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.text import number

MIN_REWARDS = 20  # rewards without which their course is not judged
PARTS = 10  # of the rewards, each with its median
MIN_FEW_REWARDS, FEW_PARTS = 8, 4  # the same of few rewards, of which the last have to lie below all before
LOST_SHARE = 0.33  # of the size of the best level: a smaller fall is not told
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
    best, last = parts[int(np.argmax(levels))], rewards[-_last(rewards) :]
    if len(rewards) < MIN_REWARDS and last.max() >= rewards[: -len(last)].min():
        return False
    fall = max(levels) - float(np.median(last))
    doubt = uncertainty(best) + uncertainty(last)
    low, high = (LOW, HIGH) if fall < SURE * doubt else (LOW_OF_FAR, HIGH_OF_FAR)
    is_apart = float(np.quantile(last, high)) < float(np.quantile(best, low))
    return is_apart and fall > max(share * abs(max(levels)), doubt)


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
    if not reward_fell(rewards) and not (reward_fell(rewards, WITNESSED_SHARE) and _norms_rose(optimizer)):
        return None
    parts = _parts(rewards)
    levels = medians(parts)
    last = float(np.median(rewards[-_last(rewards) :]))
    best = int(np.argmax(levels))
    begin = int(np.array_split(optimizer.steps, len(parts))[best][-1])
    return Finding(
        code="reward-lost",
        severity="warning",
        certainty="shown",
        what=f"the reward{facts.of(optimizer)} ends near {number(last)}, far below its best level of"
        f" {number(levels[best])}: the policy lost what it could",
        optimizer=optimizer.name,
        steps=(begin, int(optimizer.steps[-1])),
        evidence={
            "reward_first": Quantity(levels[0], f"reward, median of the first of {len(parts)} parts"),
            "reward_best": Quantity(levels[best], "reward, median of such a part"),
            "reward_last": Quantity(last, "reward, median of the last fifth"),
        },
        cause="updates that take the policy too far from the one that sampled: the learning rate, too many updates on"
        " the same samples, a penalty on the distance (KL) that is too small, or a reward that collapsed answers get",
        remedy="go back to a checkpoint of the best level; lower the learning rate or raise the KL coefficient, and"
        " look at samples from before and after the fall",
        confirm="print samples, the entropy and the KL distance around the step at which the reward falls",
    )


RULES = (reward_lost,)
