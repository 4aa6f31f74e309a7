"""The part of an optimizer's record that the advice is based on, and the facts around it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.frames import is_loss_nonfinite, is_nonfinite, known_values
from gradwatch.analysis.history import RunReader
from gradwatch.analysis.statistics.loss_levels import is_about_zero, medians
from gradwatch.analysis.statistics.quantiles import Array, chosen_of
from gradwatch.analysis.statistics.recovery import came_back
from gradwatch.analysis.statistics.update_rule import find_update_rule, is_of_fixed_size
from gradwatch.detect import eps_of
from gradwatch.detect.optimizers import UpdateRule
from gradwatch.record import NOT_LOGGED, WEIGHT_STATS, Event

STEPS_BEFORE_EVENT, STEPS_AFTER_EVENT = 10, 50  # left out around an explosion or a non-finite step
MIN_RMS_OVER_EPS = 1000.0  # least root mean square of a gradient that is clipped at every step, in units of eps
SHORT_EXPLOSION_STEPS = 4  # an explosion that ends by then leaves the steps around it usable
SAME_LOSSES_SHARE = 0.5  # of the losses of one optimizer that another one has too: they train on one loss
MIN_CLIP_COEF = 1e-6  # keeps quotients by a coefficient finite


@dataclass(frozen=True, kw_only=True)
class OptimizerHistory:
    """The record of one optimizer of a run: which steps are usable, and what is known around them.

    A step is usable when it is finite, was not skipped, lies past the warm-up and not around an event. Where a
    training was lost, only the longest stretch between two such events counts.
    """

    run: str
    norms: Array  # of the usable steps, in order; before clipping
    clip_coefs: Array  # of the same steps, what each norm was multiplied by; 1 where that is not known
    every_norm: Array  # all finite norms after the warm-up and before the training was lost
    frame: pd.DataFrame  # `RunReader.steps` of the optimizer
    events: tuple[Event, ...]
    nonfinite: int  # steps
    lost_at: Event | None  # the first critical event from which the training did not recover
    worst: float  # the norm at which the training was lost, else the largest finite one
    optimizer_class: str
    learning_rate: float | None  # the largest
    momentum: float
    weights: pd.Series[float]  # the norm over all parameters, by step, where it was sampled and is not 0
    update_ratio: float | None  # over all parameters, the median of the samples
    least_norm: float  # below it the eps of an adaptive optimizer would count; 0 for others
    moment: str  # before clipping, after clipping, unknown or not logged
    every: int  # steps from one record to the next
    warm_up: int  # steps at the start that do not count
    update_rule: UpdateRule | None = None  # whether the update follows the gradient; None: not known
    fixed_size: bool = False  # whether each update is known to be as large as the last
    has_opponents: bool = False  # as `beside_others` finds: the loss rises as another optimizer learns
    rewards: Array = field(default_factory=lambda: np.empty(0))  # that the log of a policy's training has, in order

    @cached_property
    def given(self) -> Array:
        """The norms after clipping."""
        return self.norms * self.clip_coefs

    @property
    def has_norms(self) -> bool:
        """Whether norms of the gradient are known, as they are of every run but some imported histories."""
        return self.moment != NOT_LOGGED

    @property
    def steps(self) -> int:
        """Recorded steps, usable or not."""
        return len(self.frame)

    @property
    def spikes(self) -> int:
        """Spikes and explosions of at least severity warning."""
        return len(self._spike_events)

    @property
    def largest_spike(self) -> float | None:
        """The largest finite total norm at the steps of `spikes`; None without one."""
        steps = self.frame.index.to_numpy(np.int64)
        at = np.zeros(len(steps), bool)
        for event in self._spike_events:
            at |= (steps >= event.step) & (steps <= (event.step if event.until is None else event.until))
        norms = self.frame["total_norm"].to_numpy(float)[at]
        norms = norms[np.isfinite(norms)]
        return float(norms.max()) if len(norms) else None

    @property
    def _spike_events(self) -> list[Event]:
        return [event for event in self.events if event.severity != "info" and event.kind in ("spike", "explosion")]

    @property
    def unstable(self) -> bool:
        """Whether the training was lost, or had a spike or an explosion."""
        return self.lost_at is not None or self.spikes > 0

    @property
    def weight_norm(self) -> float | None:
        """The norm of all weights in the first sample."""
        return float(self.weights.iloc[0]) if len(self.weights) else None

    @property
    def last_weight_norm(self) -> float | None:
        """The norm of all weights in the last sample."""
        return float(self.weights.iloc[-1]) if len(self.weights) else None

    @property
    def median_clip_coef(self) -> float:
        """The median over usable steps of the norm after clipping over the norm before it."""
        return max(float(np.median(self.given / self.norms)), MIN_CLIP_COEF) if len(self.norms) else 1.0

    @property
    def is_adaptive(self) -> bool:
        """Whether the optimizer is known to divide by the size of its gradients, as Adam does."""
        return self.update_rule == "normalises"

    @property
    def has_fixed_size(self) -> bool:
        """Whether the update is the sign of the momentum or a matrix of equal singular values, as Lion's and Muon's."""
        return self.is_adaptive and self.fixed_size

    @property
    def follows_gradient(self) -> bool:
        """Whether the update is known to grow with the gradient, as that of SGD does."""
        return self.update_rule == "follows-gradient"

    @property
    def ended_nonfinite(self) -> bool:
        """Whether the norm or the logged loss of the last step is NaN or infinite."""
        last = self.frame.iloc[-1:]
        return bool((is_nonfinite(last) | is_loss_nonfinite(last)).any())

    @cached_property
    def losses(self) -> Array:
        """The finite logged losses, in order."""
        return chosen_of(self.frame["loss"].to_numpy(float), self._has_loss())

    @cached_property
    def loss_steps(self) -> NDArray[np.int64]:
        """The steps of `losses`."""
        return chosen_of(self.frame.index.to_numpy(np.int64), self._has_loss())

    @cached_property
    def loss_levels(self) -> list[float]:
        """The median of each tenth of `losses`."""
        return medians(np.array_split(self.losses, 10))

    @cached_property
    def has_surrogate_loss(self) -> bool:
        """Whether `losses` show no progress: they scatter about 0 or begin there, or a policy is trained by rewards."""
        return bool(len(self.rewards)) or is_about_zero(self.losses)

    def _has_loss(self) -> NDArray[np.bool_]:
        logged, losses = self.frame["loss_logged"].to_numpy(bool), self.frame["loss"].to_numpy(float)
        there: NDArray[np.bool_] = logged & np.isfinite(losses)
        return there


def optimizer_history(
    reader: RunReader, optimizer: str | None = None, frame: pd.DataFrame | None = None
) -> OptimizerHistory:
    """Read the history of one optimizer, the first if None; ``frame`` is its `RunReader.steps`, if it was read."""
    name = reader.optimizer(optimizer)
    frame = reader.steps_to_read(name) if frame is None else frame
    events = tuple(event for event in reader.events() if event.optimizer == name)
    steps = frame.index.to_numpy(np.int64)
    norms = frame["total_norm"].to_numpy(float)
    finite = np.isfinite(norms) & (norms > 0) & ~frame["skipped"].to_numpy(bool)
    warm_up = _warm_up_steps(len(norms))
    counts = finite.copy()
    counts[:warm_up] = False
    losses = frame["loss"].to_numpy(float)
    critical = [
        event
        for event in events
        if event.severity == "critical" and not _has_recovered(event, steps=steps, norms=norms, losses=losses)
    ]
    usable = _usable(steps, counts, events, critical)
    coefs = frame["clip_coef"].to_numpy(float)
    rates = known_values(frame, "learning_rate")
    settings = reader.settings(name)
    meta = reader.meta()
    weights, updates = _total_norms(reader, name)
    class_name = reader.optimizers.get(name, "")
    update_rule = find_update_rule(class_name, settings, frame, updates)
    weights, update_ratio = _weights(weights, updates)
    return OptimizerHistory(
        run=reader.name,
        norms=chosen_of(norms, usable),
        clip_coefs=chosen_of(coefs if np.isfinite(coefs).all() else np.where(np.isfinite(coefs), coefs, 1.0), usable),
        every_norm=chosen_of(norms, counts & (steps < critical[0].step) if critical else counts),
        frame=frame,
        events=events,
        nonfinite=int(is_nonfinite(frame).sum()),
        lost_at=critical[0] if critical else None,
        worst=_worst(chosen_of(norms, finite), critical),
        optimizer_class=class_name,
        update_rule=update_rule,
        fixed_size=is_of_fixed_size(class_name, settings),
        learning_rate=float(rates.max()) if len(rates) else None,
        momentum=_momentum(settings),
        weights=weights,
        update_ratio=update_ratio,
        least_norm=_least_norm(reader, name),
        moment=meta.get("moment", "unknown"),
        every=int(meta.get("every", "1")),
        rewards=np.array(json.loads(meta.get("rewards", "[]")), float),
        warm_up=warm_up,
    )


def beside_others(history: OptimizerHistory, reader: RunReader, name: str) -> OptimizerHistory:
    """The history of an optimizer, with whether others of the run train on other losses, as those of a GAN do."""
    others = (other for other in reader.optimizers if other != name)
    return replace(history, has_opponents=any(_is_opponent(reader, other, history.losses) for other in others))


def _is_opponent(reader: RunReader, other: str, losses: Array) -> bool:
    """Whether another optimizer has losses that are not these; those that share one model are given the same ones."""
    of_other = reader.steps_to_read(other)["loss"].to_numpy(float)
    if not len(losses) or not np.isfinite(of_other).any():
        return False
    return bool(np.isin(losses, of_other).mean() < SAME_LOSSES_SHARE)


def _usable(
    steps: NDArray[np.int64], counts: NDArray[np.bool_], events: Sequence[Event], critical: Sequence[Event]
) -> NDArray[np.bool_]:
    """Which steps count: away from events, and of several stretches between critical events the longest."""
    allowed = counts.copy()
    for event in events:
        first, last = _steps_left_out(event)
        allowed &= ~((steps >= first) & (steps <= last))
    return _longest_stretch(steps, allowed, [event.step for event in critical])


def _least_norm(reader: RunReader, optimizer: str) -> float:
    eps = eps_of(reader.settings(optimizer)) or 0.0
    return MIN_RMS_OVER_EPS * eps * math.sqrt(sum(parameter.numel for parameter in reader.parameters(optimizer)))


def _steps_left_out(event: Event) -> tuple[int, int]:
    """The first and the last step that do not count because of an event; (0, -1) for no step."""
    last = event.step if event.until is None else event.until
    if event.severity == "info":
        return 0, -1  # this training has such steps all the time
    is_short = event.until is not None and last - event.step < SHORT_EXPLOSION_STEPS
    if event.kind == "spike" or (event.kind == "explosion" and is_short):
        return event.step, last
    if event.kind in ("explosion", "nonfinite"):
        return event.step - STEPS_BEFORE_EVENT, max(event.step + STEPS_AFTER_EVENT - 1, event.until or 0)
    return 0, -1


def _is_over(event: Event, steps: NDArray[np.int64]) -> bool:
    """Whether an explosion ended well before the record did: the training then recovered."""
    return event.kind == "explosion" and event.until is not None and event.until + STEPS_AFTER_EVENT < steps[-1]


def _has_recovered(event: Event, *, steps: NDArray[np.int64], norms: Array, losses: Array) -> bool:
    """Whether an event is an explosion from which the training came back."""
    return _is_over(event, steps) or (event.kind == "explosion" and came_back(steps, norms, losses, event))


def _momentum(settings: Mapping[str, object]) -> float:
    """The momentum of an optimizer's settings; 0 if they hold none, or no valid one."""
    momentum = settings.get("momentum")
    return float(momentum) if isinstance(momentum, int | float) and 0 <= momentum < 1 else 0.0


def _worst(norms: Array, critical: Sequence[Event]) -> float:
    observed = [e.observed for e in critical if e.kind == "explosion" and e.observed is not None]
    if observed and math.isfinite(observed[0]):
        return observed[0]
    return float(norms.max(initial=0.0))


def _weights(weights: pd.Series[float], updates: pd.Series[float]) -> tuple[pd.Series[float], float | None]:
    """The sampled norms over all weights that are usable, and the median of the update's norm over them."""
    weights = weights[np.isfinite(weights) & (weights > 0)]
    ratios = updates.loc[weights.index] / weights
    ratios = ratios[np.isfinite(ratios)]
    return weights, float(np.median(ratios)) if len(ratios) else None


def _total_norms(reader: RunReader, optimizer: str) -> tuple[pd.Series[float], pd.Series[float]]:
    """By step the sampled norms over all parameters: of the weights, and of the update."""
    weights, updates = (reader.layers(stat, optimizer) for stat in WEIGHT_STATS)
    both = weights.index.intersection(updates.index)
    weight, update = (
        pd.Series(np.sqrt(np.square(frame.loc[both].to_numpy(float)).sum(axis=1)), both) for frame in (weights, updates)
    )
    return weight, update


def _warm_up_steps(steps: int) -> int:
    """A twentieth of the run, at least 20 steps and at most 500.

    >>> _warm_up_steps(100), _warm_up_steps(2000), _warm_up_steps(10**6)
    (20, 100, 500)
    """
    return min(500, max(20, steps // 20))


def _longest_stretch(steps: NDArray[np.int64], allowed: NDArray[np.bool_], cuts: Sequence[int]) -> NDArray[np.bool_]:
    """Of the stretches between critical events, the one with the most usable steps.

    The steps after a training was lost say little about a healthy one.
    """
    if not cuts:
        return allowed
    stretch = np.searchsorted(np.unique(cuts), steps, side="right")
    counts = np.bincount(stretch[allowed], minlength=1)
    longest: NDArray[np.bool_] = allowed & (stretch == int(np.argmax(counts)))
    return longest
