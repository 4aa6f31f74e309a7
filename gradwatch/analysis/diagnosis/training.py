"""Findings about a script that trains nothing, or not all that it should."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity, listed
from gradwatch.analysis.diagnosis.rewards import fall_of, is_stuck_at_lowest
from gradwatch.analysis.statistics.loss_levels import first_loss, is_above, medians, uncertainty
from gradwatch.analysis.statistics.quantiles import Array, chosen_of
from gradwatch.analysis.statistics.recovery import robust_deviation
from gradwatch.record import Event, Severity
from gradwatch.store.columns import is_of_one_value
from gradwatch.text import number
from gradwatch.text import share as percentage

FEW_STEPS = 40  # steps: a part of the loss may join later than this
MIN_STEPS = 5  # steps: too few to conclude that something never happens
MIN_ZERO_ROWS = 2  # rows of an imported history, each of several steps: all of them without a gradient
MOST_STEPS = 0.95  # share of the steps
HALF = 0.5
NEXT_TO_NO_RATE = 1e-6  # of the highest learning rate: with it no update is seen beside the ones before
MIN_ZERO_STEPS_AT_END, ZERO_SHARE_AT_END = 10, 0.05  # steps, and share of them: a schedule that ended so early
NOTABLE_ENTRIES = 0.1  # share of the entries of an optimizer: fewer without a gradient are usual, an unused head
ENDS_AS_IT_BEGAN = 0.9  # of the first loss: beside a layer of dead units, one that ends above it has learnt nothing
MIN_CONSTANT_LOSSES = 20  # losses
MIN_LEARNT_LOSSES = 100  # losses without which a fall of the loss is not judged
MANY_ZEROS = 0.75  # share of the rows of a history: fewer are usual where groups get equal rewards
MIN_END = 10  # rows of the end, or the last tenth: where none has a gradient, it is gone
NEXT_TO_NO_NORM = 1e-3  # of the first norms of a policy: below, equal rewards leave nothing but rounding
LITTLE_NORM = 2e-2  # of the norms of rows with another reward than the one that the policy is stuck at
MIN_FIRST_NORMS, MIN_LAST_REWARDS = 5, 5  # rows at either end of the history of a policy
MIN_FALL_LOSSES, FALLEN = 6, 0.75  # losses, and the level of their last third over the first's: they were learnt
SCATTER = 0.05  # of the median of few losses: with as much it is unknown whether they fall
GONE_NORM, MIN_GONE, UNLEARNT = 1e-5, 3, 0.5  # of the first norms; last norms; of the first loss: not learnt, but lost
LOW_PRECISION = {"bfloat16": 8, "float16": 11}  # bits of the significand, the leading one included
MOVED_ENTRIES = 0.02  # share of the entries: when fewer move at a step, rounding loses the updates
FEW_MOVED_ENTRIES = 0.1  # the same where the loss stands: so few may train, and here they do not
MIN_WEIGHT_SAMPLES = 2  # samples
NOT_ZEROED_STEPS = 0.3  # share of the steps: zero_grad once every second step, or more seldom
MIXED_STEPS = 0.5  # share of the steps
USUAL_NORM = 1e-4  # norm: gradients below it explain small updates
WHY_UPDATES_ARE_SMALL = {"updates-below-precision", "clip-starves", "ineffective-clipping"}
STILL, MIN_STILL_STEPS = 1e-3, 100  # of a matrix's norm: what all updates may move it; steps that make no more


def no_steps(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The optimizer never stepped, though others did or the run has ended.

    Of a run that was killed the last half second is not on disk, so its first steps may be missing.
    """
    if len(optimizer.frame) or facts.is_imported or _is_stepped_by_another(facts, optimizer):
        return None
    others = any(len(other.frame) for other in facts.optimizers)
    if facts.ending.state in ("running", "killed") and not others:
        return None
    return Finding(
        code="no-steps",
        severity="warning" if others else "critical",
        certainty="shown",
        what=f"{facts.by(optimizer)} never made a step, and other code moves its parameters"
        if optimizer.moved_without_steps
        else f"{facts.by(optimizer)} never made a step, so its parameters are not trained",
        optimizer=optimizer.name,
        parameters=tuple(optimizer.names[:8]),
        evidence={"steps": Quantity(0, "steps")},
        cause="the loop computes its updates itself, or calls the first of an optimizer's two steps alone, as of"
        " sharpness-aware minimisation (SAM), which moves the weights against the update"
        if optimizer.moved_without_steps
        else "the loop never calls this optimizer's step, or ends before it gets there",
        remedy="call the step that makes the update, for SAM the second step after a second backward; if the loop"
        " updates the weights itself on purpose, nothing is wrong"
        if optimizer.moved_without_steps
        else "call the optimizer's step after backward; if a wrapper steps it, nothing is wrong",
        confirm="add a print next to the call of step",
    )


def _is_stepped_by_another(facts: Facts, optimizer: OptimizerFacts) -> bool:
    """Whether another optimizer, which has steps, holds the same parameters: then this is a wrapper of it."""
    names = set(optimizer.names)
    return any(len(other.frame) and names & set(other.names) for other in facts.optimizers if other is not optimizer)


def all_steps_skipped(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report gradients that no update followed."""
    skipped = optimizer.skipped
    if len(skipped) < MIN_STEPS or skipped.mean() < MOST_STEPS:
        return None
    scaled = bool(optimizer.frame["loss_scale"].notna().any())
    return Finding(
        code="all-steps-skipped",
        severity="critical",
        certainty="shown",
        what=f"{int(skipped.sum())} of {len(skipped)} steps{facts.of(optimizer)} were skipped: nothing is trained",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "skipped_steps": Quantity(int(skipped.sum()), "steps"),
            "nonfinite_steps": Quantity(int((optimizer.frame["nonfinite"] > 0).sum()), "steps"),
        },
        cause="the gradients are not finite at any loss scale, so GradScaler skips every update"
        if scaled
        else "zero_grad, a check or an exception drops the gradients before the optimizer's step",
        remedy="train a few steps in float32 and look for the operation whose result is not finite; lowering the loss"
        " scale does not help"
        if scaled
        else "call the optimizer's step before you zero the gradients",
        confirm="`gradwatch events` lists the skipped steps; the weights keep their initial values",
    )


def gradients_dropped(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report gradients that backward wrote and that are gone, or 0, when the optimizer steps."""
    made = len(optimizer.frame)
    if made < MIN_STEPS or facts.is_imported or not _drops_gradients(optimizer):
        return None
    return Finding(
        code="all-steps-skipped",
        severity="critical",
        certainty="shown",
        what=f"the gradients{facts.of(optimizer)} are zeroed between backward and the optimizer's step: its {made}"
        " steps train nothing",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={"dropped_steps": Quantity(made, "steps, nearly all of which found no gradient")},
        cause="zero_grad, or code that sets the gradients to None or 0, runs after backward and before the step",
        remedy="call zero_grad before backward, or after the optimizer's step",
        confirm="print the norm of one parameter's gradient just before optimizer.step()",
    )


def _drops_gradients(optimizer: OptimizerFacts) -> bool:
    """Whether backward wrote gradients at nearly every step, and nearly no step had any."""
    least = MOST_STEPS * len(optimizer.frame)
    if (optimizer.dropped_steps or 0) >= least:
        return True
    return (optimizer.changed_steps or 0) >= least and _norms_are_zero(optimizer)


def learning_rate_zero(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Every learning rate is 0 or next to it: always, for most of the run, or from some step to the end."""
    columns = _learning_rates(optimizer)
    if any(is_of_one_value(rates) and rates[0] > 0 for rates in columns):
        return None
    rates = np.column_stack(columns)
    known = np.isfinite(rates).any(axis=1)
    if known.sum() < MIN_STEPS:
        return None
    rates = np.nan_to_num(rates[known], nan=0.0)
    highest = float(rates.max())
    zero: NDArray[np.bool_] = rates.max(axis=1) <= NEXT_TO_NO_RATE * highest
    share = float(zero.mean())
    at_end = len(zero) - 1 - int(np.flatnonzero(~zero)[-1]) if not zero.all() else len(zero)
    ended_early = at_end >= max(MIN_ZERO_STEPS_AT_END, ZERO_SHARE_AT_END * len(zero))
    if share < HALF and not ended_early:
        return None
    steps = optimizer.steps[known][zero] if share >= HALF else optimizer.steps[known][-at_end:]
    from_where = f"at {int(zero.sum())} of {len(zero)} steps" if share >= HALF else f"from step {steps[0]} to the end"
    left = float(rates[zero].max())
    what = "0" if left == 0 else f"below a millionth of its highest, {number(highest)},"
    effect = "do not" if left == 0 else "hardly"
    return Finding(
        code="learning-rate-zero",
        severity="critical" if share >= MOST_STEPS else "warning",
        certainty="shown",
        what=f"the learning rate{facts.of(optimizer)} is {what} {from_where}: the weights {effect} move",
        optimizer=optimizer.name,
        steps=(int(steps[0]), int(steps[-1])),
        evidence={
            "learning_rate": Quantity(left, "per step"),
            "steps_at_zero": Quantity(share, "share of steps"),
        },
        cause="the schedule returns 0 or falls too fast, for example because of an integer division, a schedule that"
        " counts epochs but is stepped every batch, or too small a total number of steps",
        remedy="correct the schedule; print scheduler.get_last_lr() at the first and the last steps",
        confirm="`gradwatch export RUN steps.csv` has the learning rate of every step",
    )


def _learning_rates(optimizer: OptimizerFacts) -> list[Array]:
    """Of each parameter group, (steps,) each; NaN where a rate is not known."""
    frame = optimizer.frame
    return [frame[name].to_numpy(float) for name in frame.columns if name.startswith("learning_rate")]


def group_without_rate(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Parameters with gradients whose group has learning rate 0 at every step, while other groups have one."""
    columns = _learning_rates(optimizer)
    if len(optimizer.frame) < MIN_STEPS or len(columns) < 2:
        return None
    rates = np.column_stack(columns)
    zero = (rates == 0).all(axis=0)
    if not zero.any() or not (np.nan_to_num(rates) > 0).any(axis=0).any():
        return None
    names = _never_updated(optimizer)
    if not names:
        return None
    share = _share_of_entries(optimizer, names)
    return Finding(
        code="learning-rate-zero",
        severity="warning" if share >= NOTABLE_ENTRIES else "info",
        certainty="shown",
        what=f"{int(zero.sum())} of {len(zero)} parameter groups{facts.of(optimizer)} have learning rate 0 at every"
        f" step: {listed(names)} get gradients and do not move, {percentage(share)} of the trainable weights",
        optimizer=optimizer.name,
        parameters=tuple(names),
        steps=optimizer.span,
        evidence={
            "learning_rate": Quantity(0.0, "per step"),
            "entries": Quantity(share, "share of the optimizer's entries"),
        },
        cause="a group was given a learning rate of 0, or a schedule multiplies it by 0",
        remedy="give the group a learning rate; if it is meant to be frozen, requires_grad_(False) saves its backward",
        confirm="print the lr of each of optimizer.param_groups",
    )


def _never_updated(optimizer: OptimizerFacts) -> list[str]:
    """Parameters whose sampled updates are all exactly 0 while their gradients are not."""
    updates = optimizer.updates.to_numpy(float)
    if len(updates) < MIN_WEIGHT_SAMPLES or not len(optimizer.norms):
        return []
    still = ((updates == 0) | np.isnan(updates)).all(axis=0) & (updates == 0).any(axis=0)
    with_gradient = set(optimizer.norms.columns[(np.nan_to_num(optimizer.norms.to_numpy(float)) > 0).any(axis=0)])
    return [str(n) for n, zero in zip(optimizer.updates.columns, still, strict=True) if zero and n in with_gradient]


def hardly_moves(facts: Facts, optimizer: OptimizerFacts, told: Set[str]) -> Finding | None:
    """Updates that are not 0, and that all together move no matrix by a thousandth, while the loss stands.

    Not told beside a finding that names why the updates are so small; ``told``: the codes of this optimizer's.
    """
    if told & WHY_UPDATES_ARE_SMALL:
        return None
    made = int((~optimizer.skipped).sum())
    if made < MIN_STILL_STEPS or facts.is_imported or _loss_fell(optimizer.history.losses):
        return None
    ratios = optimizer.update_ratios
    if len(ratios) < MIN_WEIGHT_SAMPLES or not _has_usual_gradients(optimizer):
        return None
    moved = made * float(ratios.median().max())
    if not 0 < moved < STILL or float(ratios.max().max()) > STILL:  # one early update may have thrown the weights off
        return None
    rates = optimizer.frame["learning_rate"].to_numpy(float)
    rate = float(np.nanmax(rates)) if np.isfinite(rates).any() else None
    clipped = optimizer.frame["clipped"].mean() > HALF
    return Finding(
        code="clipped-to-nothing" if clipped else "learning-rate-zero",
        severity="warning",
        certainty="likely",
        what=f"all {made} updates{facts.of(optimizer)} together move no matrix by more than {number(moved, 1)} of its"
        " norm, and the loss stands: nothing is trained",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "moved": Quantity(moved, "share of a matrix's norm, the largest"),
            "learning_rate": Quantity(rate, "per step, the highest"),
        },
        cause="the clipping threshold leaves next to nothing of the gradient"
        if clipped
        else "the learning rate is far too small: a wrong power of ten, or a warm-up of more steps than the run has",
        remedy="use the threshold that `gradwatch recommend` gives, or none"
        if clipped
        else "print scheduler.get_last_lr() at the first and the last steps, and raise the rate or shorten the warm-up",
        confirm="compare the weights at the start and at the end",
    )


def _loss_fell(losses: Array) -> bool:
    if len(losses) < MIN_CONSTANT_LOSSES:
        return False
    parts = np.array_split(losses, 10)
    return is_above(parts[0], parts[-1])


def _has_usual_gradients(optimizer: OptimizerFacts) -> bool:
    """Whether small updates are not for want of gradients: of these other findings tell."""
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    return bool(len(norms)) and float(np.median(norms)) > USUAL_NORM


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zeros:
    """The norms of the steps that were made, 0 where they are next to nothing, and how many are 0."""

    norms: Array
    few: bool  # norms: too few to be sure
    is_gone: bool  # the gradient, of a policy that is stuck or of a loss that was not learnt

    @property
    def share(self) -> float:
        return float((self.norms == 0).mean())


def zero_gradients(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The total norm is exactly 0 at most steps, or next to nothing where a policy gets one reward for all."""
    if _losses_are_lost(optimizer) or _drops_gradients(optimizer) or _has_no_gradient_at_all(optimizer):
        return None
    zeros = _zeros_of(facts, optimizer)
    if zeros is None or (zeros.share < HALF and not zeros.is_gone):
        return None
    if facts.without_optimizer and _untrained_from(facts) is not None:
        return None  # the gradients went to parameters that no optimizer holds
    if facts.is_imported and not zeros.norms.any() and _moves(optimizer.history.losses):
        return _not_the_norm(facts, optimizer)
    gone_from = _gradient_gone_from(optimizer)
    when, why, confirm = f"at {percentage(zeros.share)} of the steps", _NO_INFLUENCE, _PRINT_INPUTS
    remedy = _LOOK_AT_INPUTS
    if gone_from is not None:
        when, why, confirm = f"from step {gone_from} to the end", _UNITS_DIED, _PRINT_UNITS
        remedy = _back_before(gone_from)
    return Finding(
        code="zero-gradients",
        severity=_severity_of_zeros(facts, optimizer, zeros),
        certainty="likely" if zeros.few else "shown",
        what=f"the gradient{facts.of(optimizer)} is {_nothing(optimizer)} {when}, so these steps train nothing",
        optimizer=optimizer.name,
        steps=optimizer.span if gone_from is None else (gone_from, int(optimizer.steps[-1])),
        evidence={
            "zero_gradient_steps": Quantity(zeros.share, "share of steps"),
            "total_norm_median": Quantity(float(np.median(zeros.norms)), "norm"),
        },
        cause=why,
        remedy=remedy,
        confirm=confirm,
    )


def _zeros_of(facts: Facts, optimizer: OptimizerFacts) -> _Zeros | None:
    """None: too few norms to judge; of an imported history two are enough if all are 0."""
    norms = chosen_of(optimizer.total_norm, ~optimizer.skipped & np.isfinite(optimizer.total_norm))
    is_stuck = _is_policy_stuck(optimizer)
    if is_stuck and len(norms):
        norms = np.where(norms > _next_to_no_norm(optimizer, norms), norms, 0.0)
    few = len(norms) < MIN_STEPS
    if few and not (facts.is_imported and len(norms) >= MIN_ZERO_ROWS and not norms.any()):
        return None
    is_gone = is_stuck and not norms[-max(MIN_LAST_REWARDS, len(norms) // 4) :].any()
    if facts.is_imported and not is_gone and _vanished(optimizer, norms):
        is_gone, norms = True, np.where(norms > GONE_NORM * np.median(norms[:MIN_GONE]), norms, 0.0)
    return _Zeros(norms=norms, few=few, is_gone=is_gone)


_NO_INFLUENCE = (
    "the loss does not depend on the parameters at these steps: equal rewards within every group (GRPO"
    " without advantage), a mask that hides every token, a saturated or clamped output, or a loss times 0"
)
_LOOK_AT_INPUTS = (
    "look at the inputs of the loss: vary the rewards or raise the sampling temperature, check the mask and"
    " the labels; neither clipping nor the learning rate matters here"
)
_UNITS_DIED = (
    "an update too large for the weights left every unit below 0, or saturated, for all inputs; or the loss does not"
    " depend on the parameters from there on"
)
_PRINT_INPUTS = "print the advantage, the sum of the mask, or the inputs of the loss at one step"
_PRINT_UNITS = "print the share of units above 0 after each activation, for one batch"


def _back_before(step: int) -> str:
    return (
        f"go back to a checkpoint from before step {step}, and look at the batch and the learning rate there; clipping"
        " limits such an update"
    )


def _gradient_gone_from(optimizer: OptimizerFacts) -> int | None:
    """The step from which every norm is exactly 0, of a training without rewards whose steps before had a gradient."""
    norms = optimizer.total_norm
    alive = np.flatnonzero(norms != 0)  # NaN is a gradient too
    if len(optimizer.history.rewards) or len(alive) < MIN_STEPS or len(norms) - alive[-1] <= MIN_ZERO_STEPS_AT_END:
        return None
    begin = int(alive[-1]) + 1
    return int(optimizer.steps[begin]) if len(alive) > MOST_STEPS * begin else None


def _losses_are_lost(optimizer: OptimizerFacts) -> bool:
    """Whether most gradients of exactly 0 stand beside a loss that is not finite, whose backward may give 0."""
    zero = ~optimizer.skipped & (optimizer.total_norm == 0)
    return bool((zero & optimizer.loss_nonfinite).sum() > HALF * zero.sum())


def _moves(losses: Array) -> bool:
    """Whether the losses fell by so much that something trains, or scatter so far that few can't tell that they don't.

    >>> _moves(np.array([2.1, 1.9, 1.8, 2.0, 1.8, 1.3, 1.5, 1.9])), _moves(np.array([209.0, 209, 208, 209, 209, 209]))
    (True, False)
    """
    if len(losses) < MIN_FALL_LOSSES or losses.min() <= 0:
        return False
    parts = np.array_split(losses, 3)
    first, _, last = medians(parts)
    if last < FALLEN * first or last < first - uncertainty(parts[0]) - uncertainty(parts[-1]):
        return True
    return len(losses) < MIN_CONSTANT_LOSSES and robust_deviation(losses) > SCATTER * float(np.median(losses))


def _not_the_norm(facts: Facts, optimizer: OptimizerFacts) -> Finding:
    """The log of a training that learns, or may learn, has a norm of 0 in every row."""
    losses = optimizer.history.losses
    first, _, last = medians(np.array_split(losses, 3))
    learns = last < FALLEN * first
    how = f"fell from {number(first)} to {number(last)}" if learns else f"moves between {_range(losses)}"
    says = "the log does not hold the gradient's norm"
    return Finding(
        code="zero-gradients",
        severity="info",
        certainty="likely" if learns else "possible",
        what=f"every norm{facts.of(optimizer)} in the log is 0 while the loss {how}: "
        + (says if learns else f"{says}, or nothing trains"),
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "loss_first": Quantity(first, "loss, median of the first third"),
            "loss_last": Quantity(last, "loss, median of the last third"),
        },
        cause="the norm is taken after the gradients are freed: an optimizer that steps within backward, layer by"
        " layer, as GaLore does",
        remedy="log the norm where the optimizer still has the gradients; nothing is known of this training's norms",
        confirm="print the norm of one parameter's gradient just before the optimizer's step",
    )


def _range(losses: Array) -> str:
    return f"{number(float(losses.min()))} and {number(float(losses.max()))}"


def _vanished(optimizer: OptimizerFacts, norms: Array) -> bool:
    """Whether the last quarter of the norms is next to nothing beside the first ones, over a loss that was not learnt.

    >>> from types import SimpleNamespace as Made
    >>> made = Made(history=Made(losses=np.full(8, 2.3), has_surrogate_loss=False))
    >>> _vanished(made, np.array([3.0, 2, 1, 2, 1e-7, 0, 1e-8, 0])), _vanished(made, np.full(8, 1e-3))
    (True, False)
    """
    losses, last = optimizer.history.losses, max(MIN_GONE, len(norms) // 4)
    if len(norms) < 2 * MIN_GONE or len(losses) < 2 * MIN_GONE or optimizer.history.has_surrogate_loss:
        return False
    is_gone = norms[-last:].max() <= GONE_NORM * np.median(norms[:MIN_GONE])
    return bool(is_gone and np.median(losses[-last:]) > UNLEARNT * np.median(losses[:MIN_GONE]))


def _is_policy_stuck(optimizer: OptimizerFacts) -> bool:
    """Whether a policy gets one and the same reward to the end, and none that is better than at the start.

    Or nearly one: the lowest of all in most rows, of the end as of all, and the others are no more than at first.
    """
    rewards = optimizer.history.rewards
    last = rewards[-max(MIN_LAST_REWARDS, len(rewards) // 4) :]
    if len(rewards) < 2 * MIN_LAST_REWARDS:
        return False
    return is_stuck_at_lowest(rewards) or bool(np.ptp(last) == 0 and last[0] <= np.median(rewards[:MIN_LAST_REWARDS]))


def _next_to_no_norm(optimizer: OptimizerFacts, norms: Array) -> float:
    """The norm of a policy that is stuck at which nothing is left: a thousandth of the first norms.

    Where its reward is stuck at the lowest of all, no policy is solved, and the few rows with another reward show what
    a gradient with an advantage is: a hundredth of it is what rounding, an entropy bonus or a penalty leaves.
    """
    rewards = optimizer.history.rewards
    least = NEXT_TO_NO_NORM * float(np.median(norms[:MIN_FIRST_NORMS]))
    is_better = rewards > rewards.min()
    if len(rewards) != len(norms) or not is_better.any() or not (is_stuck_at_lowest(rewards) or not is_better[-1]):
        return least
    return max(least, LITTLE_NORM * float(np.median(norms[is_better])))


def _nothing(optimizer: OptimizerFacts) -> str:
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    return "exactly 0" if (norms == 0).mean() >= HALF else "next to nothing"


def _severity_of_zeros(facts: Facts, optimizer: OptimizerFacts, zeros: _Zeros) -> Severity:
    """Information where the other steps of an imported history train, or of the few of a recording."""
    if zeros.share >= MOST_STEPS:
        return "warning" if zeros.few else "critical"
    if not facts.is_imported:
        return "info" if len(optimizer.frame) < FEW_STEPS else "warning"
    return "info" if not zeros.few and _others_train(optimizer, zeros.share) else "warning"


def _others_train(optimizer: OptimizerFacts, share: float) -> bool:
    """Whether the rows of an imported history that have a gradient train.

    A row of it has the norm of one step and the loss of several: with batches of one sample, those that are already
    learnt have a gradient of 0, and so has a step whose groups got equal rewards. A policy that is all but solved has
    few others; its reward tells.
    """
    rewards, losses = optimizer.history.rewards, optimizer.history.losses
    if len(rewards) >= 2 * MIN_LAST_REWARDS:
        return not _is_policy_stuck(optimizer) and fall_of(rewards) is None
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    if share < MANY_ZEROS and norms[-max(MIN_END, len(norms) // 10) :].any():
        return True
    is_judged = len(losses) >= MIN_LEARNT_LOSSES and not optimizer.history.has_surrogate_loss
    return is_judged and optimizer.history.loss_levels[-1] < HALF * first_loss(losses)


def _has_no_gradient_at_all(optimizer: OptimizerFacts) -> bool:
    return bool(len(optimizer.present)) and not optimizer.present.to_numpy().any()


def constant_loss(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Every logged loss is the same number."""
    losses = optimizer.history.losses
    if len(losses) < MIN_CONSTANT_LOSSES or losses.min() != losses.max():
        return None
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    rewards = optimizer.history.rewards
    moves = bool((norms > 0).any() if optimizer.has_norms else len(rewards) and np.ptp(rewards) > 0)
    if facts.is_imported and moves and float(f"{losses[0]:.0e}") == float(f"{losses[0]:.6g}"):
        # Rounded to one digit (a float32 holds 6), or 0, as a surrogate is on the samples of its own policy.
        return None
    return Finding(
        code="constant-loss",
        severity="warning" if moves or not optimizer.has_norms else "critical",
        certainty="shown",
        what=f"the loss{facts.of(optimizer)} is exactly {number(losses[0], 6)} at all {len(losses)} steps that have"
        " one",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "loss": Quantity(float(losses[0]), "loss"),
            "losses": Quantity(len(losses), "steps"),
            "total_norm_max": Quantity(float(norms.max()) if len(norms) else None, "norm"),
        },
        cause="the script logs another number than the loss it trains on"
        if moves
        else "the loss does not depend on the model: one class only, targets that are all masked, a loss of constants",
        remedy="log the loss that backward is called on"
        if moves
        else "check the targets, the number of outputs and the reduction of the loss",
        confirm="print the loss and the targets of two different batches",
    )


def stale_optimizer(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report an optimizer whose parameters belong to no module, or to another than the one trained on."""
    is_another = optimizer.trained_instead is not None
    if not len(optimizer.present) and not _only_unnamed(optimizer) and not is_another:
        return None
    absent, gone_from = _never_present(optimizer), None
    if not absent and facts.without_optimizer:
        absent, gone_from = _absent_since(optimizer)
    stale = [name for name in absent if is_another or _is_gone(facts, name)]
    if not stale:
        return None
    share = _share_of_entries(optimizer, absent)
    if share < HALF:
        return None
    lack = "never get a gradient" if gone_from is None else f"get no gradient from step {gone_from} on"
    return Finding(
        code="stale-optimizer",
        severity="critical" if share >= MOST_STEPS else "warning",
        certainty="shown" if facts.without_optimizer else "likely",
        what=f"{facts.by(optimizer)} holds parameters that {lack} ({listed(stale)}), while another"
        f" {optimizer.trained_instead} of the same shapes, which no optimizer holds, gets gradients: it is not trained"
        if is_another
        else f"{facts.by(optimizer)} holds parameters that are not the model's ({listed(stale)}) and {lack}:"
        " the model is not trained",
        optimizer=optimizer.name,
        parameters=(*facts.without_optimizer, *stale),
        steps=optimizer.span if gone_from is None else (gone_from, int(optimizer.steps[-1])),
        evidence={
            "entries_without_gradient": Quantity(share, "share of the optimizer's entries"),
            "parameters_without_optimizer": Quantity(len(facts.without_optimizer), "parameters"),
        },
        cause="the script replaced parameters after it created the optimizer: a new head, resized embeddings, pruning,"
        " weights that were loaded with assign=True, or a model that it copied, wrapped or loaded again",
        remedy="create the optimizer after the last change to the model; for a layer that is added later, pass its"
        " parameters to optimizer.add_param_group, and for a model that is replaced, create an optimizer with it",
        confirm="compare the ids of model.parameters() with those of optimizer.param_groups",
    )


def _only_unnamed(optimizer: OptimizerFacts) -> bool:
    return bool(optimizer.names) and all(_is_unnamed(name) for name in optimizer.names)


def _is_unnamed(name: str) -> bool:
    """Whether a parameter belongs to no module: then it is named by its group and position."""
    return name.startswith("group")


def _is_gone(facts: Facts, name: str) -> bool:
    """Whether a parameter without a gradient is no longer the model's: another that no optimizer holds has its name."""
    return _is_unnamed(name) or name in facts.without_optimizer


def _never_present(optimizer: OptimizerFacts) -> list[str]:
    """Parameters that had no gradient at any sampled step, though they have entries and require one."""
    if not len(optimizer.present):
        names = optimizer.names if len(optimizer.frame) >= MIN_STEPS and _norms_are_zero(optimizer) else []
    else:
        names = [str(name) for name in optimizer.present.columns[~optimizer.present.any(axis=0).to_numpy()]]
    by_design = optimizer.frozen | _empty(optimizer)
    return [name for name in names if name not in by_design]


def _absent_since(optimizer: OptimizerFacts) -> tuple[list[str], int | None]:
    """The parameters of an optimizer none of which has a gradient from some step to the end, and that step."""
    gone_from = _gradient_gone_from(optimizer)
    if gone_from is None:
        return [], None
    later = optimizer.present[optimizer.present.index >= gone_from].to_numpy()
    if not len(later) or later.any():
        return [], None
    by_design = optimizer.frozen | _empty(optimizer)
    return [name for name in optimizer.names if name not in by_design], gone_from


def _norms_are_zero(optimizer: OptimizerFacts) -> bool:
    return optimizer.has_norms and not (np.nan_to_num(optimizer.total_norm) > 0).any()


def _share_of_entries(optimizer: OptimizerFacts, names: list[str]) -> float:
    """Of the entries that are to be trained."""
    pairs = zip(optimizer.names, optimizer.entries, strict=True)
    sizes = {name: entries for name, entries in pairs if name not in optimizer.frozen}
    total = float(sum(sizes.values()))
    return sum(sizes.get(name, 0.0) for name in names) / total if total else 0.0


def no_gradient(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Trainable parameters that never get a gradient."""
    if len(optimizer.frame) < MIN_STEPS or facts.is_imported or _is_stepped_by_another(facts, optimizer):
        return None
    absent = [name for name in _never_present(optimizer) if not _is_gone(facts, name)]
    if not absent:
        return None
    share = _share_of_entries(optimizer, absent)
    kinds = _whole_kinds(optimizer.names, absent)
    whole = f"every parameter called {listed(kinds)}" if kinds else listed(absent)
    gets = "get" if len(absent) > 1 and not kinds else "gets"
    return Finding(
        code="no-gradient",
        severity=_severity_of_absence(share, is_notable=share >= NOTABLE_ENTRIES or bool(kinds)),
        certainty="shown",
        what=f"{whole}{facts.of(optimizer)} never {gets} a gradient: {len(absent)} of"
        f" {len(set(optimizer.names) - optimizer.frozen)}"
        f" parameters, {percentage(share)} of the trainable weights, are not trained",
        optimizer=optimizer.name,
        parameters=tuple(absent),
        steps=optimizer.span,
        evidence={
            "parameters_without_gradient": Quantity(len(absent), "parameters"),
            "entries_without_gradient": Quantity(share, "share of the optimizer's entries"),
        },
        cause="the loss does not depend on them: a detach or no_grad in between, reentrant checkpointing of blocks"
        " whose inputs need no gradient, an unused branch or expert, or an ignored output",
        remedy="remove the detach, use checkpoint(..., use_reentrant=False) or model.enable_input_require_grads(), or"
        " leave the parameters out of the optimizer if they are not meant to train",
        confirm="after one backward, list the names whose grad is None",
    )


def frozen_throughout(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """An optimizer beside others steps, and every parameter that it holds is frozen."""
    made = len(optimizer.frame)
    if made < MIN_STEPS or not optimizer.has_rivals or not set(optimizer.names) <= optimizer.frozen:
        return None
    if not _norms_are_zero(optimizer) or optimizer.present.to_numpy().any():
        return None  # they were thawed later
    return Finding(
        code="no-gradient",
        severity="warning",
        certainty="shown",
        what=f"every parameter{facts.of(optimizer)} is frozen (requires_grad is False), so that its {made} steps train"
        " nothing",
        optimizer=optimizer.name,
        parameters=tuple(optimizer.names[:8]),
        steps=optimizer.span,
        evidence={
            "parameters_without_gradient": Quantity(len(optimizer.names), "parameters"),
            "steps": Quantity(made, "steps"),
        },
        cause="the script freezes them, for example for the update of another network, and does not thaw them again",
        remedy="call requires_grad_(True) on them before this optimizer's own backward, or leave out its step",
        confirm="print requires_grad of its parameters just before its step",
    )


def _severity_of_absence(share: float, *, is_notable: bool) -> Severity:
    if share >= MOST_STEPS:
        return "critical"
    return "warning" if is_notable else "info"


def _whole_kinds(names: list[str], absent: list[str]) -> list[str]:
    """The last parts of names of which every parameter is absent and there are several: adapters, experts.

    >>> _whole_kinds(["0.lora_A", "1.lora_A", "head"], ["0.lora_A", "1.lora_A"])
    ['lora_A']
    >>> _whole_kinds(["0.weight", "1.weight", "2.weight"], ["0.weight", "1.weight"])
    []
    """
    kinds = [name.rpartition(".")[2] for name in absent]
    left = {name.rpartition(".")[2] for name in set(names) - set(absent)}
    several = (kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1)
    return [kind for kind in several if kind not in left | {"weight", "bias"}]


def parameters_without_optimizer(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report parameters with gradients that no optimizer holds; once, with the first optimizer."""
    if not facts.without_optimizer or optimizer is not facts.optimizers[0]:
        return None
    names = facts.without_optimizer
    untrained = _untrained_from(facts)
    what = (
        f"{listed(names)} {'gets a gradient' if len(names) == 1 else 'get gradients'}, but no optimizer holds"
        f" {'it' if len(names) == 1 else 'them'}"
    )
    if untrained is not None:
        begin = "no" if untrained == int(optimizer.steps[0]) else f"from step {untrained} on no"
        what += f"; {begin} parameter that an optimizer holds gets one, so nothing is trained"
    return Finding(
        code="parameters-without-optimizer",
        severity="warning" if untrained is None else "critical",
        certainty="shown",
        what=what,
        parameters=names,
        steps=None if untrained is None else (untrained, int(optimizer.steps[-1])),
        evidence={"parameters_without_optimizer": Quantity(len(names), "parameters")},
        cause="the script gave the optimizer only a part of the model, added these parameters after creating it, or"
        " keeps them in a plain list or dict, which model.parameters() does not look into",
        remedy="pass model.parameters() to the optimizer, with lists of layers in an nn.ModuleList, or freeze these"
        " parameters with requires_grad_(False)",
        confirm="compare the ids of model.parameters() with those of optimizer.param_groups",
    )


def _untrained_from(facts: Facts) -> int | None:
    """The step of the first optimizer from which on no optimizer's parameters get a gradient, up to the end."""
    first = None
    for optimizer in facts.optimizers:
        trained = np.flatnonzero(optimizer.total_norm != 0)  # NaN is a gradient too
        begin = int(trained[-1]) + 1 if len(trained) else 0
        made = len(optimizer.steps)
        least = max(MIN_ZERO_STEPS_AT_END, ZERO_SHARE_AT_END * made) if len(trained) else MIN_STEPS
        if made - begin < least:
            return None
        first = int(optimizer.steps[begin]) if first is None else first
    return first


def updates_below_precision(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report low-precision weights of which almost no entry moves, because updates round to nothing.

    An update of size u moves the entries smaller than about 2^p u, p being the bits of the significand. Of normally
    distributed weights of size s that is a share f = sqrt(2 / pi) 2^p u / s, and the norm of the change that is left
    is r = sqrt(f) u / s of the weights'. So a recorded ratio r tells f = (sqrt(2 / pi) 2^p r)^(2/3).

    Where the loss stands, more entries may move, and the cause is likely instead of shown.
    """
    moved = _moved_share(optimizer)
    if moved is None or moved > (FEW_MOVED_ENTRIES if _loss_stands(optimizer) else MOVED_ENTRIES):
        return None
    dtype = next(info.dtype for info in optimizer.parameters if _bits(info.dtype))
    return Finding(
        code="updates-below-precision",
        severity="critical" if moved < MOVED_ENTRIES / 10 else "warning",
        certainty="shown" if moved == 0 else "likely",
        what=f"updates{facts.of(optimizer)} are smaller than the spacing of {dtype} numbers: about {percentage(moved)}"
        " of the entries move at a step",
        optimizer=optimizer.name,
        parameters=tuple(info.name for info in optimizer.parameters if _bits(info.dtype))[:8],
        steps=optimizer.span,
        evidence={
            "moved_entries": Quantity(moved, "share of entries, estimated"),
            "spacing": Quantity(2.0 ** -_bits(dtype), "of a weight's magnitude"),
        },
        cause=f"the weights are stored in {dtype}, and learning rate times update rounds to no change",
        remedy="keep the weights in float32 and compute in low precision (torch.autocast), or use an optimizer with"
        " stochastic rounding or Kahan summation; raise the learning rate only if it is too low anyway",
        confirm="count the entries that differ before and after one step",
    )


def _loss_stands(optimizer: OptimizerFacts) -> bool:
    """Whether enough losses are known that show progress, and none was made."""
    history = optimizer.history
    shows_progress = len(history.losses) >= MIN_LEARNT_LOSSES and not history.has_surrogate_loss
    return shows_progress and not optimizer.has_rivals and not _loss_fell(history.losses)


def _bits(dtype: str) -> int:
    return LOW_PRECISION.get(dtype.removeprefix("torch."), 0)


def _moved_share(optimizer: OptimizerFacts) -> float | None:
    """About which share of the low-precision entries moves at the median sampled step; None: not known."""
    low = [info for info in optimizer.parameters if _bits(info.dtype) and info.name in optimizer.updates.columns]
    if not low or len(optimizer.updates) < MIN_WEIGHT_SAMPLES:
        return None
    names = [info.name for info in low]
    common = optimizer.updates.index.intersection(optimizer.weights.index)
    made = common.isin(optimizer.steps[~optimizer.skipped & (np.nan_to_num(optimizer.total_norm) > 0)])
    updates, weights = (
        table.loc[common[made], names].to_numpy(float) for table in (optimizer.updates, optimizer.weights)
    )
    sizes = np.array([float(info.numel) for info in low])
    scale = np.array([2.0 ** _bits(info.dtype) for info in low])
    usable = np.isfinite(weights) & (weights > 0) & np.isfinite(updates)
    if usable.sum() < MIN_WEIGHT_SAMPLES:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.minimum(1.0, (math.sqrt(2 / math.pi) * scale * updates / weights) ** (2 / 3))
    share[~usable] = np.nan
    weighted = np.nansum(share * sizes, axis=1) / np.maximum((usable * sizes).sum(axis=1), 1.0)
    return float(np.median(weighted[usable.any(axis=1)]))


def gradients_accumulate(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a loop in which backward adds to the gradients of the step before, at most steps."""
    carried = optimizer.carried_steps
    made = len(optimizer.frame)
    if _drops_gradients(optimizer):
        return None  # what backward adds to is 0
    if carried is None or made < MIN_STEPS or carried < NOT_ZEROED_STEPS * (made - 2):
        return _mixed_gradients(facts, optimizer)
    never, part = carried >= MOST_STEPS * (made - 2), listed(optimizer.carried_in)
    which = f" of {part}" if part else ""
    return Finding(
        code="gradients-accumulate",
        severity="warning",
        certainty="shown",
        what=f"gradients{which}{facts.of(optimizer)} are {'never zeroed' if never else 'not zeroed at each step'}: at"
        f" {carried} of {made} steps backward added to the gradients of the steps before",
        optimizer=optimizer.name,
        parameters=optimizer.carried_in,
        steps=optimizer.span,
        evidence={
            "carried_steps": Quantity(carried, "steps"),
            "backward_passes_per_zero_grad": Quantity(made, "backward passes, at least"),
        },
        cause=f"the loop zeroes a part of the model, without {part}, whose gradients include all earlier ones"
        if part
        else "the loop never calls zero_grad, so each gradient includes all earlier ones"
        if never
        else "the loop calls zero_grad more seldom than step, so gradients of several steps add up",
        remedy="call optimizer.zero_grad() once per update, before backward; if you accumulate, after each step",
        confirm="print p.grad after zero_grad; without zero_grad, the total norm grows with the number of steps",
    )


def _mixed_gradients(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report gradients that the update of another optimizer leaves behind, and that the next step takes along."""
    mixed, made = optimizer.mixed_steps, len(optimizer.frame)
    if mixed is None or made < MIN_STEPS or mixed < MIXED_STEPS * made:
        return None
    return Finding(
        code="gradients-accumulate",
        severity="warning",
        certainty="likely",
        what=f"the gradients{facts.of(optimizer)} include those of another optimizer's loss: at {mixed} of {made} steps"
        " backward added to what the backward before another optimizer's step had left",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={"mixed_steps": Quantity(mixed, "steps")},
        cause="the loss of another network goes through these parameters, as a generator's does through its"
        " discriminator, and they are zeroed before that instead of after",
        remedy="call this optimizer's zero_grad() just before its own backward, or set requires_grad_(False) on its"
        " parameters while the other network is updated",
        confirm="print p.grad of one of its parameters just before its own backward: it should be None or 0",
    )


def dead_parameters(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report parameters whose gradient stays at exactly 0, found by the detector or over the whole run.

    In a few steps that is information: a part of the loss may join later.
    """
    dead = _dead_of(optimizer)
    if not dead.names:
        return None
    share_whole = _share_of_entries(optimizer, dead.whole)
    share_units = sum(share * _share_of_layer(optimizer, bias) for bias, share in dead.units.items())
    share = min(1.0, share_whole + share_units)
    lasts = bool(dead.events) or len(optimizer.frame) >= FEW_STEPS
    is_notable = share_whole >= NOTABLE_ENTRIES or (share >= NOTABLE_ENTRIES and _ends_as_it_began(optimizer))
    return Finding(
        code="dead-parameters",
        severity="warning" if is_notable and lasts else "info",
        certainty="shown",
        what=f"{_without_gradient(facts.of(optimizer), dead)}: {percentage(share)} of the weights do not learn",
        optimizer=optimizer.name,
        parameters=dead.names,
        steps=(min([e.step for e in dead.events], default=int(optimizer.steps[0])), int(optimizer.steps[-1])),
        evidence={
            "entries": Quantity(share, "share of the optimizer's entries"),
            "parameters": Quantity(len(dead.names), "parameters"),
        },
        cause="units that are off for every input (ReLU below 0, saturated outputs), or a path that the model"
        " multiplies by 0",
        remedy="use a smaller learning rate, an initial bias nearer 0, normalisation before the activation, or an"
        " activation with a slope below 0; clipping does not help",
        confirm="look at the activations that these parameters feed",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dead:
    """What gets no gradient: parameters, and of layers a share of their units."""

    names: tuple[str, ...]
    units: dict[str, float]  # of these, biases of layers of which a share of the units is dead
    events: list[Event]

    @property
    def whole(self) -> list[str]:
        return [name for name in self.names if name not in self.units]


def _dead_of(optimizer: OptimizerFacts) -> _Dead:
    warned = (event for event in optimizer.events if event.kind == "dead" and event.severity != "info")
    events = [event for event in warned if not _came_alive(optimizer, event)]
    named = [event for event in events if event.parameter]
    units = {str(event.parameter): event.observed or 0.0 for event in named if event.limit}
    names = tuple(dict.fromkeys([*_dead(optimizer), *(str(event.parameter) for event in named)]))
    return _Dead(names=names, units=units, events=events)


def _without_gradient(of: str, dead: _Dead) -> str:
    """``of``: how the sentence names the optimizer."""
    said = [f"the gradient of {listed(dead.whole)}{of} is exactly 0"] if dead.whole else []
    if dead.units:
        least = percentage(min(dead.units.values()))
        layers = listed([bias.rpartition(".")[0] or bias for bias in dead.units])
        said.append(f"at least {least} of the units of {layers}{of} get no gradient")
    return ", and ".join(said)


def _share_of_layer(optimizer: OptimizerFacts, bias: str) -> float:
    """Of a bias and the weight beside it: a unit without a gradient trains no row of either."""
    return _share_of_entries(optimizer, [bias, f"{bias.removesuffix('bias')}weight"])


def _ends_as_it_began(optimizer: OptimizerFacts) -> bool:
    """Whether enough losses are known that show progress, and the last ones are hardly below the first."""
    history = optimizer.history
    if len(history.losses) < MIN_LEARNT_LOSSES or history.has_surrogate_loss or optimizer.has_rivals:
        return False
    return bool(history.loss_levels[-1] > ENDS_AS_IT_BEGAN * history.losses[0] > 0)


def _came_alive(optimizer: OptimizerFacts, event: Event) -> bool:
    """Whether a parameter has had gradients at most steps since it had none, as a branch that joins later."""
    if event.until is None or event.parameter not in optimizer.norms.columns:
        return False
    norms = optimizer.norms.loc[optimizer.norms.index > event.until, event.parameter].to_numpy(float)
    return len(norms) >= MIN_STEPS and float((np.nan_to_num(norms) > 0).mean()) > HALF


def _dead(optimizer: OptimizerFacts) -> list[str]:
    """Parameters whose gradient existed at most sampled steps and was always exactly 0, while others were not."""
    if len(optimizer.norms) < MIN_STEPS:
        return []
    norms, present = optimizer.norms.to_numpy(float), optimizer.present.to_numpy()
    if norms.shape != present.shape or not (np.nan_to_num(norms) > 0).any():
        return []
    zero = (present.mean(axis=0) > HALF) & ~(np.where(present, np.nan_to_num(norms, nan=1.0), 0.0) > 0).any(axis=0)
    empty = _empty(optimizer)
    return [str(name) for name in optimizer.norms.columns[zero] if str(name) not in empty]


def _empty(optimizer: OptimizerFacts) -> set[str]:
    """Parameters without entries: they have nothing to learn, and no gradient says so."""
    return {info.name for info in optimizer.parameters if not info.numel}


RULES = (
    no_steps,
    all_steps_skipped,
    gradients_dropped,
    learning_rate_zero,
    group_without_rate,
    zero_gradients,
    constant_loss,
    stale_optimizer,
    no_gradient,
    frozen_throughout,
    parameters_without_optimizer,
    updates_below_precision,
    gradients_accumulate,
    dead_parameters,
)
# These ask what the other rules found.
LAST_RULES = (hardly_moves,)
