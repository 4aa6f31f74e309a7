"""The rules of other tools, each in ten lines: from a record to an alarm.

All of them look only at the past, and all get the same refractory period as gradwatch's detectors. Rules that need
activations or an accuracy get the closest number in a record; each says which.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable

import numpy as np

from gradwatch.record import StepRecord

Baseline = Callable[[StepRecord], bool]


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def non_finite() -> Baseline:
    """A NaN or an infinity among the gradients or in the loss."""
    return lambda r: r.nonfinite > 0 or not math.isfinite(r.total_norm) or (r.loss is not None and not finite(r.loss))


def times_ema(factor: float = 3.0, decay: float = 0.98, warm_up: int = 32) -> Baseline:
    """Alarm on a norm above ``factor`` times its moving average, which takes at most that much from a step."""
    state = {"mean": 0.0, "seen": 0}
    bad = non_finite()

    def alarm(r: StepRecord) -> bool:
        if bad(r):
            return True
        mean, seen = state["mean"], state["seen"]
        state["mean"] = r.total_norm if not seen else decay * mean + (1 - decay) * min(r.total_norm, factor * mean)
        state["seen"] += 1
        return seen >= warm_up and r.total_norm > factor * mean

    return alarm


def robust_z(limit: float = 6.0, window: int = 100, warm_up: int = 32) -> Baseline:
    """Median and MAD of the logarithm of the norm."""
    logs: deque[float] = deque(maxlen=window)

    def alarm(r: StepRecord) -> bool:
        if not finite(r.total_norm) or r.total_norm <= 0:
            return not finite(r.total_norm)
        value, found = math.log(r.total_norm), False
        if len(logs) >= warm_up:
            middle = statistics.median(logs)
            spread = statistics.median(abs(x - middle) for x in logs)
            found = 0.6745 * (value - middle) > limit * max(spread, 0.02)
        logs.append(value)
        return found

    return alarm


def olmo_core(window: int = 128, sigmas: float = 6.0) -> Baseline:
    """OLMo-core's SkipStepOptimizer: loss or norm six deviations above the mean of the last 128."""
    losses: deque[float] = deque(maxlen=window)
    norms: deque[float] = deque(maxlen=window)

    def above(value: float, past: deque[float]) -> bool:
        if len(past) < window // 2:
            return False
        values = np.array(past)
        with np.errstate(all="ignore"):
            return bool(value - values.mean() > sigmas * values.std(ddof=1))

    def alarm(r: StepRecord) -> bool:
        loss = math.nan if r.loss is None else r.loss
        found = above(loss, losses) or above(r.total_norm, norms)
        losses.append(loss)
        norms.append(r.total_norm)
        return found

    return alarm


def megatron(factor: float = 10.0, first: int = 100) -> Baseline:
    """Megatron-LM's rerun machine: ten times the maximum of the first hundred norms, or not finite."""
    seen: list[float] = []
    bad = non_finite()

    def alarm(r: StepRecord) -> bool:
        if bad(r):
            return True
        if len(seen) < first:
            seen.append(r.total_norm)
            return False
        return r.total_norm >= factor * max(seen)

    return alarm


def lightning(window: int = 10, tolerance: float = 2.0) -> Baseline:
    """Lightning's SpikeDetection: a loss that is not finite, or above the last one and 2 x the mean away from it."""
    losses: deque[float] = deque(maxlen=window)

    def alarm(r: StepRecord) -> bool:
        loss = r.loss
        if loss is None:
            return False
        if not finite(loss):
            return True
        found = bool(losses) and loss > losses[-1] and abs(loss - np.mean(losses)) >= tolerance * abs(np.mean(losses))
        losses.append(loss)
        return bool(found)

    return alarm


def zclip(alpha: float = 0.97, limit: float = 2.5, warm_up: int = 25) -> Baseline:
    """ZClip's trigger."""
    first: list[float] = []
    state = {"mean": 0.0, "var": 0.0}

    def alarm(r: StepRecord) -> bool:
        norm = r.total_norm
        if len(first) < warm_up:
            first.append(norm)
            state["mean"], state["var"] = float(np.mean(first)), float(np.var(first))
            return False
        deviation = math.sqrt(state["var"]) if state["var"] >= 0 else math.nan
        z = (norm - state["mean"]) / (deviation + 1e-6)
        found = z > limit
        taken = state["mean"] + limit**2 * deviation / z if found else norm
        state["mean"] = alpha * state["mean"] + (1 - alpha) * taken
        state["var"] = alpha * state["var"] + (1 - alpha) * (taken - state["mean"]) ** 2
        return found

    return alarm


def autotrainer() -> Baseline:
    """Zhang et al. 2021: first against last kernel over 70 or under 1e-3, 70% zeros, loss over 1e3 or NaN.

    A record does not have the accuracy that their gate needs. Like theirs, the rule runs once an epoch, here every 50
    steps.
    """

    def alarm(r: StepRecord) -> bool:
        if r.step % 50 or r.layers is None:
            return False
        kernels = [i for i, p in enumerate(r.layers.parameters) if len(p.shape) > 1]
        if not kernels:
            return False
        first, last = (float(r.layers.norm[kernels[i]]) for i in (0, -1))
        zeros, sizes = r.layers.zeros, [p.numel for p in r.layers.parameters]
        dead = zeros is not None and any(zeros[i] >= 0.7 * sizes[i] for i in kernels)
        lost = r.loss is not None and not r.loss < 1e3
        return lost or dead or not first <= 70 * last or (first < 1e-3 * last and first < 1e-4)

    return alarm


def deep_diagnosis() -> Baseline:
    """Wardat et al. 2022: mean |gradient| under 1e-7, 70% zeros, NaN, or every update under 1e-3 of its weights.

    It uses the root mean square instead of the mean, and zeros of the gradient instead of the activation; every 50
    steps.
    """

    def alarm(r: StepRecord) -> bool:
        if r.step % 50 or r.layers is None:
            return False
        sizes = np.array([p.numel for p in r.layers.parameters], float)
        kernels = np.array([len(p.shape) > 1 for p in r.layers.parameters])
        small = r.layers.norm / np.sqrt(sizes) < 1e-7
        dead = r.layers.zeros is not None and bool(np.any((r.layers.zeros >= 0.7 * sizes) & kernels))
        ratio = None if r.weights is None else r.weights.update_ratio[kernels[: len(r.weights.update_ratio)]]
        tiny = ratio is not None and len(ratio) > 0 and bool(np.all(ratio < 1e-3))
        return r.nonfinite > 0 or bool(np.any(small & kernels)) or dead or tiny

    return alarm


BASELINES: dict[str, Callable[[], Baseline]] = {
    "non-finite only": non_finite,
    "3 x EMA": times_ema,
    "robust z > 6": robust_z,
    "OLMo-core 6 sigma": olmo_core,
    "Megatron 10 x max": megatron,
    "Lightning, loss": lightning,
    "ZClip z > 2.5": zclip,
    "AutoTrainer": autotrainer,
    "DeepDiagnosis": deep_diagnosis,
}
