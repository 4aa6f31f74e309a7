"""The sentences of a recommendation, from its numbers."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.diagnosis import WHICH_THRESHOLD, Finding
from gradwatch.analysis.recommend.rule import (
    EQUAL_RATIO,
    EQUAL_WEIGHT_SHARE,
    MAX_UPDATE_RATIO,
    RISING_DRIFT,
    TRAVEL_NORMS,
    UNEVEN_P99_RATIO,
    Choice,
    unclipped_update_ratio,
    weight_norm_at_best,
    weight_size,
)
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.progress import drift, has_risen, is_undone
from gradwatch.text import count, number, share

HEAVY, LIGHT = 2.0, 4.0  # tail indices: below the first single steps dominate, above the second clipping changes little


def left_out(history: OptimizerHistory) -> str:
    """Which steps do not count."""
    return f"the first {history.warm_up} as warm-up" + (", and those around events" if history.events else "")


def reasons(
    history: OptimizerHistory,
    choice: Choice,
    max_norm: float,
    tail: tuple[float, float, float],
    is_lost: bool = False,
) -> tuple[str, ...]:
    """Why this threshold, the most important reason first.

    Args:
        history: of the optimizer.
        choice: of the threshold.
        max_norm: the threshold as it is shown.
        tail: the tail index of the norms, and its interval.
        is_lost: as `explain`.
    """
    found = [
        f"the healthy level is {number(float(np.median(history.norms)))}: the median total norm of"
        f" {len(history.norms)} usable steps of {history.steps} (left out: {left_out(history)})",
        _sampling(history),
        _instability(history),
        f"{number(max_norm, 6)}: {explain(history, choice, is_lost)}",
        _tail(tail),
        _optimizer(history, max_norm),
        _drift(history),
        _threshold_in_force(history),
    ]
    return tuple(sentence for sentence in found if sentence is not None)


def _sampling(history: OptimizerHistory) -> str | None:
    if history.every == 1:
        return None
    return f"only one of {history.every} steps was recorded; the steps between are not known"


def _instability(history: OptimizerHistory) -> str | None:
    if history.lost_at is not None:
        kind = "explosion" if history.lost_at.kind == "explosion" else "non-finite gradients"
        return f"the training was lost at step {history.lost_at.step} ({kind})"
    if history.spikes:
        which = "" if history.spikes == 1 else "the largest "
        largest = history.largest_spike
        return _raised(history) + ("" if largest is None else f", {which}with a norm of {number(largest)}")
    return None


def _spikes(history: OptimizerHistory) -> str:
    return "1 spike" if history.spikes == 1 else f"{history.spikes} spikes"


def _raised(history: OptimizerHistory) -> str:
    """The spikes with an event of their own. A finding may list more, which the live detectors let pass."""
    return f"{_spikes(history)} raised an event" + ("" if history.spikes == 1 else " each")


def _tail(tail: tuple[float, float, float]) -> str:
    index, low, high = tail
    span = f"tail index {index:.1f} [{low:.1f}, {high:.1f}]"
    if high < HEAVY:
        return f"{span}: single steps dominate the sum of squares, so clipping helps"
    if low > LIGHT:
        return f"{span}: the norms have a light tail, so clipping changes little"
    return f"{span}: the norms have a moderate tail"


def _optimizer(history: OptimizerHistory, max_norm: float) -> str:
    name = history.optimizer_class or "the optimizer"
    if history.has_fixed_size:
        return (
            f"{name} makes updates of the same size for a gradient of any size: a threshold does not bound an update,"
            " it bounds how much one step turns the direction of the next ones"
        )
    if history.is_adaptive:
        return (
            f"{name} divides by the size of its gradients: a threshold that acts at most steps normalises them,"
            " and one that acts rarely protects the running averages from single steps"
        )
    if history.update_rule is None:
        return f"it is not known whether the update of {name} follows the size of its gradient"
    if history.learning_rate is None:
        return f"{name} follows the size of its gradient: the threshold bounds every update"
    bound = history.learning_rate * max_norm / (1 - history.momentum)
    return (
        f"{name} follows the size of its gradient: at learning rate {number(history.learning_rate, 6)} no update moves"
        f" the weights by more than {number(bound, 2)}"
    )


def _drift(history: OptimizerHistory) -> str | None:
    moved = drift(history.norms)
    if 1 / RISING_DRIFT < moved < RISING_DRIFT:
        return None
    text = f"the median norm changed by a factor of {number(moved, 2)} from the first third of these steps to the last"
    if moved > 1:
        text += "; the advice is based on the last third alone, and a longer run may lead to another"
    return text


def _threshold_in_force(history: OptimizerHistory) -> str | None:
    thresholds = history.frame["max_norm"].dropna()
    if not len(thresholds):
        return None
    clipped = share(float(history.frame["clipped"].mean()))
    return f"the run was clipped at {number(thresholds.iloc[-1], 6)}, at {clipped} of its steps"


# --------------------------------------------------------------------------- why this threshold


def explain(history: OptimizerHistory, choice: Choice, is_lost: bool = False) -> str:
    """What the threshold is, and why that; ``is_lost``: a finding says so where neither norms nor loss leapt."""
    if choice.basis == "equal-weight":
        return (
            f"{number(EQUAL_WEIGHT_SHARE, 6)} of the healthy level, below nearly every norm: the momentum then gives"
            " each step the same weight. In the benchmark fixed thresholds did better here than policies that follow"
            " the norms"
        )
    if choice.basis in ("clip-every-step", "towards-every-step", "guard-p95", "guard-p95-near-eps"):
        return _explain_adaptive(history, choice, is_lost)
    if choice.basis.startswith("guard"):
        return _explain_guard(history, choice, is_lost)
    if choice.basis == "noise":
        return (
            "the loss makes no more progress and single steps dominate its gradient, so the rest is noise: a low"
            f" threshold averages it out, and updates can still carry the weights {number(TRAVEL_NORMS, 6)} times"
            " their norm within the recorded number of steps"
        )
    if choice.basis == "norms-alone":
        return _explain_norms_alone(history, choice, is_lost)
    fault = _fault(history, choice)
    if choice.basis == "twice-p99":
        return f"{fault}; it is twice the 99th percentile of the healthy norms"
    if choice.basis == "p75":
        return f"the 75th percentile of the healthy norms: {fault}, and this is below them"
    return f"{fault}; {_bound(history)}, regardless of the recorded norms"


def _fault(history: OptimizerHistory, choice: Choice) -> str:
    if choice.cause == "weights-grew":
        return f"the weights grew from a norm of {number(history.weight_norm)} to {number(history.last_weight_norm)}"
    if choice.cause == "large-updates":
        return f"the median update changes the weights by {share(history.update_ratio)}"
    if choice.cause == "lost":
        if history.lost_at is not None or history.ended_nonfinite:
            return "the training was lost"
        return "the loss rose again" if has_risen(history) else "the loss has not fallen"
    return {
        "heavy-tail": "single steps are far larger than the others",
        "outliers": f"more than one step in a hundred is at least {number(UNEVEN_P99_RATIO, 6)} times its neighbours",
    }[str(choice.cause)]


def _bound(history: OptimizerHistory) -> str:
    """The effect of a threshold at the bound on one update."""
    start, best = history.weight_norm, weight_norm_at_best(history)
    assert start is not None
    kept = (
        f"at learning rate {number(history.learning_rate, 6)} it keeps every update within {share(MAX_UPDATE_RATIO)}"
        " of the weights' norm"
    )
    if 1 / EQUAL_RATIO < best / start < EQUAL_RATIO:
        return f"{kept} of {number(start)}"
    size = number(weight_size(history))
    return f"{kept} of {size}, between {number(start)} at the start and {number(best)} at the lowest loss"


def _explain_adaptive(history: OptimizerHistory, choice: Choice, is_lost: bool) -> str:
    if choice.basis == "guard-p95-near-eps":
        return (
            "the 95th percentile of the healthy norms: clipping every step would give each the same weight, but"
            " would bring gradients near eps"
        )
    if choice.basis == "towards-every-step":
        passed = f"{_raised(history)}, and the training came back" if history.spikes else ""
        uneven = "norms differ from step to step" if choice.cause == "uneven" else ""
        return (
            "between the 95th percentile of the healthy norms, a guard, and a tenth of the 10th, which clips every"
            f" step: {passed or uneven}"
        )
    if choice.basis == "guard-p95":
        return (
            f"the 95th percentile of the healthy norms: {_nothing_leapt(history, is_lost)}, so it is a guard that holds"
            " back the five largest steps of a hundred. A threshold that follows the norms, as ZClip's does, did better"
            " in 18 cells of the benchmark with Adam, but not in five calm ones that came later, where 1.0 did best"
        )
    cause = "norms differ a lot from step to step"
    if choice.cause == "lost":
        is_lost = history.lost_at is not None or is_undone(history)
        cause = _fault(history, choice) if is_lost else _raised(history)
    text = (
        f"a tenth of the 10th percentile: {cause}; {history.optimizer_class} divides by the size of its gradients,"
        " so clipping every step gives each the same weight and leaves the learning rate as it is; any threshold"
        " that every step exceeds does the same"
    )
    if choice.clip is not None:
        text += ". In the benchmark a threshold that follows the norms, as AutoClip's does, did better"
    return text


def _explain_guard(history: OptimizerHistory, choice: Choice, is_lost: bool) -> str:
    passed = f"{_spikes(history)} passed without harm" if history.spikes else _nothing_leapt(history, is_lost)
    if choice.basis == "guard-large-updates":
        changes = "changes" if history.median_clip_coef > 1 / EQUAL_RATIO else "would change"
        without = "" if changes == "changes" else " without clipping"
        return (
            f"{passed}, but the median update {changes} the weights by"
            f" {share(unclipped_update_ratio(history))}{without}, which is a lot: {_bound(history)}"
        )
    if choice.basis == "guard-given-p90":
        return f"{passed}, so it is a guard: the 90th percentile of the norms that the optimizer was given"
    momentum = ", with the accumulated momentum of independent steps" if history.momentum else ""
    return f"{passed}, so it is a guard: {_bound(history)}{momentum}"


def _nothing_leapt(history: OptimizerHistory, is_lost: bool) -> str:
    if is_lost:
        return "no single step shows what went wrong"
    return "norms and loss stayed calm" if len(history.losses) else "the norms stayed calm (the loss is not known)"


def _explain_norms_alone(history: OptimizerHistory, choice: Choice, is_lost: bool) -> str:
    why = {
        "lost": "low enough to hold back what went wrong",
        "outliers": "single steps are far larger than the others, and this is below them",
        "None": f"{_nothing_leapt(history, is_lost)}, so it is a guard that holds back the largest steps",
    }[str(choice.cause)]
    if history.update_rule is None and history.weight_norm is not None:
        return (
            f"the {choice.percentile}th percentile of the healthy norms, {why}. The update rule of this"
            " optimizer is unknown, so the advice rests on the norms alone"
        )
    return (
        f"the {choice.percentile}th percentile of the healthy norms, {why}. The right threshold depends on the"
        " learning rate and the size of the weights, which this history lacks: `gradwatch.attach` records"
        " both"
    )


def fix_first(finding: Finding) -> str:
    """A finding in one sentence, as something to change before clipping.

    The reader needs no pointer to the command that he has just called.
    """
    return f"{finding.what}: {finding.remedy}".replace(WHICH_THRESHOLD, "")


# ----------------------------------------------------------------------------------- the refusals


def hopeless(finding: Finding) -> str:
    """No threshold would have prevented this fault. Its remedy stands with the finding, beside the advice."""
    return f"{finding.what}. No clipping threshold would have prevented that"


NO_NORMS = "the history has no gradient norm, and a threshold is one: log what `clip_grad_norm_` returns"

AFTER_CLIPPING = (
    "only norms after clipping were recorded: they end at the old threshold and say nothing about a new one"
    " (`gradwatch explain norms-after-clipping`)"
)


def not_finite(history: OptimizerHistory) -> str:
    """Too many steps are not finite."""
    return f"{history.nonfinite} of {history.steps} steps are not finite"


def drifting(moved: float) -> str:
    """The norms drift by the factor ``moved``, further than one threshold can cover."""
    return (
        f"the norm drifts: its median changed by a factor of {number(moved, 2)} from the first to the last third of the"
        " usable steps, further than one threshold can cover; it takes a longer run, past its warm-up, or a policy"
        " that follows the level, for example gradwatch.clip.AutoClip(95)"
    )


def too_few(history: OptimizerHistory, least: int, lost_at: int | None, record_at: float | None) -> str:
    """Fewer than ``least`` steps are usable; ``record_at`` is the threshold at which to record another run."""
    usable = f"{count(len(history.norms), 'usable step')}, at least {least} are needed"
    text = f"{usable} (left out: {left_out(history)})" if history.steps else usable
    if lost_at is None and not history.spikes:
        return text
    verb = "uses" if history.spikes == 1 else "use"
    what = f"{_spikes(history)} {verb} up the rest"
    if lost_at is not None:
        what = f"the training was lost at step {lost_at}"
    if record_at is None:
        return f"{text}; {what}"
    return f"{text}; {what}. The norms before clipping of a run clipped at {number(record_at, 6)} can be judged"
