"""Setbacks of the loss: spikes that undo progress, an end well above the best, no progress, a level out of range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradwatch.analysis.diagnosis.ends import (
    HUGE_LOSS,
    HUGE_NORM,
    is_apart,
    is_mostly_above,
    is_no_better_than_at_first,
    last_losses,
    raised_at_the_end,
    resumed_higher_at,
    values_grew,
)
from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Certainty, Finding, Quantity
from gradwatch.analysis.diagnosis.growth import is_diverging, listed_steps
from gradwatch.analysis.diagnosis.optimizer import shrunken_weights
from gradwatch.analysis.diagnosis.rewards import STUCK_SHARE, reward_rose, stands_low
from gradwatch.analysis.diagnosis.schedule import (
    WARM_UP,
    end_of_warm_up,
    evidence_of_rate,
    no_warm_up,
    peaks_of_rate,
    rate_without_warm_up,
    restarts_after,
)
from gradwatch.analysis.statistics.loss_levels import first_loss, medians, start_of, uncertainty
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array, chosen_of
from gradwatch.analysis.statistics.recovery import noise_of, robust_deviation
from gradwatch.analysis.statistics.tail import detrended_sample
from gradwatch.analysis.statistics.validation import turn
from gradwatch.record import Severity
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
MIN_LOSSES = 100  # losses without which the end is not compared with the best by their medians alone
MIN_FEW_LOSSES = 30  # the same: of so few the last ones have to lie above the best ones, by a sixth
FEW_RATIO = 1.17  # times the best level
MIN_FEWEST_LOSSES, MIN_IN_A_ROW, FEW_FAR_RATIO, NO_MORE = 10, 3, 1.5, 0.85  # times the best in a row; of the highest
SURE_FEW_NOISE = 8.0  # times the noise of few losses: so far above, a sixth is enough
FEW_NOISE = 4.0  # times the noise of few losses: by chance three in a row lie as far above three others
REGRESSED_SHARE = 0.15  # of the progress of the loss: a smaller rise is not told
UNDONE_SHARE = 0.5  # of the progress: more is a warning
SURE = 1.3  # times the doubt of two levels: a rise that is sure
SURE_OF_LEVELS, SURE_BESIDE = 4.0, 2.0  # times the wandering of levels; the same beside norms that rose far
CLEAR_RISE, CLEAR_SHARE = 0.04, 0.03  # of the best level, and of the fall in logarithms, beside norms that rose
WITNESS_RATIO, FAR_WITNESS_RATIO = 1.5, 3.0  # times the norms up to the best level
ALONE_SHARE = 0.25  # of the fall, in logarithms, without such norms
LEAPT_RATIO = 2.0  # times the start: the first updates threw such a loss off
FELL_SHARE = 0.02  # of the first loss: a fall by less is none
SEEN_SHARE = 0.05  # of the first loss: where one by that much could not be told from noise, nothing is said
FIRST_PARTS, STILL_PARTS = 5, 8  # parts of the losses, of which the first is left out, and of those that should stand
STANDS_NOISE, FALLS_SHARE = 0.01, 0.012  # of a loss that stands: how its rows scatter, and its second half may be lower
EARLY_PARTS = 20  # parts of the losses, in the first of which the first updates may lower it
UNLEARNT_SHARE = 0.3  # of the first loss: one that fell to less has learnt something
UNTRAINED, HIGH_STANDS = 4.0, 0.03  # a loss of language that stands above has learnt nothing; how far it may move
MOST_SCATTER = 4.0  # deviations of a level: how far ten of them lie apart by chance
MOST_BY_GUESS = 12.5  # the logarithm of the largest vocabularies: a loss above it has another unit
HOVERS = 6.3  # a loss of language above it knows how often each word occurs and no more
LATE_PARTS = 3  # last tenths in which a high loss stands, without norms that could move it
FADED = 1 / 15  # of the first norms: beside a loss that stands
CLASSES = (2, 3, 4, 5, 10, 100, 1000)  # that data sets usually have
AT_CHANCE, AROUND_CHANCE, MOST_DOUBT = 0.01, 0.07, 0.02  # of ln k: distance of what stands, of the start, by noise
BINARY, AROUND_BINARY, BEGINS_ABOVE = 0.7, 0.03, 0.35  # the same at the cost of two classes, where few others stand
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
        return look + f"clip{optimizer.which_threshold} or lower the learning rate"
    if float(np.median(coefs)) < 1:
        return look + "lower the learning rate or the threshold: these steps were clipped, and it was not enough"
    return look + "lower the threshold, which let these steps through (`gradwatch recommend`)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """The levels of a loss, and what lies between its best tenth and its last."""

    start: float  # before the first updates count
    first: float
    best: float
    last: float
    highest: float  # of the levels from the best one on
    doubt: float  # of the best and the last level
    best_steps: tuple[int, int]  # the first and the last

    @property
    def height(self) -> float:
        return self.last - self.best

    @property
    def progress(self) -> float:
        return self.first - self.best

    @property
    def undone(self) -> float:
        """The share of the progress."""
        return self.height / self.progress

    @property
    def ends_worse(self) -> bool:
        """Whether the loss ends clearly above its start, to which it may have come from a leap."""
        return self.first > LEAPT_RATIO * self.start > 0 and self.last > FEW_RATIO * self.start + self.doubt


def rise_of(history: OptimizerHistory) -> Rise:
    """The rise of a loss of ten values or more."""
    losses, levels = history.losses, history.loss_levels
    tenths, best = np.array_split(losses, len(levels)), int(np.argmin(levels))
    steps = np.array_split(history.loss_steps, len(levels))[best]
    return Rise(
        start=start_of(losses),
        first=first_loss(losses),
        best=levels[best],
        last=levels[-1],
        highest=max(levels[best:]),
        doubt=uncertainty(tenths[-1]) + uncertainty(tenths[best]),
        best_steps=(int(steps[0]), int(steps[-1])),
    )


def loss_regressed(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The loss ends well above its best level, beyond its noise, and nothing graver explains it."""
    found = _regression(optimizer)
    if found is None:
        return None
    rise, is_clear = found
    is_grave = rise.undone >= UNDONE_SHARE or rise.ends_worse or is_clear
    shrunken = shrunken_weights(optimizer)
    left = None if shrunken is None else shrunken[1] / shrunken[0]
    cause, remedy = _why_it_regressed(left, resumed_higher_at(optimizer))
    return Finding(
        code="loss-regressed",
        # Of players that train against one another, the loss of one rises as the other learns.
        severity="warning" if is_grave and not facts.several else "info",
        certainty="shown",
        what=f"the loss{facts.of(optimizer)} ends at {number(rise.last)}, above its best level of {number(rise.best)}"
        f" at steps {rise.best_steps[0]} to {rise.best_steps[1]}: {_how_far(rise)}",
        optimizer=optimizer.name,
        steps=(rise.best_steps[1], int(optimizer.history.loss_steps[-1])),
        evidence={
            "loss_first": Quantity(rise.start if rise.ends_worse else rise.first, "loss"),
            "loss_best": Quantity(rise.best, "loss, median of a tenth"),
            "loss_last": Quantity(rise.last, "loss, median of the last tenth"),
            "undone": Quantity(rise.undone, "share of the progress"),
        }
        | ({} if left is None else {"weight_norm_last": Quantity(left, "of its largest")}),
        cause=cause,
        remedy=f"keep the checkpoint of the best level; {remedy}",
        confirm="evaluate the checkpoints of the best level and of the end on the same held-out data",
    )


def _regression(optimizer: OptimizerFacts) -> tuple[Rise, bool] | None:
    """How the loss rose from its best level, and whether clearly; None: not far, or something graver explains it."""
    losses = optimizer.history.losses
    if len(losses) < MIN_FEWEST_LOSSES or optimizer.history.has_surrogate_loss or is_diverging(optimizer):
        return None
    few = len(losses) < MIN_LOSSES
    if few and not _few_end_above(losses, optimizer.history.loss_levels):
        return None
    rise = rise_of(optimizer.history)
    is_clear = _rises_clearly(optimizer, rise) or (few and _few_rise_far(losses))
    is_high = rise.height > max(REGRESSED_SHARE * rise.progress, rise.doubt)
    return (rise, is_clear) if rise.progress > rise.doubt and (is_high or is_clear) else None


def _how_far(rise: Rise) -> str:
    if rise.ends_worse:
        return f"above the {number(rise.start)} that it began at"
    times = rise.last / max(rise.best, 1e-300)
    if rise.undone < UNDONE_SHARE and times > LEAPT_RATIO:
        return f"{number(times)} times that level"
    return f"{percentage(rise.undone)} of its progress is undone"


def _why_it_regressed(weights_left: float | None, resumed: int | None) -> tuple[str, str]:
    """The cause and what to do.

    Args:
        weights_left: of the largest norm of weights that decay has shrunk.
        resumed: the step at which the training was resumed with a higher loss, before any update.
    """
    if resumed is not None:
        return (
            f"the loss rose where the training was resumed, at step {resumed}, before its first update: a checkpoint"
            " that was not loaded, or other data or another loss than before",
            f"evaluate the checkpoint that step {resumed} began with on one batch, before the training was stopped and"
            " as the script resumes it",
        )
    if weights_left is None:
        return (
            "the learning rate is too high for the end of the training, the data changed (a harder part, another"
            " order), or what had been learnt was lost at a step",
            "lower the learning rate towards the end, or look at the data from where the loss turns. With a curriculum"
            " or an adversary it can be meant",
        )
    return (
        f"the weight decay: the weights have shrunk to {percentage(weights_left)} of their largest norm, and with them"
        " what had been learnt",
        "print the weight_decay of each of optimizer.param_groups around the step where the loss turns, and lower it:"
        " a schedule or a group may have raised it",
    )


def _rises_clearly(optimizer: OptimizerFacts, rise: Rise) -> bool:
    """Whether the last tenth of a loss stands above its best tenth by more than its noise and the wandering of levels.

    Not where the learning rate starts anew or its targets grew, nor where it leapt and comes down again.
    """
    losses = optimizer.history.losses
    parts = EARLY_PARTS if len(losses) >= MIN_LOSSES else len(optimizer.history.loss_levels)
    if not 0 < rise.best < min(rise.last, rise.first) or not is_mostly_above(losses, parts):
        return False
    if values_grew(optimizer) or restarts_after(optimizer, rise.best_steps[1]):
        return False
    if rise.height <= SURE * rise.doubt:
        return False
    if rise.highest - rise.last > UNDONE_SHARE * rise.height:
        return False
    return _rose_far(optimizer, rise)


def _rose_far(optimizer: OptimizerFacts, rise: Rise) -> bool:
    """By a twentieth of the level and of the fall, in logarithms, where the norms have risen as well, or else by more.

    The farther the norms have risen, the less sure it has to be. By a sixth and a quarter where the loss alone says so.
    """
    share = math.log(rise.last / rise.best) / math.log(rise.first / rise.best)
    sureness = rise.height / max(_wandering(optimizer.history.losses), 1e-12 * rise.best)
    raised = raised_at_the_end(optimizer, rise.best_steps[1]) or 0.0
    if raised > WITNESS_RATIO and rise.last > (1 + CLEAR_RISE) * rise.best and share > CLEAR_SHARE:
        return sureness > (SURE_BESIDE if raised > FAR_WITNESS_RATIO else SURE_OF_LEVELS)
    return rise.last > FEW_RATIO * rise.best and share > ALONE_SHARE and sureness > SURE_OF_LEVELS


def _wandering(losses: Array) -> float:
    """How the levels of twentieths scatter about the line through their neighbours, as a robust standard deviation.

    >>> _wandering(np.linspace(3.0, 1.0, 100)) < 1e-9
    True
    """
    levels = np.array(medians(np.array_split(losses, min(EARLY_PARTS, len(losses)))))
    return robust_deviation(np.diff(levels, 2)) / math.sqrt(6)


def _few_end_above(losses: Array, levels: list[float]) -> bool:
    """Whether the last of few losses are above the best ones, their level by a sixth and nearly all of them."""
    if not (float(np.median(last_losses(losses))) > FEW_RATIO * min(levels) > 0 and is_apart(losses, levels)):
        return False
    return len(losses) >= MIN_FEW_LOSSES or _few_rise_far(losses)


def _few_rise_far(losses: Array) -> bool:
    """Whether each of the last few losses is half again as large as the best few in a row, and they fall no more.

    >>> few = np.r_[np.linspace(3.0, 1.0, 10), np.linspace(1.1, 2.5, 8)]
    >>> _few_rise_far(few), _few_rise_far(few[:12]), _few_rise_far(np.r_[few, 1.5])
    (True, False, False)
    """
    few = max(MIN_IN_A_ROW, len(losses) // 10)
    windows = np.lib.stride_tricks.sliding_window_view(losses, few)
    best = int(np.argmin(windows.max(axis=1)))
    top, last, after = float(windows[best].max()), losses[-few:], losses[best:]
    if len(losses) < MIN_FEW_LOSSES and float(np.median(last)) - top < FEW_NOISE * noise_of(losses):
        return False
    is_undone = math.log(last.min() / top) > ALONE_SHARE * math.log(max(first_loss(losses) / top, 1.0)) > 0
    is_sure = float(np.median(last)) - top > SURE_FEW_NOISE * noise_of(losses)
    least = FEW_RATIO if is_sure else FEW_FAR_RATIO
    return bool(last.min() > least * top > 0 and is_undone and last[-1] > NO_MORE * after.max())


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
        return _policy_without_progress(facts, optimizer)
    if facts.is_imported and not is_diverging(optimizer):
        if is_no_better_than_at_first(optimizer):
            return _no_progress(optimizer, "warning", "likely")
        if _stands_unlearnt(optimizer):
            return _no_progress(optimizer, "warning", "possible")
    if len(losses) < MIN_LOSSES:
        return None
    return _no_progress(optimizer, "info", "likely") if _never_fell(losses, optimizer.history.loss_levels) else None


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
    if not _shows_its_start(optimizer.history):
        return False
    stood, late = losses[len(losses) // FIRST_PARTS :], losses[-len(losses) // LATE_PARTS :]
    fades = _norms_fade(optimizer)
    if fades and _is_high(late) and _stands_still(late):
        return True
    return _stands_still(stood) and _is_unlearnt(optimizer, stood, fades=fades)


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
    >>> _stands_still(0.69 + noise), _stands_still(np.linspace(0.70, 0.68, 80) + noise)
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
    """The policy of an imported history earns the lowest reward in most rows, or next to none, and no more in time."""
    rewards = optimizer.history.rewards
    if not facts.is_imported or facts.several:
        return None
    losses = optimizer.history.losses
    is_return = bool(len(losses)) and losses.min() > 0  # errors of values are above 0, a surrogate lies about it
    if not stands_low(rewards, is_return=is_return):
        return None
    share = float((rewards == rewards.min()).mean())
    what = f"the reward stands near {number(float(np.median(rewards)))} from the first row to the last"
    if share >= STUCK_SHARE:
        what = f"the reward is {number(float(rewards.min()))}, its lowest, in {percentage(share)} of the rows, and the"
        what += " others do not become more"
    if share == 1:
        what = "the reward is 0 in every row"
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


def _no_progress(optimizer: OptimizerFacts, severity: Severity, certainty: Certainty) -> Finding:
    losses, levels = optimizer.history.losses, optimizer.history.loss_levels
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
