"""Findings about growth that lasted and spikes that passed. The consequence sets the severity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.diagnosis.ends import (
    HUGE_NORM,
    climbs_to_the_end,
    ends_far_above,
    falls_without_end,
    grows_beside_a_reward,
    leaps_at_once,
    leaves_at_the_end,
    leaves_every_range,
    leaves_for_good,
    norms_leave_for_good,
    norms_outgrow_from,
    out_of_range_from,
    raised_at_the_end,
    resumed_higher_at,
    rises_above_all,
    targets_grew,
    values_grew,
)
from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts, computed_once
from gradwatch.analysis.diagnosis.finding import WHICH_THRESHOLD, Finding, Quantity
from gradwatch.analysis.diagnosis.rewards import reward_rose
from gradwatch.analysis.diagnosis.schedule import (
    WARM_UP,
    end_of_warm_up,
    evidence_of_rate,
    no_warm_up,
    rate_without_warm_up,
)
from gradwatch.analysis.statistics.loss_levels import first_loss, medians, start_of
from gradwatch.analysis.statistics.losses import loss_summary
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array, column_medians
from gradwatch.analysis.statistics.recovery import came_back, noise_of, robust_deviation
from gradwatch.record import Event
from gradwatch.text import number
from gradwatch.text import share as percentage

MIN_LOSSES = 15  # losses without which the course of the loss is not judged
MIN_LEFT_LOSSES = 4  # losses: of so few only those are judged that leave all before for good, or climb to the end
MIN_FEW_LOSSES = 6  # losses: of so few a fall and a rise are judged by their size alone
MIN_FEW_RISEN = 3  # losses after the best one
GROWTH_BEFORE_NAN = 10.0  # times: the rise of norm or loss within the steps before a NaN that makes it growth
STEPS_BEFORE_NAN = 20  # steps
LOST_RISE_DEVIATIONS = 6.0  # robust deviations of the best losses: how far a loss that is lost lies above them
NEAR_STEPS = 200  # steps before a NaN in which an explosion or a spike is where its growth began
LOST_RISE_SHARE = 0.5  # of the progress that the loss had made, or of its size where it made none
LARGE_LOSS_RATIO = 10.0  # times the first losses: lost whatever the norms do
RAISED_NORM_RATIO = 2.0  # times the norm while the loss was best
FAR_RAISED_NORM_RATIO = 10.0  # the same, beside which a smaller rise of the loss counts
HUGE_NORM_RATIO = 100.0  # times the first norms: critical also where no loss is known
LEFT_NORM_RATIO, LEFT_LOSS_SHARE = 3.0, 0.5  # norm, and rise of the loss in its first value: left at once, by some
FEW_LEFT_RATIO = 3.0  # times the first of few losses, and of their norms: left at once and for good
FALLEN, FAR_FALLEN = 0.5, 0.8  # of the first of few losses: what the best one reached; beside norms that rose so far
FEW_NOISE = 2.5  # times the noise of the logarithms of few losses: by chance they fall and rise again as far
FEW_RISE_SHARE = 0.25  # of the progress of few losses: a rise by more counts beside norms that rose so far
LEARNT_SHARE = 0.9  # of the first loss: beside norms that grow without end, a smaller fall is no progress
THROWN_OFF, NOT_BACK = 10.0, 0.9  # times the first loss, after the first updates; of it: no later level is lower
THROWN_UP = 1.5  # the same of two of the losses
MIN_BEFORE, HALVED = 6, 0.5  # losses before growth began: with fewer it is not known whether they fell; a fall to half
UNMOVED = 0.1  # of the first norm of the weights: updates that all together move them by less do not make a loss leave
EARLY_STEPS, EARLY_SHARE = 20, 0.15  # steps, and share of the run: growth that began by then began with the training
CALM_RATIO, OUT_OF_NOISE = 1.5, 4.0  # of the best level, and times the noise: growth has begun above both
CALM_STEPS, CALM_NOISE_STEPS = 9, 50  # before a step: those that make its level, and those that make their noise
VANISHED_RATIO = 1e-2  # of the median parameter's entries
NEXT_TO_NOTHING = 1e-6  # of the strongest parameter's entries
MOST_SAMPLES, SOME_SAMPLES, MIN_SAMPLES = 0.5, 0.1, 50  # shares of the sampled steps, and least number of them
LEARNT, ROUNDING, DECADES = 0.3, 1e-6, 0.8  # of the first loss; of the loss; of those that norms which fade pass
HALF_SHOWN = 0.5  # of the rise of a loss: a last loss that shows more of it is the one to tell
MOST_LISTED = 30  # steps that a finding lists: norms with a heavy tail have dozens that stand out


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The course of a loss: its level at the start, at its best and at the end."""

    first: float
    best: float
    last: float
    deviation: float  # of single losses while it was best
    best_step: int

    @property
    def rise(self) -> float:
        """From the best level to the last."""
        return self.last - self.best


@computed_once
def loss_course(optimizer: OptimizerFacts) -> Loss | None:
    """The course of the finite losses, from medians over tenths; None: too few of them."""
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    if len(losses) < MIN_LOSSES:
        return None
    parts = np.array_split(losses, 10)
    levels = optimizer.history.loss_levels
    if _left_at_once(losses, optimizer.total_norm):
        first = float(losses[0])
        return Loss(first=first, best=first, last=levels[-1], deviation=0.0, best_step=int(steps[0]))
    best, first = int(np.argmin(levels)), start_of(losses)
    if first < levels[best]:
        few = max(3, len(losses) // 50)
        deviation = robust_deviation(losses[:few])
        return Loss(first=first, best=first, last=levels[-1], deviation=deviation, best_step=int(steps[few - 1]))
    return Loss(
        first=first,
        best=levels[best],
        last=levels[-1],
        deviation=robust_deviation(parts[best]),
        best_step=int(np.array_split(steps, 10)[best][-1]),
    )


def _left_at_once(losses: Array, norms: Array) -> bool:
    """Whether the first updates lifted loss and norm so far that no later loss is near the first one again.

    The less the loss rose, the more the norms must have.
    """
    if not 0 < losses[0] < losses[1:].min():
        return False
    finite = norms[np.isfinite(norms)]
    if not len(finite):  # the loss alone is known
        return bool(LARGE_LOSS_RATIO * losses[0] < losses[1:].min())
    if len(finite) < MIN_LOSSES:
        return False
    raised = float(np.median(finite[1:])) / max(float(finite[0]), 1e-300)
    if LARGE_LOSS_RATIO * losses[0] < losses[1:].min():
        return raised > RAISED_NORM_RATIO
    rise = float(np.median(losses[1:]) - losses[0])
    if rise <= LOST_RISE_DEVIATIONS * robust_deviation(losses[1:]):
        return False
    return raised > FAR_RAISED_NORM_RATIO or (raised > LEFT_NORM_RATIO and rise > LEFT_LOSS_SHARE * losses[0])


@computed_once
def _thrown_off_at_once(optimizer: OptimizerFacts) -> bool:
    """Whether the first updates lifted loss and norm tenfold, and no later level was a tenth below its start.

    Tenfold also of nearly all losses of the second half: where losses scatter as far, the first may be low.
    """
    losses, norms = optimizer.history.losses, optimizer.total_norm
    if len(losses) < MIN_LOSSES or optimizer.history.has_surrogate_loss or not losses[0] > 0:
        return False
    if not 0 < norms[0] < math.inf:
        return False
    early = max(3, min(EARLY_STEPS, len(losses) // 10))
    usual = max(float(losses[0]), float(np.quantile(losses[len(losses) // 2 :], 0.95)))
    highest, raised = losses[1:early].max(), norms[1:early].max() / norms[0]
    second = np.sort(losses[1:early])[-2]
    leapt = raised > THROWN_OFF and (highest > THROWN_OFF * usual or second > THROWN_UP * usual)
    return bool(leapt) and min(optimizer.history.loss_levels) > NOT_BACK * losses[0]


def grew_before(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether the norm or the loss rose tenfold or more within the steps before a NaN."""
    return any(_rose(values[optimizer.steps < step]) for values in (optimizer.total_norm, optimizer.loss))


def _rose(values: Array) -> bool:
    """Whether the last value is far above those before, and those before it rise towards it."""
    finite = values[np.isfinite(values) & (values > 0)]
    if len(finite) < 3:
        return False
    last = finite[-STEPS_BEFORE_NAN:]
    before = finite[:-STEPS_BEFORE_NAN] if len(finite) > 2 * STEPS_BEFORE_NAN else finite[: max(1, len(finite) // 2)]
    level = float(np.median(before))
    climbs = len(last) < 3 or bool(np.median(last[-3:]) >= np.median(last))
    return float(last[-1]) > GROWTH_BEFORE_NAN * level and climbs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Growth:
    """Growth that did not end: where it began, and what of loss and norms shows it."""

    onset: int  # step
    course: Loss | None  # None: no loss tells
    ends: tuple[float, float] | None  # the first and the last loss, as the report shows them
    norms: tuple[float, float] | None  # their first and last level
    ends_in_nan: bool
    was_thrown_off: bool  # by the first updates
    stands: bool  # the loss, while the norms grew

    @property
    def is_huge(self) -> bool:
        return self.norms is not None and self.norms[1] > HUGE_NORM_RATIO * self.norms[0]


def _growth_of(optimizer: OptimizerFacts) -> _Growth | None:
    onset = _onset(optimizer)
    if onset is None:
        return None
    course = loss_course(optimizer) or _short_course(optimizer)
    ends_in_nan = optimizer.history.ended_nonfinite
    was_thrown_off = course is not None and _thrown_off_at_once(optimizer) and not ends_in_nan
    if course is not None and was_thrown_off:
        course = replace(course, first=float(optimizer.history.losses[0]))
    stands = onset == norms_outgrow_from(optimizer) and not ends_in_nan
    return _Growth(
        onset=onset,
        course=course,
        ends=None if course is None else _ends(optimizer, course, grows=not (stands or was_thrown_off)),
        norms=_norms_at_both_ends(optimizer),
        ends_in_nan=ends_in_nan,
        was_thrown_off=was_thrown_off,
        stands=stands,
    )


def _norms_at_both_ends(optimizer: OptimizerFacts) -> tuple[float, float] | None:
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm) & (optimizer.total_norm > 0)]
    few = max(3, len(norms) // 20)
    return (float(np.median(norms[:few])), float(np.median(norms[-few:]))) if len(norms) else None


def diverged(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report loss or norms that grew and did not come back, from the first step on or later."""
    growth = _growth_of(optimizer)
    if growth is None:
        return None
    onset, course = growth.onset, growth.course
    (first, last), (first_norm, last_norm) = growth.ends or (None, None), growth.norms or (None, None)
    tells_loss = bool(optimizer.loss_logged.any()) and not growth.stands
    is_sure = loss_course(optimizer) is not None and not growth.stands and optimizer.has_norms
    return Finding(
        code="diverged",
        severity="critical" if tells_loss or growth.ends_in_nan or growth.is_huge else "warning",
        certainty="shown" if is_sure or (growth.ends_in_nan and optimizer.has_norms) else "likely",
        what=f"the training{facts.of(optimizer)} diverged from step {onset} on: {_how_it_grew(optimizer, growth)}",
        optimizer=optimizer.name,
        parameters=_where(optimizer, onset),
        steps=(onset, int(optimizer.steps[-1])),
        evidence={
            "loss_first": Quantity(first, "loss"),
            "loss_best": Quantity(None if course is None else course.best, "loss"),
            "loss_last": Quantity(last, "loss"),
            "total_norm_first": Quantity(first_norm, "norm"),
            "total_norm_last": Quantity(last_norm, "norm"),
        },
        cause=_OUTGREW if growth.stands else _cause(optimizer, onset),
        remedy=_remedy(optimizer, onset) + _best_checkpoint(course, int(optimizer.steps[0]), onset),
        confirm="train again from the same seed with a tenth of the learning rate: the growth should vanish or begin"
        " later",
    )


_OUTGREW = (
    "norms grew while the loss stood; likely a learning rate that is too high for where the training is by now,"
    " possibly weights or noise that grow without harm to the loss"
)


def _ends(optimizer: OptimizerFacts, course: Loss, *, grows: bool) -> tuple[float, float]:
    """Return the first and the last loss as the report shows them (`LossSummary`).

    If the loss grew in its last few steps, the report's last loss may show less than half of that. Then take the median
    of the last three losses, or of the last tenth.
    """
    summary = loss_summary(optimizer.frame)
    assert summary is not None, "there are losses, for they have a course"
    assert summary.first is not None
    assert summary.last is not None
    grown = max(course.last, float(np.median(optimizer.history.losses[-3:])))
    is_shown = summary.last - course.best > HALF_SHOWN * (grown - course.best)
    if not grows or is_shown or summary.last > LARGE_LOSS_RATIO * max(summary.first, course.best, 0.0):
        return summary.first, summary.last
    return summary.first, grown


def _how_it_grew(optimizer: OptimizerFacts, growth: _Growth) -> str:
    end = f", and ended in {_not_finite_at_the_end(optimizer)}" if growth.ends_in_nan else ""
    course, ends = growth.course, growth.ends
    if course is None or ends is None:
        return f"the norms left their level and did not return{end}"
    first, last = map(number, ends)
    if growth.stands:
        grown = number(raised_at_the_end(optimizer, growth.onset) or math.nan)
        return f"its norms grew {grown}-fold, while its loss fell no more (to {last})"
    if growth.was_thrown_off:
        peak = number(float(optimizer.history.losses.max()))
        return f"its loss leapt from {first} to {peak} and made no progress since ({last} at the end)"
    best = f" (best level {number(course.best)})" if course.best < ends[0] else ""
    return f"its loss went from {first}{best} to {last}{end}"


def _not_finite_at_the_end(optimizer: OptimizerFacts) -> str:
    last = (optimizer.total_norm[-1], optimizer.loss[-1] if optimizer.loss_logged[-1] else 0.0)
    return "NaN" if any(map(math.isnan, last)) and not any(map(math.isinf, last)) else "infinity"


def _cause(optimizer: OptimizerFacts, onset: int) -> str:
    peak = end_of_warm_up(optimizer)
    if peak is not None and _is_of_warm_up(optimizer, onset, peak):
        rate = float(optimizer.frame["learning_rate"].max())
        return (
            f"the learning rate: the growth begins near step {peak}, where the warm-up reaches {number(rate, 6)}; this"
            " peak is too high for the training, or the warm-up is too short"
        )
    if falls_without_end(optimizer):
        return "a loss that has no least value and is not bounded, as a critic's is without a limit on its slope"
    clipped = bool(optimizer.frame["clipped"].mean() > 0.5) if len(optimizer.frame) else False
    if _thrown_off_at_once(optimizer):
        return "the first updates are far too large for the weights: the learning rate, or the initial weights"
    if _is_early(optimizer, onset):
        return (
            "updates that are too large from the start (learning rate, initialisation), or a target that depends on"
            " the model's own output, as in Q-learning without a target network"
        )
    if clipped:
        return "the updates are too large although most steps were clipped: the learning rate, or the data at that step"
    return "a step whose update was too large for the weights: the learning rate, or the data at that step"


def _remedy(optimizer: OptimizerFacts, onset: int) -> str:
    known = optimizer.frame["clip_coef"].notna().any() and optimizer.frame["max_norm"].notna().any()
    peak = end_of_warm_up(optimizer)
    if peak is not None and _is_of_warm_up(optimizer, onset, peak):
        return "lower the peak of the learning rate, or lengthen the warm-up"
    if falls_without_end(optimizer):
        return "bound the loss, for a critic by a penalty on its gradient, by clipped weights or by spectral norms"
    if _is_early(optimizer, onset):
        rate = "lower the learning rate" + ("" if peak is not None else " or warm it up")
        if _thrown_off_at_once(optimizer):
            return rate
        return f"{rate}; if the model computes its own targets, use a target network or a smaller discount"
    if known:
        return "compare the threshold with `gradwatch recommend`; if it is right, lower the learning rate"
    return f"clip{WHICH_THRESHOLD}, or lower the learning rate" if optimizer.has_norms else "lower the learning rate"


def _best_checkpoint(course: Loss | None, first: int, onset: int) -> str:
    """Name the step that early stopping would have kept, where the loss had made progress, and not in a few steps."""
    is_endless = course is not None and onset <= course.best_step and course.best < 0
    if (
        course is None
        or is_endless
        or onset <= first + EARLY_STEPS
        or course.first - course.best <= LOST_RISE_DEVIATIONS * course.deviation
    ):
        return ""
    return f"; go back to a checkpoint from before step {onset}, where early stopping would have ended the training"


def _is_of_warm_up(optimizer: OptimizerFacts, onset: int, peak: int) -> bool:
    """Whether growth began in the second half of the warm-up, or as long after it at most."""
    first = int(optimizer.steps[0])
    return first + (peak - first) / 2 <= onset <= peak + (peak - first) / 2


def _is_early(optimizer: OptimizerFacts, onset: int) -> bool:
    """Whether growth began with the training, rather than at a later step up to which the loss fell."""
    first, last = int(optimizer.steps[0]), int(optimizer.steps[-1])
    if onset <= first + EARLY_SHARE * (last - first):
        return True
    return onset <= first + EARLY_STEPS and not _was_learnt(optimizer.history, onset)


def _was_learnt(history: OptimizerHistory, step: int) -> bool:
    """Whether the losses before a step fell to half. In a log with few rows each may be an epoch."""
    before = history.losses[history.loss_steps < step]
    if len(before) < MIN_BEFORE:
        return False
    return 0 < min(medians(np.array_split(before, len(before) // 3))) < HALVED * start_of(before)


def _where(optimizer: OptimizerFacts, onset: int) -> tuple[str, ...]:
    events = [e for e in optimizer.events if e.kind in ("explosion", "spike", "nonfinite") and e.parameter]
    near = [e for e in events if abs(e.step - onset) <= 200]
    return tuple(dict.fromkeys(str(e.parameter) for e in near[:1]))


@computed_once
def is_diverging(optimizer: OptimizerFacts) -> bool:
    """Whether growth began that did not end."""
    if _has_no_gradient(optimizer):
        return False
    return (
        _nan_after_growth(optimizer) is not None
        or _loss_is_lost(optimizer, loss_course(optimizer))
        or _few_losses_are_lost(optimizer)
        or out_of_range_from(optimizer) is not None
        or norms_leave_for_good(optimizer)
        or _lasting_explosion(optimizer) is not None
        or norms_outgrow_from(optimizer) is not None
    )


def _has_no_gradient(optimizer: OptimizerFacts) -> bool:
    """Whether no step has a norm above 0, where norms are known."""
    return optimizer.has_norms and not (optimizer.total_norm > 0).any()


def _onset(optimizer: OptimizerFacts) -> int | None:
    """The step at which growth began that did not end; None: there was none."""
    if not len(optimizer.steps) or _has_no_gradient(optimizer):
        return None
    if (nan := _nan_after_growth(optimizer)) is not None:
        return _onset_before(optimizer, nan)
    if _thrown_off_at_once(optimizer):
        return int(optimizer.history.loss_steps[0])
    explosion = _lasting_explosion(optimizer)
    if _loss_is_lost(optimizer, loss_course(optimizer)) or _few_losses_are_lost(optimizer):
        begin = _begin(optimizer, None)
        return begin if explosion is None or not _explains(optimizer, explosion, begin) else explosion
    if (first_out := out_of_range_from(optimizer)) is not None:
        return first_out
    if falls_without_end(optimizer):
        return int(optimizer.steps[0])
    if explosion is not None:
        return explosion
    return _begin(optimizer, None) if norms_leave_for_good(optimizer) else norms_outgrow_from(optimizer)


def _onset_before(optimizer: OptimizerFacts, nan: Event) -> int:
    """Where the detectors saw growth begin: the few steps from an explosion to a NaN do not show in a smoothed norm."""
    seen = [e.step for e in optimizer.events if e.kind in ("explosion", "spike")]
    near = [step for step in seen if nan.step - NEAR_STEPS <= step <= nan.step]
    return min(near) if near else _begin(optimizer, nan.step)


def _lasting_explosion(optimizer: OptimizerFacts) -> int | None:
    """The step of the first critical explosion from which the training did not come back, nor earned more since."""
    explosions = [e for e in optimizer.events if e.kind == "explosion" and e.severity == "critical"]
    for explosion in explosions:
        is_back = came_back(optimizer.steps, optimizer.total_norm, optimizer.loss, explosion)
        if not is_back and not reward_rose(optimizer, explosion.step):
            return explosion.step
    return None


def _nan_after_growth(optimizer: OptimizerFacts) -> Event | None:
    bad = [e for e in optimizer.events if e.kind == "nonfinite" and e.severity == "critical"]
    return bad[0] if bad and grew_before(optimizer, bad[0].step) else None


def _loss_is_lost(optimizer: OptimizerFacts, course: Loss | None) -> bool:
    """Whether the loss ended far above its best, by its own noise and progress, and the norms have changed as well."""
    if course is None or _lost_its_gradient(optimizer):
        return False
    if optimizer.history.has_surrogate_loss:
        return grows_beside_a_reward(optimizer)
    is_left = _left_at_once(optimizer.history.losses, optimizer.total_norm) or ends_far_above(optimizer)
    is_left |= _thrown_off_at_once(optimizer)
    rows = _rows_with_both(optimizer)
    if is_left or (not optimizer.has_rivals and (climbs_to_the_end(*rows) or leaves_at_the_end(*rows))):
        return True
    return not values_grew(optimizer) and _is_far_above_its_best(optimizer, course)


def _lost_its_gradient(optimizer: OptimizerFacts) -> bool:
    """Whether the last norms are exactly 0 and the loss ends no higher than it began: units died, nothing grew."""
    losses, norms = optimizer.history.losses, optimizer.total_norm
    last = norms[-max(MIN_LOSSES, len(norms) // 10) :]
    return not last.any() and optimizer.history.loss_levels[-1] <= losses[0]


def _is_far_above_its_best(optimizer: OptimizerFacts, course: Loss) -> bool:
    """Whether the loss ends far above its first losses, or undoes half of its progress while the norms rose."""
    noise = max(course.deviation, 1e-12 + 1e-3 * abs(course.best))
    if course.rise <= LOST_RISE_DEVIATIONS * noise or resumed_higher_at(optimizer) is not None:
        return False
    size = max(abs(course.first), abs(course.best))
    if course.first > 0 and course.best >= 0 and course.last > LARGE_LOSS_RATIO * max(course.first, size):
        return True
    if optimizer.has_rivals:  # the loss of a discriminator rises again, and its norms with it, as its generator learns
        return False
    if course.best > 0 and targets_grew(optimizer, course.best_step, math.sqrt(course.last / course.best)):
        return False
    progress = max(course.first - course.best, 0.0)
    required = LOST_RISE_SHARE * (progress if progress > LOST_RISE_DEVIATIONS * noise else size)
    return course.rise > required and _norms_are_raised(optimizer, course)


def _few_losses_are_lost(optimizer: OptimizerFacts) -> bool:
    """Whether the last of few losses is out of every range (`leaves_every_range`), or they ended badly otherwise."""
    losses, norms = _rows_with_both(optimizer)
    if not 1 < len(losses) < MIN_LOSSES:
        return False
    if leaves_every_range(losses):
        return True
    if losses.min() <= 0 or _weights_hardly_moved(optimizer):
        return False  # the losses of small batches scatter
    return _few_ended_badly(optimizer, losses, norms)


def _few_ended_badly(optimizer: OptimizerFacts, losses: Array, norms: Array) -> bool:
    """Whether a loss of few rows above 0 ended badly, as any of these shows.

    - Loss and norm left all earlier rows for good (`leaves_for_good`), or climb to the end (`climbs_to_the_end`).
    - The losses grow in each row, tenfold and more (`leaps_at_once`).
    - The loss rises above all before under norms that are huge or rose as well (`rises_above_all`), or huge norms grow
      from row to row while it does not fall.
    - The first row was the best, and loss and norm left it at once.
    - The loss fell to less than half and rose again with the norm by more than half of that fall and than its noise,
      or by more than a quarter beside norms that rose tenfold.
    """
    surrogate = optimizer.history.has_surrogate_loss
    should_fall = not surrogate and not optimizer.has_rivals
    if len(losses) < MIN_FEW_LOSSES and should_fall and leaps_at_once(losses, norms):
        return True
    if len(losses) < MIN_LEFT_LOSSES:
        return False
    if should_fall and (leaves_for_good(losses, norms) or climbs_to_the_end(losses, norms)):
        return True
    if len(losses) < MIN_FEW_LOSSES:
        return False
    if should_fall and rises_above_all(losses, norms):
        return True
    first = float(losses[0])
    if _grow_without_end(norms) and losses[-1] > LEARNT_SHARE * first:
        return True
    if losses[1:].min() > FEW_LEFT_RATIO * first and not surrogate:
        return float(np.median(norms[1:])) > FEW_LEFT_RATIO * float(norms[0]) > 0
    return should_fall and _fell_and_rose(losses, norms)


def _weights_hardly_moved(optimizer: OptimizerFacts) -> bool:
    """Whether all updates together are small beside the weights; False where the updates are not known."""
    frame = optimizer.frame
    updates, weights = (frame[name].to_numpy(float) for name in ("update_norm", "weight_norm"))
    made = ~optimizer.skipped
    return bool(made.any() and updates[made].sum() < UNMOVED * weights[made][0])  # an unknown norm is NaN


def _fell_and_rose(losses: Array, norms: Array) -> bool:
    """Whether few losses fell and rose again by most of the fall while the norms rose, or by less while they leapt."""
    best, first = int(np.argmin(losses)), float(losses[0])
    after = losses[best + 1 :]
    if len(after) < MIN_FEW_RISEN:
        return False
    raised = float(np.median(norms[best + 1 :])) / max(float(norms[best]), 1e-300)
    leapt = float(np.median(norms[best + 1 :])) > FAR_RAISED_NORM_RATIO * float(np.median(norms[: best + 1]))
    if float(losses[best]) > (FAR_FALLEN if leapt else FALLEN) * first:
        return False
    if not leapt and math.log(after[-MIN_FEW_RISEN:].min() / losses[best]) < FEW_NOISE * _noise_of_few(losses):
        return False
    risen = bool((after[-MIN_FEW_RISEN:] > losses[best] + LOST_RISE_SHARE * (first - losses[best]) / 2).all())
    share = FEW_RISE_SHARE if raised > FAR_RAISED_NORM_RATIO else LOST_RISE_SHARE
    enough = float(after[-1] - losses[best]) > share * float(first - losses[best])
    return risen and enough and raised > RAISED_NORM_RATIO


def _noise_of_few(losses: Array) -> float:
    """How the logarithms of losses scatter about the lines through their neighbours, as a robust standard deviation.

    >>> _noise_of_few(np.geomspace(9.0, 1.0, 8)) < 1e-9
    True
    """
    return robust_deviation(np.diff(np.log(losses), 2)) / math.sqrt(6)


def _rows_with_both(optimizer: OptimizerFacts) -> tuple[Array, Array]:
    """Losses and norms of the rows in which both are finite; where no norm is known, the losses stand for both."""
    norms = optimizer.total_norm if optimizer.has_norms else optimizer.loss
    there = optimizer.loss_logged & np.isfinite(optimizer.loss) & np.isfinite(norms)
    return optimizer.loss[there], norms[there]


def _grow_without_end(norms: Array) -> bool:
    """Whether each norm is above the one before it, tenfold from first to last, and all are out of any usual range."""
    return bool((np.diff(norms) > 0).all() and norms[-1] > FAR_RAISED_NORM_RATIO * norms[0] and norms[0] > HUGE_NORM)


def _short_course(optimizer: OptimizerFacts) -> Loss | None:
    """The course of so few losses, where they were lost: single losses, for there are no levels."""
    if not _few_losses_are_lost(optimizer) or _grow_without_end(optimizer.total_norm):
        return None
    losses, steps = optimizer.history.losses, optimizer.history.loss_steps
    best = int(np.argmin(losses))
    return Loss(
        first=float(losses[0]),
        best=float(losses[best]),
        last=float(losses[-1]),
        deviation=0.0,
        best_step=int(steps[best]),
    )


def _norms_are_raised(optimizer: OptimizerFacts, course: Loss) -> bool:
    norms = optimizer.total_norm
    usable = np.isfinite(norms) & (norms > 0)
    before = norms[usable & (optimizer.steps <= course.best_step)]
    after = norms[usable & (optimizer.steps > course.best_step)]
    if not len(before) or not len(after):
        return False
    return float(np.median(after[-max(3, len(after) // 5) :])) > RAISED_NORM_RATIO * float(np.median(before[-500:]))


def _begin(optimizer: OptimizerFacts, until: int | None) -> int:
    """Where the last rise of the loss (or without one, of the norm) begins: its last step near its best level."""
    for values in (optimizer.loss, optimizer.total_norm):
        usable = np.isfinite(values)
        if until is not None:
            usable &= optimizer.steps < until
        if usable.sum() >= 3:
            return int(optimizer.steps[usable][_last_calm(values[usable])])
    return int(optimizer.steps[0])


def _explains(optimizer: OptimizerFacts, explosion: int, begin: int) -> bool:
    """Whether an explosion is where growth began that smoothed values place at another step.

    The last step near the best level is a poor beginning where the loss wavers, as that of a GAN's generator does: it
    lies before the explosion, though loss and norm were at their level until then. Or it lies a few steps after it.
    """
    if explosion <= begin:
        return begin - explosion <= CALM_STEPS
    return all(_stood(values, optimizer.steps, begin, explosion) for values in (optimizer.loss, optimizer.total_norm))


def _stood(values: Array, steps: NDArray[np.int64], begin: int, explosion: int) -> bool:
    finite = np.isfinite(values)
    first, last = values[finite & (steps <= begin)], values[finite & (steps < explosion)]
    if not len(first) or not len(last):
        return True
    level = float(np.median(first[-CALM_STEPS:]))
    noise = OUT_OF_NOISE * robust_deviation(last[-CALM_NOISE_STEPS:])
    return float(np.median(last[-CALM_STEPS:])) <= level + max((CALM_RATIO - 1) * abs(level), noise)


def _last_calm(values: Array) -> int:
    """The position after which the values stay above everything before, of smoothed values."""
    window = max(1, min(9, len(values) // 10))
    smooth = np.array([np.median(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))])
    if smooth.min() > 0:
        smooth = np.log(smooth)  # growth by a factor a step begins where it begins, not where it gets large
    best = int(np.argmin(smooth))
    level, top = float(smooth[best]), float(np.max(smooth[best:]))
    is_log = values.min() > 0
    most = max(math.log(CALM_RATIO), OUT_OF_NOISE * noise_of(smooth)) if is_log else math.inf
    above = smooth > level + min(0.1 * (top - level), most)
    calm: NDArray[np.intp] = np.flatnonzero(~above)
    return int(calm[-1]) if len(calm) else 0


def spike(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report steps far above their neighbours, after which loss and norms came back."""
    spikes = optimizer.lone_spikes
    if not spikes or is_diverging(optimizer):
        return None
    step, ratio = max(spikes, key=lambda found: found[1])
    norm = float(optimizer.total_norm[optimizer.steps == step][0])
    several = len(spikes) > 1
    subject, stand = (f"{len(spikes)} steps", "stand") if several else (f"step {step}", "stands")
    events = [e for e in optimizer.events if e.step == step and e.parameter]
    if spikes[-1][0] == optimizer.steps[-1]:
        after = "no step after the last one shows whether the training came back"
    else:
        after = f"the training came back from {'them' if several else 'it'}"
    rate = rate_without_warm_up(optimizer, step)
    cause, remedy, confirm = _why_it_stood_out(optimizer, step, rate)
    return Finding(
        code="spike",
        severity="info",
        certainty="shown",
        what=f"{subject}{facts.of(optimizer)} {stand} out: the largest has {number(ratio)} times the norm of its"
        f" neighbours ({number(norm)} at step {step}); {after}",
        optimizer=optimizer.name,
        parameters=tuple(dict.fromkeys(str(e.parameter) for e in events)),
        rank=next((e.rank for e in events if e.rank is not None), None),
        steps=(step, step),
        evidence={
            "spikes": Quantity(len(spikes), "steps"),
            "largest_norm": Quantity(norm, "norm"),
            "largest_ratio": Quantity(ratio, "times the median of its neighbours"),
            "steps": Quantity(_listed_largest(spikes), "steps"),
        }
        | evidence_of_rate(rate),
        cause=cause,
        remedy=remedy,
        confirm=confirm,
    )


def _why_it_stood_out(optimizer: OptimizerFacts, step: int, rate: float | None) -> tuple[str, str, str]:
    """Cause, remedy and confirmation of a spike; ``rate``: as `rate_without_warm_up`."""
    batch = "a single batch: an outlier, a wrong label, or a sequence of unusual length"
    if rate is None:
        return (
            batch,
            "look at the batches of these steps; clipping limits the damage of such a step but does not fix the data",
            "run the same batch through an earlier checkpoint",
        )
    return (
        f"{no_warm_up(optimizer, rate)}; or {batch}",
        f"{WARM_UP}, where clipping only limits the damage of such a step; if it stays, look at its batch",
        f"train again from the same seed with a warm-up of some hundred steps: step {step} should not stand out",
    )


def _listed_largest(spikes: Sequence[tuple[int, float]]) -> str:
    """The steps of the spikes in words, in order; of more than a finding can list, the largest ones."""
    largest = sorted(spikes, key=lambda found: -found[1])[:MOST_LISTED]
    rest = ", ..." if len(spikes) > len(largest) else ""
    return listed_steps(sorted(step for step, _ in largest)) + rest


def listed_steps(steps: Sequence[int], most: int = MOST_LISTED) -> str:
    """The steps in words, so that a user can look for their batches.

    >>> listed_steps([3, 7]), listed_steps([3, 7, 9], 2)
    ('3, 7', '3, 7, ...')
    """
    return ", ".join(map(str, steps[:most])) + (", ..." if len(steps) > most else "")


def vanishing(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report gradients that shrink towards the input, or that fade over the run."""
    events = [e for e in optimizer.events if e.kind == "vanishing" and e.severity != "info"]
    events = [e for e in events if e.parameter is None or _is_small(optimizer, e.parameter)]
    if _has_converged(optimizer):
        return None
    if not events:
        return _vanishing_at_most_steps(facts, optimizer)
    first = events[0]
    names = tuple(dict.fromkeys(str(e.parameter) for e in events if e.parameter))
    where = f" in {names[0]}" if names else ""
    return Finding(
        code="vanishing",
        severity=max((e.severity for e in events), key=["info", "warning", "critical"].index),
        certainty="shown",
        what=f"gradients{facts.of(optimizer)} vanish{where} by step {first.step}",
        optimizer=optimizer.name,
        parameters=names,
        steps=(first.step, int(optimizer.steps[-1])),
        evidence={
            "observed": Quantity(first.observed, "share of the strongest layer, or of its own level"),
            "limit": Quantity(first.limit, "share of the strongest layer, or of its own level"),
        },
        cause="each layer's backward shrinks the gradient: saturating activations, small initial weights, a deep stack"
        " without residual connections or normalisation",
        remedy="use residual connections, normalisation or activations that do not saturate, and an initialisation"
        " for them; clipping and the learning rate do not help",
        confirm=_COMPARE_LAYERS,
    )


_COMPARE_LAYERS = "compare the norms per layer: `gradwatch report --layers 100`"


def _vanishing_at_most_steps(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report matrices whose gradient is next to nothing at most steps, though not at each of 100 in a row."""
    shares = _shares_of_vanished_steps(optimizer)
    if not shares:
        return None
    name, share = max(shares.items(), key=lambda found: found[1])
    late = optimizer.norms.index[len(optimizer.norms) // 2 :]
    return Finding(
        code="vanishing",
        severity="warning",
        certainty="shown",
        what=f"gradients{facts.of(optimizer)} vanish in {name} at most steps: in the second half of the run they are"
        f" next to nothing beside the strongest layer's at {percentage(share)} of the steps",
        optimizer=optimizer.name,
        parameters=tuple(shares),
        steps=(int(late[0]), int(late[-1])),
        evidence={
            "vanished_steps": Quantity(share, "share of the sampled steps of the second half"),
            "limit": Quantity(NEXT_TO_NOTHING, "of the strongest layer's entries"),
        },
        cause="a saturated activation passes a gradient for few inputs only: attention scores that are not divided by"
        " the root of the width, or inputs of a sigmoid or tanh that are far from 0, also of weights that large updates"
        " have thrown there",
        remedy="scale or normalise what goes into the softmax, sigmoid or tanh; if these gradients were well at first,"
        " lower the learning rate; clipping does not help",
        confirm=_COMPARE_LAYERS,
    )


def _shares_of_vanished_steps(optimizer: OptimizerFacts) -> dict[str, float]:
    """Of each matrix whose gradient vanishes at most sampled steps of the second half: the share of these steps.

    Exact zeros alone are no saturation: an expert that is not chosen has them. So some of them must be above 0.
    """
    late = optimizer.norms.iloc[len(optimizer.norms) // 2 :]
    if len(late) < MIN_SAMPLES:
        return {}
    rms = _rms(optimizer, late.to_numpy(float))
    strongest = np.fmax.reduce(rms, axis=1, initial=0.0)[:, None]
    vanished = rms < NEXT_TO_NOTHING * strongest
    share, above_zero = vanished.mean(axis=0), (vanished & (rms > 0)).mean(axis=0)
    found = (share > MOST_SAMPLES) & (above_zero > SOME_SAMPLES)
    matrices = {info.name for info in optimizer.parameters if len(info.shape) > 1}
    names = map(str, late.columns)
    return {name: float(share[i]) for i, name in enumerate(names) if found[i] and name in matrices}


def _rms(optimizer: OptimizerFacts, norms: Array) -> Array:
    """Root mean square of each gradient's entries, (steps, parameters); NaN where it is not finite."""
    rms = norms / np.sqrt(np.maximum(optimizer.entries, 1.0))
    return np.where(np.isfinite(rms), rms, np.nan)


def _has_converged(optimizer: OptimizerFacts) -> bool:
    """Whether the loss fell, is the same to rounding in the second half, and the norms faded step by step.

    So a problem with one least value ends that is given whole at each step. Gradients that a fault cuts off leave such
    a loss as well, but pass no decades on the way.
    """
    losses, norms = optimizer.history.losses, optimizer.total_norm
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if len(losses) < MIN_LOSSES or not len(norms) or losses[-1] > LEARNT * first_loss(losses):
        return False
    half, decades = losses[len(losses) // 2 :], np.floor(np.log10(norms))
    passed = len(np.unique(decades)) > DECADES * (decades.max() - decades.min())
    return bool(np.ptp(half) <= ROUNDING * abs(half[-1]) and passed)


def _is_small(optimizer: OptimizerFacts, parameter: str) -> bool:
    """Whether entries of a parameter's gradient are small beside those of the median or the strongest parameter.

    The detector compares gradients relative to their weights, and beside a parameter that begins near 0 the
    gradients of all others look small. Where most gradients vanish, that of the median parameter does too.
    """
    if parameter not in optimizer.norms.columns:
        return True
    levels = column_medians(_rms(optimizer, optimizer.norms.to_numpy(float)))
    if np.isnan(levels).all():
        return True
    own = levels[list(optimizer.norms.columns).index(parameter)]
    return not own > max(VANISHED_RATIO * float(np.nanmedian(levels)), NEXT_TO_NOTHING * float(np.nanmax(levels)))


def desync(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report ranks of a distributed training that hold different gradients."""
    events = [e for e in optimizer.events if e.kind == "desync" and e.severity != "info"]
    if not events:
        return None
    worst = max(events, key=lambda e: (["info", "warning", "critical"].index(e.severity), -e.step))
    rank = "a rank" if worst.rank is None else f"rank {worst.rank}"
    return Finding(
        code="desync",
        severity=worst.severity,
        certainty="shown",
        what=f"from step {worst.step} on, {rank} has a different gradient{facts.of(optimizer)} than the other ranks",
        optimizer=optimizer.name,
        parameters=(worst.parameter,) if worst.parameter else (),
        rank=worst.rank,
        steps=(worst.step, int(optimizer.steps[-1])),
        evidence={
            "observed": Quantity(worst.observed, "see the event"),
            "limit": Quantity(worst.limit, "see the event"),
        },
        cause="this rank gets the wrong data, has different weights, or holds a gradient that is not reduced",
        remedy=f"look for what differs on {rank}: the data and its sampler's seed, buffers, parameters outside the"
        " wrapped module, then the device",
        confirm="`gradwatch events --kind desync`; compare the weights of two ranks",
    )


RULES = (diverged, vanishing, desync, spike)
