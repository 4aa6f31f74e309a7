"""Spikes, peaks of the learning rate and leaps that undo progress of the loss again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import WHICH_THRESHOLD, Finding, Quantity
from gradwatch.analysis.diagnosis.growth import is_diverging, listed_steps
from gradwatch.analysis.diagnosis.schedule import (
    WARM_UP,
    evidence_of_rate,
    no_warm_up,
    peaks_of_rate,
    rate_without_warm_up,
)
from gradwatch.analysis.diagnosis.setbacks import EARLY_PARTS, MIN_FEW_LOSSES, MIN_IN_A_ROW, MIN_LOSSES, UNDONE_SHARE
from gradwatch.analysis.statistics.loss_levels import first_loss
from gradwatch.analysis.statistics.quantiles import Array, chosen_of
from gradwatch.analysis.statistics.recovery import robust_deviation
from gradwatch.analysis.statistics.tail import detrended_sample
from gradwatch.text import number
from gradwatch.text import share as percentage

LOSSES_BEFORE = 16  # losses before a spike that tell its level
SMOOTHED = 5  # losses: a median of so many tells whether the loss is back
NOISE = 2.0  # robust deviations of single losses: three standard errors of the difference of two such medians
RISE_SHARE = 0.1  # of the progress of the loss (without any, of its level): a smaller rise costs little
COSTLY_STEPS = 5  # losses above the level: fewer may be chance
REPEATED = 3  # spikes that threw the loss back
OUTLIER_DEVIATIONS = 3.0  # robust deviations of the logarithm of a norm over that of its neighbours
DRAWS, CHANCE = 20, 0.9  # sets of steps drawn by chance, and the quantile of what they seem to cost
THROWN_FAR, FAR_SHARE = 10.0, 0.1  # times the first losses; of the losses
LEAP_ROWS = 5  # losses on either side of a leap
LEARNT_HALF = 0.5  # of the first loss: what is thrown back had learnt as much
LOST_SHARE = 0.05  # of the steps: so many above the level that the training is held up
AT_ONCE = 1000  # losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """What spikes close to one another cost: the level of the loss before them, its level after, and for how long."""

    first: int  # step of the first spike
    spikes: int  # those in consecutive rows count once: after a spike the norms take some steps to come back
    before: float
    after: float  # the median of the losses while they were above the level
    steps: int  # losses above the level


def setbacks(optimizer: OptimizerFacts, spikes: Sequence[int]) -> list[Setback]:
    """Of the spikes at these steps, those after which the loss stayed above its level for some steps, in order."""
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    if len(losses) < LOSSES_BEFORE + SMOOTHED or not len(spikes):
        return []
    progress = max(0.0, first_loss(losses) - min(optimizer.history.loss_levels))
    at = np.minimum(np.searchsorted(steps, spikes), len(losses) - 1)
    groups = np.split(at, np.flatnonzero(np.diff(at) >= LOSSES_BEFORE) + 1)
    ends = [*(int(group[0]) for group in groups[1:]), len(losses)]
    is_quiet = np.ones(len(losses), bool)
    is_quiet[at] = False
    quiet = np.flatnonzero(is_quiet)
    found = []
    for group, end in zip(groups, ends, strict=True):
        first, last = int(group[0]), int(group[-1])
        before = losses[quiet[: np.searchsorted(quiet, first)][-LOSSES_BEFORE:]]
        if len(before) < LOSSES_BEFORE // 2:
            continue
        level = float(np.median(before))
        least = RISE_SHARE * (progress or abs(level))
        limit = level + max(NOISE * robust_deviation(before), least)
        above = np.array(_above(losses, first, last, end, limit))
        if len(above) >= COSTLY_STEPS:
            after, step = float(np.median(losses[above])), int(steps[first])
            apart = 1 + int((np.diff(group) > 1).sum())
            found.append(Setback(first=step, spikes=apart, before=level, after=after, steps=len(above)))
    return found


def _above(losses: Array, first: int, last: int, end: int, limit: float) -> list[int]:
    """The places from ``first`` to ``end`` where the loss is above a limit, until it is below one after ``last``.

    One bad batch does not raise it: each loss counts as the median of itself and those after it. Of a long run most
    losses are not looked at: the loss comes back soon.
    """
    above: list[int] = []
    for begin in range(first, end, AT_ONCE):
        stop = min(begin + AT_ONCE, end)
        block = losses[begin : stop + SMOOTHED - 1]
        padded = np.append(block, np.full(stop - begin + SMOOTHED - 1 - len(block), np.nan))
        is_high = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1) > limit
        may_be_back = max(0, last + 1 - begin)
        back = np.flatnonzero(~is_high[may_be_back:])
        if len(back):
            return above + (begin + np.flatnonzero(is_high[: may_be_back + int(back[0])])).tolist()
        above += (begin + np.flatnonzero(is_high)).tolist()
    return above


def repeated_spikes(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Spikes that come back again and again, each of which undoes progress that the loss had made."""
    if is_diverging(optimizer) or optimizer.history.has_surrogate_loss:
        return None
    rules = (_thrown_back_by_spikes, _thrown_back_by_the_rate, _thrown_far_above_its_start, _leaps_back)
    return next((told for rule in rules if (told := rule(facts, optimizer)) is not None), None)


def _thrown_back_by_spikes(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Spikes of the norm, at least three of which cost progress, and more than steps drawn by chance."""
    steps = _outliers(optimizer)
    found = setbacks(optimizer, steps)
    if sum(setback.spikes for setback in found) < REPEATED or not _is_more_than_chance(optimizer, steps, found):
        return None
    share = sum(setback.steps for setback in found) / len(optimizer.history.losses)
    worst = max(found, key=lambda setback: setback.after - setback.before)
    times = f" {len(found)} times" if len(found) > 1 else ""
    rate = rate_without_warm_up(optimizer, found[0].first)
    batches = (
        "batches that are far off (another unit, wrong labels, unusual lengths) with updates that are not bounded"
        " enough, or a learning rate at the edge of what this training stands"
    )
    return Finding(
        code="repeated-spikes",
        severity="warning" if share >= LOST_SHARE else "info",
        certainty="shown",
        what=f"{len(steps)} spikes{facts.of(optimizer)} threw the training back{times}: for {percentage(share)} of"
        f" the steps the loss stood above its level before them (from step {worst.first} on near"
        f" {number(worst.after)} instead of {number(worst.before)})",
        optimizer=optimizer.name,
        parameters=tuple(dict.fromkeys(e.parameter for e in optimizer.events if e.step in steps and e.parameter)),
        steps=(found[0].first, steps[-1]),
        evidence={
            "spikes": Quantity(len(steps), "steps"),
            "setbacks": Quantity(len(found), "times"),
            "steps_above_level": Quantity(share, "share of the steps with a loss"),
            "loss_before": Quantity(worst.before, "loss, before the worst setback"),
            "loss_after": Quantity(worst.after, "loss, in the worst setback"),
            "steps": Quantity(listed_steps(steps), "steps"),
        }
        | evidence_of_rate(rate),
        cause=batches if rate is None else f"{no_warm_up(optimizer, rate)}; or {batches}",
        remedy=("" if rate is None else f"{WARM_UP}; then ") + _remedy(optimizer, steps),
        confirm="train again from the same seed with the threshold that `gradwatch recommend` gives: the loss should"
        " keep its level after these steps",
    )


def _thrown_back_by_the_rate(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Peaks of a cyclic learning rate, at least three of which undo half of the progress that the loss had made.

    A restart of the rate lifts the loss by some of it, which is meant.
    """
    losses, peaks = optimizer.history.losses, peaks_of_rate(optimizer)
    if len(peaks) < REPEATED or not len(losses):
        return None
    least = UNDONE_SHARE * (first_loss(losses) - min(optimizer.history.loss_levels))
    found = [one for one in setbacks(optimizer, peaks) if _height(optimizer, one) - one.before > least > 0]
    share = sum(setback.steps for setback in found) / len(losses)
    if len(found) < REPEATED or share < LOST_SHARE:
        return None
    worst = max(found, key=lambda setback: _height(optimizer, setback) - setback.before)
    highest = float(optimizer.frame["learning_rate"].max())
    return Finding(
        code="repeated-spikes",
        severity="warning",
        certainty="shown",
        what=f"{len(found)} of {len(peaks)} peaks of the learning rate{facts.of(optimizer)} threw the training back:"
        f" for {percentage(share)} of the steps the loss stood above its level before them (from step {worst.first} on"
        f" near {number(_height(optimizer, worst))} instead of {number(worst.before)})",
        optimizer=optimizer.name,
        steps=(found[0].first, found[-1].first),
        evidence={
            "spikes": Quantity(len(peaks), "peaks of the learning rate"),
            "setbacks": Quantity(len(found), "times"),
            "steps_above_level": Quantity(share, "share of the steps with a loss"),
            "loss_before": Quantity(worst.before, "loss, before the worst setback"),
            "loss_after": Quantity(_height(optimizer, worst), "loss, at the height of the worst setback"),
            "steps": Quantity(listed_steps([setback.first for setback in found]), "steps"),
            "learning_rate": Quantity(highest, "weight per update, the highest"),
        },
        cause=f"the learning rate: its peaks of {number(highest, 6)} are too high for this training",
        remedy="lower the peaks of the schedule, or let each be lower than the last one",
        confirm="train again from the same seed with a third of the highest rate: the loss should keep its level",
    )


def _thrown_far_above_its_start(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """A tenth of the losses are ten times the first ones, and the loss is back between them, three times or more.

    So many are no bad batches. Not told of several optimizers, nor beside a reward: a loss rises there as others learn.
    """
    history = optimizer.history
    losses, steps = history.losses, history.loss_steps
    if len(losses) < MIN_FEW_LOSSES or losses.min() <= 0 or facts.several or len(history.rewards):
        return None
    start = float(losses[: max(MIN_IN_A_ROW, len(losses) // EARLY_PARTS)].max())
    high = np.flatnonzero(losses > THROWN_FAR * max(start, float(np.median(losses))))
    times = 1 + int((np.diff(high) > 1).sum())
    if times < REPEATED or len(high) < FAR_SHARE * len(losses):
        return None
    worst = float(losses.max())
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    return Finding(
        code="repeated-spikes",
        severity="warning",
        certainty="shown",
        what=f"the loss{facts.of(optimizer)} was thrown far above its start {times} times: up to {number(worst)}, where"
        f" the first ones were at most {number(start)}",
        optimizer=optimizer.name,
        steps=(int(steps[high[0]]), int(steps[high[-1]])),
        evidence={
            "setbacks": Quantity(times, "times"),
            "steps_above_level": Quantity(len(high) / len(losses), "share of the steps with a loss"),
            "loss_first": Quantity(start, "loss, the highest of the first ones"),
            "loss_highest": Quantity(worst, "loss"),
            "largest_norm": Quantity(float(norms.max()) if len(norms) else None, "norm"),
        },
        cause="updates that are too large for what the model computes: a learning rate at the edge of what this"
        " training stands, or a recurrence or a product that amplifies small changes of the weights without bound",
        remedy=_remedy(optimizer, steps[high].tolist())
        + "; bound what is amplified (poles within the unit circle, a normalisation)",
        confirm="train again from the same seed with a third of the learning rate: the loss should stay below its"
        " start",
    )


def _leaps_back(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """A loss that loses half of its progress from one row to the next, three times or more, without a spike.

    Each of the few losses after lies above each of those before. It is information: so begins each task of several.
    """
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    if len(losses) < MIN_LOSSES or facts.several:
        return None
    first, best = first_loss(losses), min(optimizer.history.loss_levels)
    if not 0 < best < LEARNT_HALF * first:
        return None
    rows = np.lib.stride_tricks.sliding_window_view(losses, LEAP_ROWS)
    before, after = rows[:-LEAP_ROWS].max(axis=1), rows[LEAP_ROWS:].min(axis=1)
    at = LEAP_ROWS + np.flatnonzero(after > before + UNDONE_SHARE * (first - best))
    if len(at) < REPEATED:
        return None
    when = [int(steps[place]) for place in at]
    return Finding(
        code="repeated-spikes",
        severity="info",
        certainty="shown",
        what=f"the loss{facts.of(optimizer)} leapt back {len(at)} times from one step to the next, each time by half of"
        f" its progress or more (first at step {when[0]}, to {number(float(np.median(rows[at[0]])))})",
        optimizer=optimizer.name,
        steps=(when[0], when[-1]),
        evidence={
            "setbacks": Quantity(len(at), "times"),
            "loss_first": Quantity(first, "loss"),
            "loss_best": Quantity(best, "loss, median of a tenth"),
            "steps": Quantity(listed_steps(when), "steps"),
        },
        cause="something other than the updates: code that writes into the weights (pruning, a checkpoint that is"
        " restored, a copy), or data that change at these steps (the next task of several, another order)",
        remedy="look at what the script does at these steps; with tasks one after another it can be meant",
        confirm="compare the weights just before and just after one of these steps, and evaluate both on one batch",
    )


def _height(optimizer: OptimizerFacts, setback: Setback) -> float:
    """The median of the highest losses of a setback."""
    at = int(np.searchsorted(optimizer.history.loss_steps, setback.first))
    return float(np.median(np.sort(optimizer.history.losses[at : at + setback.steps])[-SMOOTHED:]))


def _outliers(optimizer: OptimizerFacts) -> list[int]:
    """The lone spikes that norms with a heavy tail do not have all the time, by their steps."""
    norms = chosen_of(optimizer.total_norm, np.isfinite(optimizer.total_norm) & (optimizer.total_norm > 0))
    spikes = optimizer.lone_spikes
    least = OUTLIER_DEVIATIONS * robust_deviation(detrended_sample(norms)) if spikes else 0.0
    return [step for step, ratio in spikes if math.log(ratio) > least]


def _is_more_than_chance(optimizer: OptimizerFacts, spikes: Sequence[int], found: Sequence[Setback]) -> bool:
    """Whether the loss stands above its level after these spikes more often than after as many steps drawn by chance.

    Where losses scatter, some spikes stand before high losses by chance.
    """
    every, rng = optimizer.history.loss_steps, np.random.default_rng(0)
    cost = sum(setback.steps for setback in found)
    drawn = [np.sort(rng.choice(every, min(len(spikes), len(every)), replace=False)) for _ in range(DRAWS)]
    by_chance = [sum(setback.steps for setback in setbacks(optimizer, steps.tolist())) for steps in drawn]
    return cost > float(np.quantile(by_chance, CHANCE))


def _remedy(optimizer: OptimizerFacts, steps: Sequence[int]) -> str:
    frame = optimizer.frame.loc[list(steps)]
    coefs = frame["clip_coef"].to_numpy(float)[frame[["max_norm", "clip_value"]].notna().any(axis=1)]
    coefs = coefs[np.isfinite(coefs)]
    look = "look at the batches of these steps, and "
    if not len(coefs):
        return look + (f"clip{WHICH_THRESHOLD} or " if optimizer.has_norms else "") + "lower the learning rate"
    if float(np.median(coefs)) < 1:
        return look + "lower the learning rate or the threshold: these steps were clipped, and it was not enough"
    return look + "lower the threshold, which let these steps through (`gradwatch recommend`)"


RULES = (repeated_spikes,)
