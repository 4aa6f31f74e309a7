"""A recorded history -> the clipping threshold that it supports, with its reasons, or a refusal.

The rule rests on what is known and says so. Pascanu, Mikolov, Bengio 2013, section 3.2: thresholds
"from half to ten times" the average norm "can still yield convergence". Within that range the
healthy part of the history decides, in logarithms: where training was lost, or single steps
dominate, the threshold is the 75th percentile of the healthy norms; where nothing went wrong it is
a guard where the spike detector would raise its alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.detect.overclipping import scale_free
from gradwatch.detect.spike import NOTED
from gradwatch.record import Event
from gradwatch.run import Run

FACTOR, SIGMAS = NOTED

Confidence = Literal["high", "medium", "low"]
Array = NDArray[np.float64]

LEAST_STEPS = 300
BEFORE_EVENT, AFTER_EVENT = 10, 50
DRIFT_SAID, DRIFT_REFUSED = 2.0, 10.0
FOLKLORE = (0.25, 1.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What a threshold would have done to the steps that decided."""

    threshold: float
    label: str
    clipped_fraction: float
    mean_clip_coef: float
    worst_clip_coef: float  # the coefficient at `Recommendation.worst_norm`


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The advice; ``refused`` says why there is none."""

    run: str
    max_norm: float | None
    low: float | None
    high: float | None
    policy: Literal["norm", "value", "adaptive", "none"]
    clipped_fraction: float | None  # predicted for max_norm, over the steps that decided
    mean_clip_coef: float | None  # likewise
    confidence: Confidence
    refused: str | None
    reasons: tuple[str, ...]
    what_if: tuple[WhatIf, ...] = ()
    usable_steps: int = 0
    worst_norm: float | None = None  # where training was lost first, else the largest finite norm
    tail_index: float | None = None
    tail_low: float | None = None
    tail_high: float | None = None

    @property
    def apply(self) -> dict[str, str]:
        """The line to paste, for each way to train; empty where there is no advice."""
        if self.max_norm is None:
            return {}
        value = f"{self.max_norm:g}"
        return {
            "torch": f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={value})",
            "lightning": f'Trainer(gradient_clip_val={value}, gradient_clip_algorithm="norm")',
            "transformers": f"TrainingArguments(max_grad_norm={value})",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """The part of a run that advice may rest on, and what is known around it."""

    norms: Array  # usable ones, in order
    steps: int
    nonfinite: int
    lost_at: Event | None  # the first critical event
    spikes: int  # warnings about spikes and explosions
    worst: float
    optimizer_class: str
    learning_rate: float | None
    left_out: str


def recommend(run: Run, optimizer: str | None = None) -> Recommendation:
    """Advise on ``max_norm`` from the norms before clipping of one optimizer, the first if none is named."""
    name = run.optimizer(optimizer)
    frame = run.steps(name)
    moment = run.meta().get("moment", "unknown")
    events = [event for event in run.events() if event.optimizer == name]
    history = _history(frame, events, run.optimizers.get(name, ""))
    why = _refusal(history, moment)
    if why is not None:
        return _refused(run.name, why, history)
    return _advise(run.name, history, frame)


# ------------------------------------------------------------------------------ what may be used


def _history(frame: pd.DataFrame, events: Sequence[Event], optimizer_class: str) -> _History:
    steps = frame.index.to_numpy(np.int64)
    norms = frame["total_norm"].to_numpy(float)
    finite = np.isfinite(norms) & (norms > 0) & ~frame["skipped"].to_numpy(bool)
    warm_up = _warm_up(len(norms))
    allowed = finite & (np.arange(len(norms)) >= warm_up)
    critical = [event for event in events if event.severity == "critical"]
    for event in events:
        if event.kind in ("spike", "explosion", "nonfinite"):
            allowed &= ~((steps >= event.step - BEFORE_EVENT) & (steps < event.step + AFTER_EVENT))
    usable = _longest_stretch(steps, allowed, [event.step for event in critical])
    rates = frame["learning_rate"].dropna()
    return _History(
        norms=norms[usable],
        steps=len(norms),
        nonfinite=int((~np.isfinite(norms)).sum()),
        lost_at=critical[0] if critical else None,
        spikes=sum(event.severity == "warning" and event.kind in ("spike", "explosion") for event in events),
        worst=_worst(norms[finite], critical),
        optimizer_class=optimizer_class,
        learning_rate=float(rates.max()) if len(rates) else None,
        left_out=f"the first {warm_up} as warm-up" + (", and those around and after events" if events else ""),
    )


def _worst(norms: Array, critical: Sequence[Event]) -> float:
    observed = [e.observed for e in critical if e.kind == "explosion" and e.observed is not None]
    if observed and math.isfinite(observed[0]):
        return observed[0]
    return float(norms.max(initial=0.0))


def _warm_up(steps: int) -> int:
    """A twentieth of the run, at least 20 steps and at most 500.

    >>> _warm_up(100), _warm_up(2000), _warm_up(10**6)
    (20, 100, 500)
    """
    return min(500, max(20, steps // 20))


def _longest_stretch(steps: NDArray[np.int64], allowed: NDArray[np.bool_], cuts: Sequence[int]) -> NDArray[np.bool_]:
    """The usable steps between two critical events of which there are most.

    What comes after a training was lost says little about a healthy one.
    """
    if not cuts:
        return allowed
    stretch = np.searchsorted(np.unique(cuts), steps, side="right")
    counts = np.bincount(stretch[allowed], minlength=1)
    longest: NDArray[np.bool_] = allowed & (stretch == int(np.argmax(counts)))
    return longest


def _refusal(history: _History, moment: str) -> str | None:
    norms = history.norms
    if moment == "after clipping" or (len(norms) >= LEAST_STEPS and _piled_up(norms)):
        return (
            "only norms after clipping were recorded: they end at the old threshold, and no percentile of them"
            " says anything else. Record the norm before clipping, as `gradwatch.attach` does"
        )
    if len(norms) < LEAST_STEPS:
        if history.nonfinite > history.steps // 2:
            return (
                f"{history.nonfinite} of {history.steps} steps are not finite. Find where they come from first:"
                " `gradwatch events`"
            )
        return (
            f"{len(norms)} usable steps, at least {LEAST_STEPS} are needed ({history.left_out} do not count)."
            " Record more steps" + (", or a run with a lower learning rate" if history.lost_at else "")
        )
    drift = _drift(norms)
    if not 1 / DRIFT_REFUSED < drift < DRIFT_REFUSED:
        return (
            f"the norm drifts: its median went by a factor of {drift:.2g} from the first to the last third of the"
            " usable steps, further than one threshold can cover. Record a longer run, past its warm-up"
        )
    return None


def _piled_up(norms: Array) -> bool:
    """Whether many norms lie at one ceiling, as they do after clipping."""
    return bool(np.mean(norms > norms.max() * (1 - 1e-3)) > 0.1)


def _drift(norms: Array) -> float:
    thirds = np.array_split(np.log(norms), 3)
    return float(np.exp(np.median(thirds[2]) - np.median(thirds[0])))


def _refused(run: str, why: str, history: _History) -> Recommendation:
    return Recommendation(
        run=run,
        max_norm=None,
        low=None,
        high=None,
        policy="none",
        clipped_fraction=None,
        mean_clip_coef=None,
        confidence="low",
        refused=why,
        reasons=(),
        usable_steps=len(history.norms),
    )


# -------------------------------------------------------------------------------------- the advice


def _advise(run: str, history: _History, frame: pd.DataFrame) -> Recommendation:
    drift = _drift(history.norms)
    drifting = not 1 / DRIFT_SAID < drift < DRIFT_SAID
    # Under a drift the recent norms are what a threshold will meet.
    norms = np.array_split(history.norms, 3)[2] if drifting else history.norms
    logs = np.log(norms)
    middle, upper = np.quantile(logs, [0.5, 0.9])
    deviation = (upper - middle) / 1.2816
    level = math.exp(middle)
    tail = tail_index(history.norms)
    unstable = history.lost_at is not None or history.spikes > 0
    if unstable:
        number, low, high = (math.exp(v) for v in (np.quantile(logs, 0.75), middle, middle + SIGMAS * deviation))
    else:
        guard = level * max(FACTOR, math.exp(SIGMAS * deviation))
        top = float(np.quantile(norms, 0.99))
        number, low, high = max(top, guard), top, 10 * level
    high = max(min(high, 10 * level), number)
    number, low, high = (_two_digits(value) for value in (number, low, high))
    return Recommendation(
        run=run,
        max_norm=number,
        low=min(low, number),
        high=max(high, number),
        policy="norm",
        clipped_fraction=_clipped(norms, number),
        mean_clip_coef=_coef(norms, number),
        confidence=_confidence(len(history.norms), drift, deviation, unstable),
        refused=None,
        reasons=tuple(_reasons(history, frame, level, number, drift, drifting, unstable, tail)),
        what_if=_what_if(norms, history.worst, number, low, high),
        usable_steps=len(history.norms),
        worst_norm=history.worst,
        tail_index=tail[0],
        tail_low=tail[1],
        tail_high=tail[2],
    )


def _reasons(
    history: _History,
    frame: pd.DataFrame,
    level: float,
    number: float,
    drift: float,
    drifting: bool,
    unstable: bool,
    tail: tuple[float, float, float],
) -> list[str]:
    reasons = [
        f"the healthy level is {level:.3g}: the median total norm of {len(history.norms)} usable steps of"
        f" {history.steps} ({history.left_out} left out)"
    ]
    if history.lost_at is not None:
        reasons.append(f"training was lost at step {history.lost_at.step}: {history.lost_at.message}")
    elif history.spikes:
        reasons.append(f"{history.spikes} spikes got through, the largest norm {history.worst:.3g}")
    if unstable:
        reasons.append(
            f"{number:g} is the 75th percentile of the healthy norms: low enough to hold what went wrong, within"
            " half to ten times the average as Pascanu, Mikolov, Bengio 2013 advise"
        )
    else:
        reasons.append(
            f"nothing went wrong, so {number:g} is a guard: it lies where a norm would count as a spike"
            f" ({FACTOR:g} times the level or {SIGMAS:g} deviations above it) and will rarely act"
        )
    reasons.append(_tail_reason(tail))
    reasons.append(_optimizer_reason(history, number))
    if drifting:
        reasons.append(
            f"the median norm changed by a factor of {drift:.2g} from the first third of these steps to the last,"
            " so the last third alone decides; look again after a longer run"
        )
    thresholds = frame["max_norm"].dropna()
    if len(thresholds):
        share = float(frame["clipped"].mean())
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


def _optimizer_reason(history: _History, number: float) -> str:
    name = history.optimizer_class or "the optimizer"
    if scale_free(name):
        return (
            f"{name} divides by the size of its gradients, so a threshold that acts at most steps is a normalisation"
            " and one that acts rarely guards its averages from single steps"
        )
    if history.learning_rate is None:
        return f"{name} follows the size of its gradient: the threshold bounds every update"
    bound = history.learning_rate * number
    return (
        f"{name} follows the size of its gradient: at learning rate {history.learning_rate:g} no update moves the"
        f" weights by more than {bound:.2g}"
    )


def _confidence(steps: int, drift: float, deviation: float, unstable: bool) -> Confidence:
    drift = max(drift, 1 / drift)
    if steps < 600 or drift > 3 or deviation > 1.5:
        return "low"
    if steps >= 2000 and drift < 1.5 and deviation < 1.0 and not unstable:
        return "high"
    return "medium"


def _what_if(norms: Array, worst: float, number: float, low: float, high: float) -> tuple[WhatIf, ...]:
    labels = {number: "recommended"}
    labels.setdefault(low, "low end")
    labels.setdefault(high, "high end")
    for share in (0.1, 0.5, 0.9, 0.99):
        labels.setdefault(_two_digits(float(np.quantile(norms, share))), f"p{share * 100:g} of the run")
    for threshold in FOLKLORE:
        labels.setdefault(threshold, "folklore")
    return tuple(
        WhatIf(
            threshold=threshold,
            label=labels[threshold],
            clipped_fraction=_clipped(norms, threshold),
            mean_clip_coef=_coef(norms, threshold),
            worst_clip_coef=min(1.0, threshold / (worst + 1e-6)),
        )
        for threshold in sorted(labels)
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


def tail_index(norms: Array, share: float = 0.05, window: int = 257) -> tuple[float, float, float]:
    """Hill's estimate of the tail index of the norms about their moving median, with a 95 % interval.

    ``1 / alpha = mean(ln(X_i / X_(k+1)))`` over the k largest, k being ``share`` of them and at
    least 10 (Hill 1975); the interval is ``alpha (1 +- 1.96 / sqrt(k))``. An index under 2 means
    that the variance is infinite. Norms are correlated, so the true interval is wider.

    >>> exact = np.random.default_rng(0).pareto(3.0, 20000) + 1
    >>> index, low, high = tail_index(exact, window=1)
    >>> low < 3.0 < high
    True
    """
    logs = pd.Series(np.log(norms))
    moving = logs.rolling(window, center=True, min_periods=1).median() if window > 1 else 0.0
    ordered = np.sort((logs - moving).to_numpy())[::-1]
    k = max(10, int(share * len(ordered)))
    excess = float(np.mean(ordered[:k]) - ordered[k])
    index = 1 / max(excess, 1e-9)
    half = 1.96 * index / math.sqrt(k)
    return index, max(index - half, 0.0), index + half
