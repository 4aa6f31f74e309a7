"""Setbacks of the loss: an end well above the best level, a level out of range, a validation that turns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradwatch.analysis.diagnosis.ends import (
    HUGE_LOSS,
    HUGE_NORM,
    before_it_left,
    is_apart,
    is_mostly_above,
    last_losses,
    raised_at_the_end,
    resumed_higher_at,
    values_grew,
)
from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.diagnosis.growth import is_diverging
from gradwatch.analysis.diagnosis.optimizer import shrunken_weights
from gradwatch.analysis.diagnosis.rewards import reward_rose
from gradwatch.analysis.diagnosis.schedule import restarts_after
from gradwatch.analysis.statistics.loss_levels import first_loss, medians, start_of, uncertainty
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.analysis.statistics.recovery import noise_of, robust_deviation
from gradwatch.analysis.statistics.validation import turn
from gradwatch.text import number
from gradwatch.text import share as percentage

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
ALONE_SHARE = 0.1  # of the fall, in logarithms, without such norms
LEAPT_RATIO = 2.0  # times the start: the first updates threw such a loss off
EARLY_PARTS = 20  # parts of the losses, in the first of which the first updates may lower it
MIN_HUGE_LOSSES = 10
FALLEN = 0.7  # of the first third: a loss that falls as far is on its way


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
    halfway = (levels[best] + levels[-1]) / 2  # a loss above it is on its way to the last level
    return Rise(
        start=start_of(losses),
        first=first_loss(losses),
        best=levels[best],
        last=levels[-1],
        highest=max(levels[best:]),
        doubt=uncertainty(tenths[-1]) + uncertainty(before_it_left(tenths[best], halfway)),
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
    return f"{percentage(min(rise.undone, 1.0))} of its progress is undone"


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

    The farther the norms have risen, the less sure it has to be. By a sixth and a tenth where the loss alone says so.
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


RULES = (loss_regressed, overfitting, huge_loss)
