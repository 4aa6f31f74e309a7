"""The part of a run that advice may rest on, and what is known around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.run import Run
from gradwatch.detect import eps_of
from gradwatch.detect.overclipping import is_adaptive
from gradwatch.record import WEIGHT_STATS, Event

Array = NDArray[np.float64]

BEFORE_EVENT, AFTER_EVENT = 10, 50
ABOVE_EPS = 1000.0  # times Adam's eps: the least root mean square of a gradient that every step is clipped to
SHORT = 4  # steps; an explosion that is over by then leaves those around it as they were


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one optimizer of a run left behind."""

    run: str
    norms: Array  # usable ones, in order
    given: Array  # what clipping left of them
    every_norm: Array  # all finite ones after the warm-up and before the training was lost
    frame: pd.DataFrame  # every step
    events: tuple[Event, ...]
    nonfinite: int
    lost_at: Event | None  # the first critical event that the training did not come back from
    worst: float
    optimizer_class: str
    learning_rate: float | None  # the largest
    momentum: float
    weights: pd.Series  # by step the norm over all parameters, as sampled where it was not 0
    update_ratio: float | None  # over all parameters, the median of the samples
    least_norm: float  # where the optimizer divides: below that its eps would count; else 0
    moment: str
    every: int  # steps from one record to the next
    left_out: str

    @property
    def steps(self) -> int:
        return len(self.frame)

    @property
    def spikes(self) -> int:
        """Spikes and explosions that were more than information."""
        return sum(event.severity != "info" and event.kind in ("spike", "explosion") for event in self.events)

    @property
    def unstable(self) -> bool:
        return self.lost_at is not None or self.spikes > 0

    @property
    def weight_norm(self) -> float | None:
        """As sampled first."""
        return float(self.weights.iloc[0]) if len(self.weights) else None

    @property
    def last_weight_norm(self) -> float | None:
        """As sampled last."""
        return float(self.weights.iloc[-1]) if len(self.weights) else None

    @property
    def middle_coef(self) -> float:
        """What clipping left of the norm of the middle step."""
        return max(float(np.median(self.given / self.norms)), 1e-6) if len(self.norms) else 1.0

    @property
    def is_scale_free(self) -> bool:
        """Whether the optimizer divides by the size of its gradients."""
        return is_adaptive(self.optimizer_class)

    @property
    def ended_nonfinite(self) -> bool:
        """Whether the last step was not finite."""
        last = self.frame[["total_norm", "loss"]].iloc[-1:].to_numpy(float)
        logged = bool(self.frame["loss_logged"].iloc[-1:].any())
        return bool(len(last)) and not (np.isfinite(last[0, 0]) and (np.isfinite(last[0, 1]) or not logged))

    def losses(self) -> Array:
        """The finite ones that were recorded, in order."""
        return self.frame["loss"].to_numpy(float)[self._has_loss()]

    def loss_steps(self) -> NDArray[np.int64]:
        """The steps of those losses."""
        return self.frame.index.to_numpy(np.int64)[self._has_loss()]

    def _has_loss(self) -> NDArray[np.bool_]:
        there: NDArray[np.bool_] = self.frame["loss_logged"].to_numpy(bool) & np.isfinite(self.frame["loss"])
        return there


def history_of(run: Run, optimizer: str | None = None) -> History:
    """Read what advice on one optimizer needs, the first if none is named."""
    name = run.optimizer(optimizer)
    frame = run.steps(name)
    events = [event for event in run.events() if event.optimizer == name]
    steps = frame.index.to_numpy(np.int64)
    norms = frame["total_norm"].to_numpy(float)
    finite = np.isfinite(norms) & (norms > 0) & ~frame["skipped"].to_numpy(bool)
    warm_up = _warm_up(len(norms))
    allowed = finite & (np.arange(len(norms)) >= warm_up)
    critical = [event for event in events if event.severity == "critical" and not _is_over(event, steps)]
    for event in events:
        first, last = _marked(event)
        allowed &= ~((steps >= first) & (steps <= last))
    usable = _longest_stretch(steps, allowed, [event.step for event in critical])
    rates = frame["learning_rate"].dropna()
    weights, updates = _totals(run, name)
    weights = weights[np.isfinite(weights) & (weights > 0)]
    ratios = updates.loc[weights.index] / weights
    ratios = ratios[np.isfinite(ratios)]
    settings = run.settings(name)
    momentum = settings.get("momentum")
    coefs = frame["clip_coef"].to_numpy(float)
    meta = run.meta()
    return History(
        run=run.name,
        norms=norms[usable],
        given=(norms * np.where(np.isfinite(coefs), coefs, 1.0))[usable],
        every_norm=norms[finite & (np.arange(len(norms)) >= warm_up) & (steps < _lost(critical))],
        frame=frame,
        events=tuple(events),
        nonfinite=int((~np.isfinite(norms)).sum()),
        lost_at=critical[0] if critical else None,
        worst=_worst(norms[finite], critical),
        optimizer_class=run.optimizers.get(name, ""),
        learning_rate=float(rates.max()) if len(rates) else None,
        momentum=float(momentum) if isinstance(momentum, int | float) and 0 <= momentum < 1 else 0.0,
        weights=weights,
        update_ratio=float(np.median(ratios)) if len(ratios) else None,
        least_norm=_least_norm(run, name),
        moment=meta.get("moment", "unknown"),
        every=int(meta.get("every", "1")),
        left_out=f"the first {warm_up} as warm-up" + (", and those around and after events" if events else ""),
    )


def _least_norm(run: Run, optimizer: str) -> float:
    eps = eps_of(run.settings(optimizer)) or 0.0
    return ABOVE_EPS * eps * math.sqrt(sum(parameter.numel for parameter in run.parameters(optimizer)))


def _marked(event: Event) -> tuple[int, int]:
    """The first and the last step that do not count because of an event; none for most kinds."""
    last = event.step if event.until is None else event.until
    if event.severity == "info":
        return 0, -1  # of a kind that this training has all the time
    if event.kind == "spike" or (event.kind == "explosion" and event.until is not None and last - event.step < SHORT):
        return event.step, last
    if event.kind in ("explosion", "nonfinite"):
        return event.step - BEFORE_EVENT, max(event.step + AFTER_EVENT - 1, event.until or 0)
    return 0, -1


def _is_over(event: Event, steps: NDArray[np.int64]) -> bool:
    """Whether an explosion ended well before the record did; the training then went on."""
    return event.kind == "explosion" and event.until is not None and event.until + AFTER_EVENT < steps[-1]


def _worst(norms: Array, critical: Sequence[Event]) -> float:
    observed = [e.observed for e in critical if e.kind == "explosion" and e.observed is not None]
    if observed and math.isfinite(observed[0]):
        return observed[0]
    return float(norms.max(initial=0.0))


def _totals(run: Run, optimizer: str) -> tuple[pd.Series, pd.Series]:
    """By step the sampled norms over all parameters: of the weights, and of what the step changed."""
    weights, updates = (run.layers(stat, optimizer) for stat in WEIGHT_STATS)
    both = weights.index.intersection(updates.index)
    weight, update = (
        pd.Series(np.sqrt(np.square(frame.loc[both].to_numpy(float)).sum(axis=1)), both) for frame in (weights, updates)
    )
    return weight, update


def _lost(critical: Sequence[Event]) -> float:
    """The step at which the training was lost; infinite if it was not."""
    return critical[0].step if critical else math.inf


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
