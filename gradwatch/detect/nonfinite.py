"""A gradient or a loss that is NaN or infinite, or a norm that overflowed over finite entries."""

from __future__ import annotations

import math

import numpy as np

from gradwatch.detect.episode import Episode
from gradwatch.record import Event, LayerStats, Origin, StepRecord, event_at
from gradwatch.text import number


class NonFinite:
    """One event for each stretch of steps with NaN or infinite gradients.

    Its origin is the weights, if those were not finite before the step (they are sampled at such a step; the
    event names the first of them in the model's order); else the loss, if that was not finite; else the
    backward pass. Then the event names the first parameter in backward order, taken to be the reverse of the
    model's: a backward pass that meets its first NaN in one layer passes it on to every layer before it.

    A stretch that ends is lowered from critical to a warning: a NaN that reaches the weights does not go away.

    An infinite norm over finite entries is a different fact and is reported as such. So is a loss that is not
    finite while its gradient still is, for example the square of 1e20, or while its gradient is not known.
    """

    def __init__(self) -> None:
        self._episode = Episode()

    def update(self, record: StepRecord) -> list[Event]:
        loss_is_finite = record.loss is None or math.isfinite(record.loss)
        if record.skipped and record.loss_scale is not None and loss_is_finite:
            return []  # a GradScaler skipped it: see `LossScale`
        event = _event(record)
        if event is None:
            return self._episode.calm("the steps after it are finite")
        if self._episode.event is not None and self._episode.event.severity == "critical":
            return self._episode.again(record.step)
        return self._episode.alarm(event)


def _event(record: StepRecord) -> Event | None:
    is_known_entry_by_entry = record.layers is not None or math.isfinite(record.total_norm)
    if record.norm_overflowed and is_known_entry_by_entry:
        return _overflow(record)
    if record.nonfinite > 0 or math.isinf(record.total_norm):
        return _nonfinite_gradient(record)
    if record.loss is not None and not math.isfinite(record.loss):
        return _nonfinite_loss(record)
    return None


def _nonfinite_gradient(record: StepRecord) -> Event:
    first, text = _where(record.layers)
    origin, parameter, source = _origin(record, first)
    ranks = [] if record.ranks is None else record.ranks.not_finite()
    if ranks:
        is_every = record.ranks is not None and len(ranks) == len(record.ranks.norm)
        source += "; in every rank" if is_every else f"; in rank {', '.join(map(str, ranks))}"
    return event_at(
        record,
        kind="nonfinite",
        severity="warning" if record.skipped else "critical",
        message=f"{text}{source}" + ("; the update was skipped" if record.skipped else ""),
        parameter=parameter,
        observed=float(record.nonfinite),
        limit=0.0,
        origin=origin,
        rank=ranks[0] if ranks else None,
    )


def _origin(record: StepRecord, first: str | None) -> tuple[Origin | None, str | None, str]:
    """Where a non-finite gradient came from, the parameter to name, and its part of the message."""
    bad_weights = _bad_weights(record)
    if bad_weights is not None:
        return "weights", bad_weights, f"; the weights of {bad_weights} were not finite before the step"
    if record.loss is None or record.loss == 0:
        # Loggers that leave NaN out of a mean write 0 where nothing else is in it.
        return None, first, ""
    if math.isfinite(record.loss):
        return "backward", first, "; the loss was still finite"
    if record.weights is not None:
        return "loss", None, "; the loss was not finite either, while the weights still were"
    return None, first, "; the loss was not finite either"


def _bad_weights(record: StepRecord) -> str | None:
    """The first parameter whose weights were not finite before the step, where they were sampled."""
    if record.weights is None or record.layers is None:
        return None
    norm = record.weights.weight_norm
    present = record.layers.present[: len(norm)]
    bad = np.flatnonzero(~np.isfinite(norm[: len(present)]) & present)
    return record.layers.parameters[int(bad[0])].name if len(bad) else None


def _where(layers: LayerStats | None) -> tuple[str | None, str]:
    """The first non-finite parameter in backward order, and the beginning of the message."""
    if layers is None or layers.nonfinite is None or not np.any(layers.nonfinite > 0):
        return None, "NaN or infinite gradient"
    bad = np.flatnonzero(layers.nonfinite > 0)
    first = int(bad[-1])
    what = "NaN" if math.isnan(layers.norm[first]) else "infinite"
    name, count = layers.parameters[first].name, int(layers.nonfinite[first])
    present = int(np.count_nonzero(layers.present))
    where = "every parameter" if len(bad) == present else f"{len(bad)} of {present} parameters"
    entries = f"{count} {what} {'entry' if count == 1 else 'entries'}"
    return name, f"{entries} in the gradient of {name}; {where} affected"


def _nonfinite_loss(record: StepRecord) -> Event:
    gradient = (
        f", while every gradient is finite (total norm {number(record.total_norm)})" if record.norm_is_known else ""
    )
    return event_at(
        record,
        kind="nonfinite",
        severity="critical",
        message=f"the loss is {number(record.loss)}{gradient}",
        observed=record.loss,
        origin="loss",
    )


def _overflow(record: StepRecord) -> Event:
    largest = None
    parameter = None
    if record.layers is not None and record.layers.abs_max is not None:
        index = int(np.nanargmax(record.layers.abs_max))
        largest, parameter = float(record.layers.abs_max[index]), record.layers.parameters[index].name
    entry = "" if largest is None else f" (the largest is {number(largest, 2)})"
    zeroed = ", and clipping by it set every gradient to 0" if record.clip_coef == 0 else ""
    return event_at(
        record,
        kind="nonfinite",
        severity="critical",
        message=f"norm overflow: every entry is finite{entry} but their norm was not{zeroed}",
        parameter=parameter,
        observed=record.total_norm,
    )
