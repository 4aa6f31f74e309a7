"""How a run was clipped, in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradwatch.analysis.frames import known_values
from gradwatch.analysis.statistics.quantiles import Array, chosen_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippingSummary:
    """How the run was clipped."""

    is_known: bool  # False: the history does not tell whether it was clipped
    kind: str | None  # norm, value, norm+value; policy: by one without a threshold; None: no clipping was recorded
    policy: str | None  # of gradwatch, with its settings, where `attach` clipped
    threshold: float | None  # the last one in force
    threshold_min: float | None
    threshold_max: float | None
    clipped_fraction: float | None  # share of steps clipped
    mean_clip_coef: float | None  # over all steps with a finite coefficient
    cut_fraction: float | None  # value clipping: mean share of entries cut

    @property
    def how(self) -> str | None:
        """The kind in words: none of a run that is known not to be clipped; None where that is not known."""
        return self.kind or ("none" if self.is_known else None)


def clipping_summary(steps: pd.DataFrame, policy: str | None, *, is_known: bool = True) -> ClippingSummary:
    """Summarize the clipping columns of `RunReader.steps`.

    Args:
        steps: of one optimizer.
        policy: the text of gradwatch's own policy, where `attach` clipped.
        is_known: whether clipping would have been recorded; an imported history does not tell.
    """
    by_norm, by_value = (known_values(steps, name) for name in ("max_norm", "clip_value"))
    kinds = [kind for kind, found in (("norm", by_norm), ("value", by_value)) if len(found)]
    if not kinds and (policy is not None or not (steps["clip_coef"] >= 1).all()):
        kinds = ["policy"]
    thresholds = by_norm if len(by_norm) else by_value
    thresholds = thresholds[np.isfinite(thresholds)]  # a policy that warms up has no threshold yet
    coefs = steps["clip_coef"].to_numpy(float)
    return ClippingSummary(
        is_known=is_known or bool(kinds),
        kind="+".join(kinds) or None,
        policy=policy,
        threshold=_of(thresholds[-1:], np.max),
        threshold_min=_of(thresholds, np.min),
        threshold_max=_of(thresholds, np.max),
        clipped_fraction=float(steps["clipped"].mean()) if kinds else None,
        mean_clip_coef=_of(chosen_of(coefs, np.isfinite(coefs)), np.mean) if kinds else None,
        cut_fraction=_of(known_values(steps, "cut_fraction"), np.mean),
    )


def _of(values: Array, reduce: Callable[[Array], float]) -> float | None:
    """Reduce values to one; None if there are none."""
    return float(reduce(values)) if len(values) else None
