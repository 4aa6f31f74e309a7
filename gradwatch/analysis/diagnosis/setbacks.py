"""Setbacks of the loss: spikes that undo progress, an end well above the best, no progress, a level out of range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradwatch.analysis.diagnosis.ends import HUGE_LOSS, HUGE_NORM, is_apart, last_losses
from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import WHICH_THRESHOLD, Certainty, Finding, Quantity
from gradwatch.analysis.diagnosis.growth import is_diverging, listed_steps
from gradwatch.analysis.diagnosis.optimizer import shrunken_weights
from gradwatch.analysis.diagnosis.rewards import reward_rose
from gradwatch.analysis.diagnosis.schedule import (
    WARM_UP,
    evidence_of_rate,
    no_warm_up,
    peaks_of_rate,
    rate_without_warm_up,
)
from gradwatch.analysis.statistics.loss_levels import first_loss, medians, start_of, uncertainty
from gradwatch.analysis.statistics.quantiles import Array, chosen_of
from gradwatch.analysis.statistics.recovery import noise_of, robust_deviation
from gradwatch.analysis.statistics.tail import detrended_sample
from gradwatch.analysis.statistics.validation import turn
from gradwatch.record import Severity
from gradwatch.text import number

LOSSES_BEFORE = 16  # losses before a spike that tell its level
SMOOTHED = 5  # losses: a median of so many tells whether the loss is back
NOISE = 2.0  # robust deviations of single losses: three standard errors of the difference of two such medians
RISE_SHARE = 0.1  # of the progress of the loss (without any, of its level): a smaller rise costs little
COSTLY_STEPS = 5  # losses above the level: fewer may be chance
REPEATED = 3  # spikes that threw the loss back
OUTLIER_DEVIATIONS = 3.0  # robust deviations of the logarithm of a norm over that of its neighbours
DRAWS, CHANCE = 20, 0.9  # sets of steps drawn by chance, and the quantile of what they seem to cost
LOST_SHARE = 0.05  # of the steps: so many above the level that the training is held up
MIN_LOSSES = 100  # losses without which the end is not compared with the best by their medians alone
MIN_FEW_LOSSES = 30  # the same: of so few the last ones have to lie above the best ones, by a quarter
FEW_RATIO = 1.25  # times the best level
REGRESSED_SHARE = 0.15  # of the progress of the loss: a smaller rise is not told
UNDONE_SHARE = 0.5  # of the progress: more is a warning
LEAPT_RATIO = 2.0  # times the start: the first updates threw such a loss off
FELL_SHARE = 0.02  # of the first loss: a fall by less is none
SEEN_SHARE = 0.05  # of the first loss: where one by that much could not be told from noise, nothing is said
STANDS_SHARE, STANDS_NOISE = 0.01, 0.004  # of the loss: how far the levels differ, and rows scatter, of one that stands
EARLY_PARTS = 20  # parts of the losses, in the first of which the first updates may lower it
UNLEARNT_SHARE = 0.3  # of the first loss: one that fell to less has learnt something
MIN_HUGE_LOSSES = 10
AT_ONCE = 1000  # losses
FALLEN = 0.7  # of the first third: a loss that falls as far is on its way


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """What spikes close to one another cost: the level of the loss before them, its level after, and for how long."""

    first: int  # step of the first spike
    spikes: int
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
            found.append(Setback(first=step, spikes=len(group), before=level, after=after, steps=len(above)))
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
        is_above = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED), axis=1) > limit
        may_be_back = max(0, last + 1 - begin)
        back = np.flatnonzero(~is_above[may_be_back:])
        if len(back):
            return above + (begin + np.flatnonzero(is_above[: may_be_back + int(back[0])])).tolist()
        above += (begin + np.flatnonzero(is_above)).tolist()
    return above


def repeated_spikes(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Spikes that come back again and again, each of which undoes progress that the loss had made."""
    if is_diverging(optimizer):
        return None
    steps, losses = _outliers(optimizer), optimizer.history.losses
    found = setbacks(optimizer, steps)
    if optimizer.history.has_surrogate_loss:
        return None
    if sum(setback.spikes for setback in found) < REPEATED or not _is_more_than_chance(optimizer, steps, found):
        return _thrown_back_by_the_rate(facts, optimizer)
    share = sum(setback.steps for setback in found) / len(losses)
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
        what=f"{len(steps)} spikes{facts.of(optimizer)} threw the training back{times}: for {share:.0%} of"
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
        f" for {share:.0%} of the steps the loss stood above its level before them (from step {worst.first} on near"
        f" {number(_height(optimizer, worst))} instead of {number(worst.before)})",
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
        cause=f"the learning rate: its peaks of {highest:g} are too high for this training",
        remedy="lower the peaks of the schedule, or let each be lower than the last one",
        confirm="train again from the same seed with a third of the highest rate: the loss should keep its level",
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
        return look + f"clip{WHICH_THRESHOLD} or lower the learning rate"
    if float(np.median(coefs)) < 1:
        return look + "lower the learning rate or the threshold: these steps were clipped, and it was not enough"
    return look + "lower the threshold, which let these steps through (`gradwatch recommend`)"


def loss_regressed(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The loss ends well above its best level, beyond its noise, and nothing graver explains it."""
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    if len(losses) < MIN_FEW_LOSSES or optimizer.history.has_surrogate_loss or is_diverging(optimizer):
        return None
    if len(losses) < MIN_LOSSES and not _few_end_above(losses, optimizer.history.loss_levels):
        return None
    tenths, when = np.array_split(losses, 10), np.array_split(steps, 10)
    levels = optimizer.history.loss_levels
    best = int(np.argmin(levels))
    rise, progress = levels[-1] - levels[best], first_loss(losses) - levels[best]
    doubt = uncertainty(tenths[-1]) + uncertainty(tenths[best])
    if progress <= doubt or rise <= max(REGRESSED_SHARE * progress, doubt):
        return None
    start = start_of(losses)
    is_worse = _leapt_at_first(losses) and levels[-1] > FEW_RATIO * start + doubt
    share, shrunken = rise / progress, shrunken_weights(optimizer)
    left = None if shrunken is None else shrunken[1] / shrunken[0]
    cause, remedy = _why_it_regressed(left)
    # Of players that train against one another, the loss of one rises as the other learns.
    severity: Severity = "warning" if (share >= UNDONE_SHARE or is_worse) and not facts.several else "info"
    undone = f"above the {number(start)} that it began at" if is_worse else f"{share:.0%} of its progress is undone"
    return Finding(
        code="loss-regressed",
        severity=severity,
        certainty="shown",
        what=f"the loss{facts.of(optimizer)} ends at {number(levels[-1])}, above its best level of"
        f" {number(levels[best])} at steps {when[best][0]} to {when[best][-1]}: {undone}",
        optimizer=optimizer.name,
        steps=(int(when[best][-1]), int(steps[-1])),
        evidence={
            "loss_first": Quantity(start if is_worse else first_loss(losses), "loss"),
            "loss_best": Quantity(levels[best], "loss, median of a tenth"),
            "loss_last": Quantity(levels[-1], "loss, median of the last tenth"),
            "undone": Quantity(share, "share of the progress"),
        }
        | ({} if left is None else {"weight_norm_last": Quantity(left, "of its largest")}),
        cause=cause,
        remedy=f"keep the checkpoint of the best level; {remedy}",
        confirm="evaluate the checkpoints of the best level and of the end on the same held-out data",
    )


def _why_it_regressed(weights_left: float | None) -> tuple[str, str]:
    """The cause and what to do; ``weights_left``: of the largest norm of weights that decay has shrunk."""
    if weights_left is None:
        return (
            "the learning rate is too high for the end of the training, the data changed (a harder part, another"
            " order), or what had been learnt was lost at a step",
            "lower the learning rate towards the end, or look at the data from where the loss turns. With a curriculum"
            " or an adversary it can be meant",
        )
    return (
        f"the weight decay: the weights have shrunk to {weights_left:.1%} of their largest norm, and with them what"
        " had been learnt",
        "print the weight_decay of each of optimizer.param_groups around the step where the loss turns, and lower it:"
        " a schedule or a group may have raised it",
    )


def _leapt_at_first(losses: Array) -> bool:
    """Whether the first updates lifted the loss to twice its start: a fall from there is no progress.

    >>> _leapt_at_first(np.array([12.0, 12, 44, 48, 47, 40, 30])), _leapt_at_first(np.array([12.0, 12, 14, 13, 12, 11]))
    (True, False)
    """
    return first_loss(losses) > LEAPT_RATIO * start_of(losses) > 0


def _few_end_above(losses: Array, levels: list[float]) -> bool:
    """Whether the last of few losses are above the best ones, their level by a quarter and nearly all of them."""
    return float(np.median(last_losses(losses))) > FEW_RATIO * min(levels) > 0 and is_apart(losses, levels)


def huge_loss(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The loss stands at a level that is out of every usual range, and does not fall."""
    losses = optimizer.history.losses
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    if len(losses) < MIN_HUGE_LOSSES or not len(norms) or losses.min() < HUGE_LOSS or np.median(norms) < HUGE_NORM:
        return None
    first, *_, last = medians(np.array_split(losses, 3))
    if last < FALLEN * first or is_diverging(optimizer) or reward_rose(optimizer, int(optimizer.steps[0])):
        return None
    return Finding(
        code="huge-loss",
        severity="warning",
        certainty="possible",
        what=f"the loss{facts.of(optimizer)} stands near {number(float(np.median(losses)))} and does not fall, with"
        f" norms near {number(float(np.median(norms)))}",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "loss_median": Quantity(float(np.median(losses)), "loss"),
            "total_norm_median": Quantity(float(np.median(norms)), "norm"),
        },
        cause="the training was lost before this record begins, or targets and inputs are not normalised",
        remedy="go back to a checkpoint from before the loss grew and lower the learning rate; if the loss was that"
        " large from the first step on, normalise targets and inputs",
        confirm="print the loss of the untrained model, and the range of the targets",
    )


def no_progress(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """No tenth of the losses is lower than the first losses.

    Told of the only optimizer of a run: the losses of adversaries stand still. Not told of a loss about 0, which shows
    no progress, nor of one that is the same number at every step.
    """
    losses = optimizer.history.losses
    if len(facts.optimizers) > 1 or optimizer.history.has_surrogate_loss:
        return None
    if facts.is_imported and _stands(optimizer):
        return _no_progress(optimizer, "warning", "possible")
    if len(losses) < MIN_LOSSES:
        return None
    tenths = np.array_split(losses, 10)
    levels = optimizer.history.loss_levels
    start = levels[0]
    if start == 0 or losses[0] == losses.max():
        return None  # a loss that is solved, or that the first updates may have lowered
    doubt = uncertainty(tenths[0]) + uncertainty(tenths[-1])
    highest = max(start, first_loss(losses))
    if highest - min(levels) > FELL_SHARE * abs(start) or doubt > SEEN_SHARE * abs(start):
        return None
    if max(levels) - min(levels) > SEEN_SHARE * abs(start):
        return None  # it rose: that is told otherwise
    return _no_progress(optimizer, "info", "likely")


def _stands(optimizer: OptimizerFacts) -> bool:
    """Whether a loss stands still from the first rows on and hardly scatters, as if it did not depend on the inputs.

    The loss of a model that reads its inputs differs from batch to batch. A record that begins late may have seen a
    training at its end.
    """
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    if len(losses) < MIN_FEW_LOSSES or losses.min() <= 0 or losses.min() == losses.max():
        return False
    stood = losses[len(losses) // EARLY_PARTS + 1 :]
    level, levels = float(np.median(stood)), medians(np.array_split(stood, 10))
    begins = steps[0] - (steps[1] - steps[0]) <= (steps[-1] - steps[0]) / EARLY_PARTS
    is_still = max(levels) - min(levels) < STANDS_SHARE * level and noise_of(stood) < STANDS_NOISE * level
    return bool(begins and is_still and (1 - STANDS_SHARE) * level < losses[0] < level / UNLEARNT_SHARE)


def _no_progress(optimizer: OptimizerFacts, severity: Severity, certainty: Certainty) -> Finding:
    losses, levels = optimizer.history.losses, optimizer.history.loss_levels
    start = levels[0]
    return Finding(
        code="no-progress",
        severity=severity,
        certainty=certainty,
        what=f"the loss has not fallen: its median is {number(start)} over the first tenth of the losses and"
        f" {number(levels[-1])} over the last",
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


def overfitting(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The validation loss has risen for long from its best, while the loss of the training falls on.

    Of several optimizers it is told of the one whose steps the validations were counted by.
    """
    if optimizer is not facts.furthest or optimizer.history.has_surrogate_loss or is_diverging(optimizer):
        return None
    found = turn(facts.validation, optimizer.history)
    if found is None:
        return None
    return Finding(
        code="overfitting",
        severity="info",
        certainty="likely",
        what=f"the validation loss has risen since step {found.step}{facts.of(optimizer)}, from {number(found.best)} to"
        f" {number(found.last)}, while the loss of the training fell from {number(found.training_then)} to"
        f" {number(found.training_last)}",
        optimizer=optimizer.name,
        steps=(found.step, int(facts.validation.index[-1])),
        evidence={
            "validation_loss_best": Quantity(found.best, "loss, median of the best validation and those beside it"),
            "validation_loss_last": Quantity(found.last, "loss, median of the last validations"),
            "loss_then": Quantity(found.training_then, "loss of the training near the best validation"),
            "loss_last": Quantity(found.training_last, "loss of the training at the end"),
            "validations": Quantity(len(facts.validation), "validations"),
        },
        cause="overfitting: the model learns the examples of the training by heart, which helps on no others",
        remedy=f"early stopping: keep the checkpoint of step {found.step}. More data, augmentation, dropout or weight"
        " decay let a training learn for longer, and clipping does not",
        confirm="compare what counts, such as the accuracy, of this checkpoint and of the last one on the validation"
        " data: it may still rise where the loss does, if few answers are wrong with great confidence",
    )


RULES = (repeated_spikes, loss_regressed, overfitting, no_progress, huge_loss)
