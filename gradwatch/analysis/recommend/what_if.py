"""The effect that thresholds would have had on recorded norms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gradwatch.analysis.recommend.advice import Phase, WhatIf
from gradwatch.analysis.recommend.rule import decisive
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.quantiles import Array

CUSTOMARY_THRESHOLDS = (0.25, 1.0, 5.0)
CURVE_POINTS = 160  # thresholds of a what-if curve
PHASE_ENDS = (0.0, 0.1, 0.4, 0.7, 1.0)  # shares of the run
EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def clipped_fraction(norms: Array, threshold: float) -> float:
    """The share of norms that a threshold clips.

    >>> clipped_fraction(np.array([0.5, 1.0, 2.0, 4.0]), 1.5)
    0.5
    """
    return float(np.mean(threshold / (norms + EPS) < 1.0))


def mean_clip_coef(norms: Array, threshold: float) -> float:
    """The mean of ``min(1, threshold / (norm + 1e-6))``, the formula of `torch.nn.utils.clip_grad_norm_`."""
    return float(np.mean(np.minimum(1.0, threshold / (norms + EPS))))


def two_digits(value: float) -> float:
    """Round to two significant digits.

    >>> two_digits(0.012345), two_digits(1234.0)
    (0.012, 1200.0)
    """
    return float(f"{value:.1e}")


def phases(history: OptimizerHistory, threshold: float) -> tuple[Phase, ...]:
    """The effect of a threshold on the first tenth of the run and on the thirds of the rest."""
    steps = history.frame.index.to_numpy(np.int64)
    norms = history.frame["total_norm"].to_numpy(float)
    cuts = (np.array(PHASE_ENDS) * len(steps)).astype(int)
    found = []
    for begin, end in pairwise(cuts):
        own = norms[begin:end]
        own = own[np.isfinite(own)]
        if len(own):
            found.append(
                Phase(
                    first_step=int(steps[begin]),
                    last_step=int(steps[end - 1]),
                    clipped_fraction=clipped_fraction(own, threshold),
                    mean_clip_coef=mean_clip_coef(own, threshold),
                )
            )
    return tuple(found)


def table(norms: Array, worst: float, number: float, low: float, high: float) -> tuple[WhatIf, ...]:
    """Rows for the recommended threshold, its range, percentiles of the run and customary values, ascending."""
    labels = {number: "recommended"}
    labels.setdefault(low, "low end")
    labels.setdefault(high, "high end")
    for share in (0.1, 0.5, 0.9, 0.99):
        labels.setdefault(two_digits(float(np.quantile(norms, share))), f"p{round(100 * share)} of the run")
    for threshold in CUSTOMARY_THRESHOLDS:
        labels.setdefault(threshold, "folklore")
    return tuple(
        _row(worst, threshold, label, clipped_fraction(norms, threshold), mean_clip_coef(norms, threshold))
        for threshold, label in sorted(labels.items())
    )


def curve(history: OptimizerHistory, recommended: float | None) -> tuple[WhatIf, ...]:
    """Rows from below the smallest norm to above the largest, evenly apart on a logarithmic axis.

    The recommended threshold and the one in force are among them. Empty without a usable norm.
    """
    if not len(history.norms):
        return ()
    norms = decisive(history.norms)
    ends = float(norms.min()) / 2, 2 * max(float(norms.max()), min(history.worst, 1e4 * float(norms.max())))
    in_force = history.frame["max_norm"].dropna()
    labels: dict[float, str] = {}
    if recommended is not None:
        labels[recommended] = "recommended"
    if len(in_force) and np.isfinite(in_force.iloc[-1]):
        labels.setdefault(float(in_force.iloc[-1]), "in force")
    thresholds = sorted({*np.geomspace(*ends, CURVE_POINTS).tolist(), *labels})
    effects = _effects(norms, thresholds)
    return tuple(
        _row(history.worst, number, labels.get(number, ""), *effect)
        for number, effect in zip(thresholds, effects, strict=True)
    )


def _effects(norms: Array, thresholds: Sequence[float]) -> list[tuple[float, float]]:
    """`clipped_fraction` and `mean_clip_coef` of ascending thresholds.

    The norms are sorted once: a threshold clips those behind its place, and the sum of ``threshold / norm`` over them
    is made of the sums between two places. Else a curve would take a pass over millions of norms for each point.
    """
    ordered = np.sort(norms + EPS)
    places = np.searchsorted(ordered, thresholds, side="right").tolist()
    length = len(ordered)
    inverse = np.divide(1.0, ordered, out=ordered)
    between = [inverse[begin:end].sum() for begin, end in pairwise([*places, length])]
    behind = np.cumsum(between[::-1])[::-1].tolist()
    return [
        ((length - place) / length, min(1.0, (place + threshold * sum_) / length))
        for place, threshold, sum_ in zip(places, thresholds, behind, strict=True)
    ]


def _row(worst: float, threshold: float, label: str, clipped: float, coef: float) -> WhatIf:
    return WhatIf(
        threshold=threshold,
        label=label,
        clipped_fraction=clipped,
        mean_clip_coef=coef,
        worst_clip_coef=min(1.0, threshold / (worst + EPS)),
    )
