"""What to change before clipping, where clipping would only hide the cause. Each with its evidence, or not at all."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.recommend.history import History
from gradwatch.analysis.recommend.rule import is_undone
from gradwatch.analysis.run import Run

NOTABLE_UPDATE = 0.02  # of a parameter's weights, in the middle step
CARRIES = 0.9  # of the squared norm
FEW = 0.02  # of the steps


def findings(run: Run, optimizer: str, history: History) -> list[str]:
    """Sentences, the most telling first."""
    found = [
        _learning_rate(run, optimizer, history),
        _initialisation(history),
        _vanishing(history),
        _outliers(history),
        _one_layer(run, optimizer, history),
        _clipped_to_death(history),
        _never_acts(history),
    ]
    return [sentence for sentence in found if sentence is not None]


def _learning_rate(run: Run, optimizer: str, history: History) -> str | None:
    if not is_undone(history):
        return None
    middle = run.layers("update_ratio", optimizer).median(numeric_only=True)
    large = middle[middle > NOTABLE_UPDATE]
    if large.empty:
        return None
    name = str(large.idxmax())
    return (
        f"the learning rate: a step changes {name} by {float(large.max()):.1%} of its weights in the middle, more than"
        f" {NOTABLE_UPDATE:.0%}, and the loss does not hold; clipping then only stands in for a lower rate"
    )


def _initialisation(history: History) -> str | None:
    norms = history.frame["total_norm"].to_numpy(float)
    first, usable = norms[:10], history.norms
    first = first[np.isfinite(first)]
    if len(first) < 5 or not len(usable):
        return None
    ratio = float(np.median(first) / np.median(usable))
    if ratio < 20:
        return None
    return (
        f"the initialisation: the first norms are {ratio:.0f} times those of later ({float(np.median(first)):.3g}"
        f" against {float(np.median(usable)):.3g}); smaller weights, normalisation or a warm-up would mend that"
        " where it begins"
    )


def _vanishing(history: History) -> str | None:
    events = [e for e in history.events if e.kind in ("vanishing", "dead") and e.severity != "info"]
    if not events:
        return None
    return (
        f"{events[0].kind} gradients from step {events[0].step}"
        + (f" in {events[0].parameter}" if events[0].parameter else "")
        + ", which no clipping cures: look at the activations and the initialisation there"
    )


def _outliers(history: History) -> str | None:
    """A few steps that stand out alone: their batches."""
    spikes = [e for e in history.events if e.kind == "spike" and e.observed is not None]
    alone = [e for e in spikes if e.until is None or e.until - e.step <= 1]
    if history.lost_at is not None or not alone or len(alone) != len(spikes) or len(alone) > FEW * history.steps:
        return None
    steps = ", ".join(str(event.step) for event in alone[:5]) + (", ..." if len(alone) > 5 else "")
    return (
        f"the data: {len(alone)} steps stand out by themselves ({steps}), the largest at {history.worst:.3g}; look at"
        " their batches, clipping only limits what they do"
    )


def _one_layer(run: Run, optimizer: str, history: History) -> str | None:
    every = max(1, history.steps // 1000)
    table = run.layers("norm", optimizer, one_of=every).to_numpy(float)
    if table.shape[1] < 4 or not len(table):
        return None
    squares = np.square(table)
    totals = np.nansum(squares, axis=1)
    usable = np.isfinite(totals) & (totals > 0)
    if not usable.any():
        return None
    squares[:, np.isnan(squares[usable]).all(axis=0)] = 0.0  # of parameters that never had a gradient
    shares = np.nanmedian(squares[usable] / totals[usable, None], axis=0)
    largest = int(np.nanargmax(shares))
    if shares[largest] < CARRIES:
        return None
    return (
        f"{run.parameters(optimizer)[largest].name} alone has {shares[largest]:.0%} of the squared norm: a threshold"
        " on the total shrinks all others with it; gradwatch.clip.LayerNormClip clips each by itself"
    )


def _clipped_to_death(history: History) -> str | None:
    frame = history.frame
    coefs = frame["clip_coef"].to_numpy(float)
    clipped = frame["clipped"].to_numpy(bool)
    coefs = coefs[np.isfinite(coefs)]
    if not len(coefs) or history.is_scale_free or clipped.mean() < 0.95 or coefs.mean() > 0.1:
        return None
    return (
        f"the threshold in force: {clipped.mean():.0%} of the steps were clipped to {coefs.mean():.2g} of their size"
        f" in the mean, so this {history.optimizer_class or 'optimizer'} trained at that share of its learning rate"
    )


def _never_acts(history: History) -> str | None:
    frame = history.frame
    thresholds = frame["max_norm"].dropna()
    thresholds = thresholds[np.isfinite(thresholds)]
    norms = frame["total_norm"].to_numpy(float)
    top = float(np.max(norms[np.isfinite(norms)], initial=0.0))
    if len(thresholds) < len(frame) or not len(frame) or bool(frame["clipped"].any()) or thresholds.min() < 2 * top:
        return None
    return f"the threshold in force, {float(thresholds.iloc[-1]):g}, never acted: the largest norm was {top:.3g}"
