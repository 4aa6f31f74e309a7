"""Faults to fix before clipping, because clipping would only hide them. Each with its evidence, or not at all."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.history import RunReader
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.progress import is_undone

LARGE_UPDATE_RATIO = 0.02  # of a parameter's norm, median
DOMINANT_SHARE = 0.9  # of the squared norm
MAX_OUTLIER_SHARE = 0.02  # of the steps
INITIAL_STEPS, LARGE_INITIAL_RATIO = 10, 20.0  # the first norms, and how far above the later ones is notable
SAMPLED_STEPS = 1000  # at most that many steps are read for the share of a layer


def findings(reader: RunReader, optimizer: str, history: OptimizerHistory) -> list[str]:
    """Sentences, the most important first."""
    found = [
        _learning_rate(reader, optimizer, history),
        _initialisation(history),
        _vanishing(history),
        _outliers(history),
        _one_layer(reader, optimizer, history),
        _clipped_to_death(history),
        _never_acts(history),
    ]
    return [sentence for sentence in found if sentence is not None]


def _learning_rate(reader: RunReader, optimizer: str, history: OptimizerHistory) -> str | None:
    if not is_undone(history):
        return None
    medians = reader.layers("update_ratio", optimizer).median(numeric_only=True)
    large = medians[medians > LARGE_UPDATE_RATIO]
    if large.empty:
        return None
    name = str(large.idxmax())
    return (
        f"the learning rate: the median update changes {name} by {float(large.max()):.1%} of its norm (limit"
        f" {LARGE_UPDATE_RATIO:.0%}) and the loss is unstable; lower the learning rate first, clipping would only"
        " mask it"
    )


def _initialisation(history: OptimizerHistory) -> str | None:
    norms = history.frame["total_norm"].to_numpy(float)
    first, usable = norms[:INITIAL_STEPS], history.norms
    first = first[np.isfinite(first)]
    if len(first) < INITIAL_STEPS // 2 or not len(usable):
        return None
    ratio = float(np.median(first) / np.median(usable))
    if ratio < LARGE_INITIAL_RATIO:
        return None
    return (
        f"the initialisation: the first norms are {ratio:.0f} times the later ones ({float(np.median(first)):.3g}"
        f" against {float(np.median(usable)):.3g}); smaller initial weights, normalisation or a warm-up fix the cause"
    )


def _vanishing(history: OptimizerHistory) -> str | None:
    events = [e for e in history.events if e.kind in ("vanishing", "dead") and e.severity != "info"]
    if not events:
        return None
    where = f" in {events[0].parameter}" if events[0].parameter else ""
    return (
        f"{events[0].kind} gradients from step {events[0].step}{where}; no clipping cures that, so look at the"
        " activations and the initialisation there"
    )


def _outliers(history: OptimizerHistory) -> str | None:
    """A few steps stand out alone, and with them their batches."""
    spikes = [e for e in history.events if e.kind == "spike" and e.observed is not None]
    alone = [e for e in spikes if e.until is None or e.until - e.step <= 1]
    is_rare = len(alone) <= MAX_OUTLIER_SHARE * history.steps
    if history.lost_at is not None or not alone or len(alone) != len(spikes) or not is_rare:
        return None
    steps = ", ".join(str(event.step) for event in alone[:5]) + (", ..." if len(alone) > 5 else "")
    largest = max(event.observed for event in alone if event.observed is not None)
    return (
        f"the data: {len(alone)} {'step stands' if len(alone) == 1 else 'steps stand'} out alone ({steps}), the"
        f" largest at {largest:.3g}; look at their batches, clipping only limits their effect"
    )


def _one_layer(reader: RunReader, optimizer: str, history: OptimizerHistory) -> str | None:
    every = max(1, history.steps // SAMPLED_STEPS)
    table = reader.layers("norm", optimizer, one_of=every).to_numpy(float)
    if table.shape[1] < 4 or not len(table):
        return None
    squares = np.square(table)
    totals = np.nansum(squares, axis=1)
    usable = np.isfinite(totals) & (totals > 0)
    if not usable.any():
        return None
    squares[:, np.isnan(squares[usable]).all(axis=0)] = 0.0  # parameters that never had a gradient
    shares = np.nanmedian(squares[usable] / totals[usable, None], axis=0)
    largest = int(np.nanargmax(shares))
    if shares[largest] < DOMINANT_SHARE:
        return None
    return (
        f"{reader.parameters(optimizer)[largest].name} alone has {shares[largest]:.0%} of the squared norm: a threshold"
        " on the total norm shrinks all other parameters with it; gradwatch.clip.LayerNormClip clips each parameter"
        " on its own"
    )


def _clipped_to_death(history: OptimizerHistory) -> str | None:
    frame = history.frame
    coefs = frame["clip_coef"].to_numpy(float)
    clipped = frame["clipped"].to_numpy(bool)
    coefs = coefs[np.isfinite(coefs)]
    if not len(coefs) or history.is_adaptive or clipped.mean() < 0.95 or coefs.mean() > 0.1:
        return None
    return (
        f"the threshold in force: {clipped.mean():.0%} of the steps were clipped, on average to {coefs.mean():.2g} of"
        f" their norm, so this {history.optimizer_class or 'optimizer'} trained at that share of its learning rate"
    )


def _never_acts(history: OptimizerHistory) -> str | None:
    frame = history.frame
    thresholds = frame["max_norm"].dropna()
    thresholds = thresholds[np.isfinite(thresholds)]
    norms = frame["total_norm"].to_numpy(float)
    top = float(np.max(norms[np.isfinite(norms)], initial=0.0))
    if len(thresholds) < len(frame) or not len(frame) or bool(frame["clipped"].any()) or thresholds.min() < 2 * top:
        return None
    return f"the threshold in force, {float(thresholds.iloc[-1]):g}, never acted: the largest norm was {top:.3g}"
