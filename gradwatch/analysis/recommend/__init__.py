"""A recorded history -> the clipping threshold that it supports, with its reasons, or a refusal.

What it rests on, and how good it is on tasks that it was not made on, is in
benchmarks/recommendation/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradwatch.analysis.recommend.advice import Agreement, Confidence, Phase, Recommendation, WhatIf
from gradwatch.analysis.recommend.findings import findings
from gradwatch.analysis.recommend.history import Array, History, history_of
from gradwatch.analysis.recommend.rule import (
    DRIFT_DOWN,
    DRIFT_SAID,
    DRIFT_UP,
    Choice,
    choose,
    deciding,
    drift,
    step_bound,
)
from gradwatch.analysis.recommend.tail import tail_index
from gradwatch.analysis.run import Run

__all__ = [
    "Agreement",
    "Phase",
    "Recommendation",
    "WhatIf",
    "recommend",
    "recommend_for_all",
    "recommend_with_curve",
    "tail_index",
]

LEAST_STEPS = 300
FOLKLORE = (0.25, 1.0, 5.0)
CURVE = 160  # thresholds of a what-if curve


def recommend(run: Run, optimizer: str | None = None) -> Recommendation:
    """Advise on ``max_norm`` from the norms before clipping of one optimizer, the first if none is named."""
    return _recommend(run, optimizer, history_of(run, optimizer))


def recommend_with_curve(run: Run, optimizer: str | None = None) -> tuple[Recommendation, tuple[WhatIf, ...]]:
    """The advice, and what thresholds from below the smallest norm to above the largest would have done.

    The thresholds are evenly apart on a logarithmic axis, with the recommended one and the one in force
    among them. Over the steps that decide, also where the advice is refused; empty where there is none.
    """
    history = history_of(run, optimizer)
    advice = _recommend(run, optimizer, history)
    if not len(history.norms):
        return advice, ()
    norms = deciding(history.norms)
    ends = float(norms.min()) / 2, 2 * max(float(norms.max()), min(history.worst, 1e4 * float(norms.max())))
    in_force = history.frame["max_norm"].dropna()
    labels: dict[float, str] = {}
    if advice.max_norm is not None:
        labels[advice.max_norm] = "recommended"
    if len(in_force) and np.isfinite(in_force.iloc[-1]):
        labels.setdefault(float(in_force.iloc[-1]), "in force")
    thresholds = sorted({*np.geomspace(*ends, CURVE).tolist(), *labels})
    return advice, tuple(_at(norms, history.worst, number, labels.get(number, "")) for number in thresholds)


def _recommend(run: Run, optimizer: str | None, history: History) -> Recommendation:
    first = tuple(findings(run, run.optimizer(optimizer), history))
    why = _refusal(history)
    if why is not None:
        return replace(_refused(history, *why), first=first)
    return replace(_advise(history), first=first)


def recommend_for_all(runs: Sequence[Run], optimizer: str | None = None) -> Agreement:
    """One threshold for several runs of one training, other seeds say: the geometric mean of theirs.

    Its range is what all of them support, or where there is no such range that from the smallest
    threshold to the largest.
    """
    each = tuple(recommend(run, optimizer) for run in runs)
    given = [advice for advice in each if advice.max_norm is not None]
    names = ", ".join(advice.run for advice in each)
    if not given:
        return Agreement(
            together=replace(
                each[0], run=names, refused=f"none of the {len(each)} runs supports one: {each[0].refused}"
            ),
            each=each,
            spread=None,
        )
    numbers = [advice.max_norm for advice in given if advice.max_norm is not None]
    spread = max(numbers) / min(numbers)
    middle = _two_digits(float(np.exp(np.mean(np.log(numbers)))))
    low = max(advice.low for advice in given if advice.low is not None)
    high = min(advice.high for advice in given if advice.high is not None)
    agree = low <= middle <= high
    if not agree:
        low, high = min(numbers), max(numbers)
    refused = len(each) - len(given)
    reasons = [
        f"{len(given)} of {len(each)} runs support a threshold: {', '.join(f'{n:g}' for n in numbers)}; the largest is"
        f" {spread:.2g} times the smallest",
        "their ranges have this threshold in common"
        if agree
        else "their ranges have no threshold in common, so one for all is a compromise",
        *(f"{advice.run}: {advice.reasons[0]}" for advice in given),
        *(f"{advice.run}: refused, {advice.refused}" for advice in each if advice.refused is not None),
    ]
    order: list[Confidence] = ["low", "medium", "high"]
    least = min((advice.confidence for advice in given), key=order.index)
    kinds = {advice.clip for advice in given}
    together = Recommendation(
        run=names,
        max_norm=middle,
        low=low,
        high=high,
        clip=kinds.pop() if len(kinds) == 1 else None,
        clipped_fraction=_mean([advice.clipped_fraction for advice in given]),
        mean_clip_coef=_mean([advice.mean_clip_coef for advice in given]),
        confidence=least if agree and not refused else "low",
        refused=None,
        reasons=tuple(reasons),
        first=tuple(dict.fromkeys(sentence for advice in each for sentence in advice.first)),
        usable_steps=sum(advice.usable_steps for advice in given),
        worst_norm=max(advice.worst_norm or 0.0 for advice in given),
    )
    return Agreement(together=together, each=each, spread=spread)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# ----------------------------------------------------------------------------------- the refusals


def _refusal(history: History) -> tuple[str, float | None] | None:
    """Why there is no advice, and the threshold with which to record another run, where one helps."""
    norms = history.norms
    if history.moment == "after clipping" or (len(norms) >= LEAST_STEPS and _piled_up(norms)):
        return (
            "only norms after clipping were recorded: they end at the old threshold, and no percentile of them"
            " says anything else. Record the norm before clipping, as `gradwatch.attach` does",
            None,
        )
    if history.nonfinite > history.steps // 2:
        return (
            f"{history.nonfinite} of {history.steps} steps are not finite. Find where they come from first:"
            " `gradwatch events`",
            None,
        )
    if len(norms) < LEAST_STEPS:
        return _too_few(history)
    moved = drift(norms)
    if not history.is_scale_free and not 1 / DRIFT_DOWN < moved < DRIFT_UP:
        return (
            f"the norm drifts: its median went by a factor of {moved:.2g} from the first to the last third of the"
            " usable steps, further than one threshold can cover. Record a longer run, past its warm-up, or clip by a"
            " policy that follows the level, gradwatch.clip.AutoClip(95) say",
            None,
        )
    return None


def _too_few(history: History) -> tuple[str, float | None]:
    text = f"{len(history.norms)} usable steps, at least {LEAST_STEPS} are needed ({history.left_out} do not count)."
    steps = history.frame.index.to_numpy()
    if history.lost_at is not None or history.ended_nonfinite:
        end = int(steps[-1]) if history.lost_at is None else history.lost_at.step
        before = history.frame["total_norm"].to_numpy(float)[steps < end]
        what = f"The training was lost at step {end}"
    elif history.spikes:
        before, what = history.norms, f"{history.spikes} spikes and explosions took up the others"
    else:
        return f"{text} Record more steps", None
    before = before[np.isfinite(before) & (before > 0)]
    bounds = [bound for bound in (step_bound(history), float(np.median(before)) if len(before) else None) if bound]
    if not bounds:
        return f"{text} Record a run with a lower learning rate", None
    record_at = _two_digits(min(bounds))
    return (
        f"{text} {what}: record a run clipped at {record_at:g}, whose"
        " norms before clipping can be judged, or one with a lower learning rate",
        record_at,
    )


def _piled_up(norms: Array) -> bool:
    """Whether many norms lie at one ceiling, as they do after clipping."""
    return bool(np.mean(norms > norms.max() * (1 - 1e-3)) > 0.1)


def _refused(history: History, why: str, record_at: float | None) -> Recommendation:
    return Recommendation(
        run=history.run,
        max_norm=None,
        low=None,
        high=None,
        clipped_fraction=None,
        mean_clip_coef=None,
        confidence="low",
        refused=why,
        reasons=(),
        usable_steps=len(history.norms),
        record_at=record_at,
    )


# -------------------------------------------------------------------------------------- the advice


def _advise(history: History) -> Recommendation:
    norms = history.norms
    tail = tail_index(history.every_norm if len(history.every_norm) >= LEAST_STEPS else norms)
    choice = choose(history, tail[0])
    decided = deciding(norms)
    number, low, high = (_two_digits(value) for value in (choice.number, choice.low, choice.high))
    return Recommendation(
        run=history.run,
        max_norm=number,
        low=min(low, number),
        high=max(high, number),
        clip=choice.clip,
        clipped_fraction=_clipped(decided, number),
        mean_clip_coef=_coef(decided, number),
        confidence=_confidence(history, norms),
        refused=None,
        reasons=tuple(_reasons(history, choice, number, tail)),
        phases=_phases(history, number),
        what_if=_what_if(decided, history.worst, number, low, high),
        usable_steps=len(norms),
        worst_norm=history.worst,
        tail_index=tail[0],
        tail_low=tail[1],
        tail_high=tail[2],
    )


def _reasons(history: History, choice: Choice, number: float, tail: tuple[float, float, float]) -> list[str]:
    norms = history.norms
    reasons = [
        f"the healthy level is {float(np.median(norms)):.3g}: the median total norm of {len(norms)} usable steps of"
        f" {history.steps} ({history.left_out} left out)"
    ]
    if history.every > 1:
        reasons.append(f"a norm was recorded every {history.every} steps, and what happened between is not known")
    if history.lost_at is not None:
        reasons.append(f"training was lost at step {history.lost_at.step}: {history.lost_at.message}")
    elif history.spikes:
        reasons.append(f"{history.spikes} spikes got through, the largest norm {history.worst:.3g}")
    reasons.append(f"{number:g}: {choice.why}")
    reasons.append(_tail_reason(tail))
    reasons.append(_optimizer_reason(history, number))
    moved = drift(norms)
    if not 1 / DRIFT_SAID < moved < DRIFT_SAID:
        reasons.append(
            f"the median norm changed by a factor of {moved:.2g} from the first third of these steps to the last"
            + (
                ", so the last third alone tells what a threshold will meet; look again after a longer run"
                if moved > 1
                else ""
            )
        )
    thresholds = history.frame["max_norm"].dropna()
    if len(thresholds):
        share = float(history.frame["clipped"].mean())
        reasons.append(f"the run was clipped at {thresholds.iloc[-1]:g}, at {share:.1%} of its steps")
    return reasons


def _tail_reason(tail: tuple[float, float, float]) -> str:
    index, low, high = tail
    span = f"tail index {index:.1f} [{low:.1f}, {high:.1f}]"
    if high < 2:
        return f"{span}: single steps dominate the sum of squares, which is where clipping helps"
    if low > 4:
        return f"{span}: the norms have a light tail, clipping them changes little"
    return f"{span}: the norms have a moderate tail"


def _optimizer_reason(history: History, number: float) -> str:
    name = history.optimizer_class or "the optimizer"
    if history.is_scale_free:
        return (
            f"{name} divides by the size of its gradients, so a threshold that acts at most steps is a normalisation"
            " and one that acts rarely guards its averages from single steps"
        )
    if history.learning_rate is None:
        return f"{name} follows the size of its gradient: the threshold bounds every update"
    bound = history.learning_rate * number / (1 - history.momentum)
    return (
        f"{name} follows the size of its gradient: at learning rate {history.learning_rate:g} no update moves the"
        f" weights by more than {bound:.2g}"
    )


def _confidence(history: History, norms: Array) -> Confidence:
    moved = drift(norms)
    moved = max(moved, 1 / moved)
    logs = np.log(norms)
    deviation = float(np.quantile(logs, 0.9) - np.median(logs)) / 1.2816
    alone = step_bound(history) is None and not history.is_scale_free
    if alone or len(norms) < 600 or moved > 3 or deviation > 1.5:
        return "low"
    if len(norms) >= 2000 and moved < 1.5 and deviation < 1.0 and not history.unstable:
        return "high"
    return "medium"


def _phases(history: History, number: float) -> tuple[Phase, ...]:
    """Of the first tenth and the thirds of the rest."""
    steps = history.frame.index.to_numpy(np.int64)
    norms = history.frame["total_norm"].to_numpy(float)
    cuts = np.array([0, 0.1, 0.4, 0.7, 1.0]) * len(steps)
    phases = []
    for begin, end in zip(cuts[:-1].astype(int), cuts[1:].astype(int), strict=True):
        own = norms[begin:end]
        own = own[np.isfinite(own)]
        if len(own):
            phases.append(
                Phase(
                    first_step=int(steps[begin]),
                    last_step=int(steps[end - 1]),
                    clipped_fraction=_clipped(own, number),
                    mean_clip_coef=_coef(own, number),
                )
            )
    return tuple(phases)


def _what_if(norms: Array, worst: float, number: float, low: float, high: float) -> tuple[WhatIf, ...]:
    labels = {number: "recommended"}
    labels.setdefault(low, "low end")
    labels.setdefault(high, "high end")
    for share in (0.1, 0.5, 0.9, 0.99):
        labels.setdefault(_two_digits(float(np.quantile(norms, share))), f"p{share * 100:g} of the run")
    for threshold in FOLKLORE:
        labels.setdefault(threshold, "folklore")
    return tuple(_at(norms, worst, threshold, labels[threshold]) for threshold in sorted(labels))


def _at(norms: Array, worst: float, threshold: float, label: str) -> WhatIf:
    return WhatIf(
        threshold=threshold,
        label=label,
        clipped_fraction=_clipped(norms, threshold),
        mean_clip_coef=_coef(norms, threshold),
        worst_clip_coef=min(1.0, threshold / (worst + 1e-6)),
    )


def _clipped(norms: Array, threshold: float) -> float:
    return float(np.mean(threshold / (norms + 1e-6) < 1.0))


def _coef(norms: Array, threshold: float) -> float:
    return float(np.mean(np.minimum(1.0, threshold / (norms + 1e-6))))


def _two_digits(value: float) -> float:
    """>>> _two_digits(0.012345), _two_digits(1234.0)
    (0.012, 1200.0)
    """
    return float(f"{value:.1e}")
