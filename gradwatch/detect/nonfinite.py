"""A gradient or a loss that is NaN or infinite, or a norm that overflowed over finite entries."""

from __future__ import annotations

import math

import numpy as np

from gradwatch.detect.episode import Episode
from gradwatch.record import Event, LayerStats, Severity, StepRecord


class NonFinite:
    """One event for each stretch of steps with NaN or infinite gradients.

    Where it came from: from the weights, if those were not finite before the step (they are
    sampled at such a step; the event names the first of them in the model's order); with the loss,
    if that was not finite; else from the backward pass. Then the event names the first parameter
    in backward order, which is taken to be the reverse of the model's own: a backward pass that
    meets its first NaN in one layer hands it on to every layer before it.

    An infinite norm over finite entries is a different fact and is said as such, and so is a loss
    that is not finite while its gradient still is (the square of 1e20, say).
    """

    def __init__(self) -> None:
        self._episode = Episode()

    def update(self, record: StepRecord) -> list[Event]:
        if record.skipped and record.loss_scale is not None:
            return []  # a GradScaler's doing, and `LossScale`'s business
        overflowed = record.norm_overflowed
        loss_lost = record.loss is not None and not math.isfinite(record.loss)
        gradient_lost = record.nonfinite > 0 or not math.isfinite(record.total_norm)
        if not (gradient_lost or overflowed or loss_lost):
            return self._episode.calm()
        worst = self._episode.event is not None and self._episode.event.severity == "critical"
        if worst:
            return self._episode.again(record.step)
        if overflowed:
            return self._episode.alarm(_overflow(record))
        return self._episode.alarm(_nonfinite(record) if gradient_lost else _lost_loss(record))


def _nonfinite(record: StepRecord) -> Event:
    parameter, text = _where(record.layers)
    origin = None
    source = ""
    bad_weights = _bad_weights(record)
    if bad_weights is not None:
        origin, parameter = "weights", bad_weights
        source = f"; it came from the weights: those of {bad_weights} were not finite before the step"
    elif record.loss is not None and math.isfinite(record.loss):
        origin, source = "backward", "; it came from the backward pass: the loss was still finite"
    elif record.loss is not None and record.weights is not None:
        origin, parameter = "loss", None
        source = "; it came with the loss (input, target or forward pass): the weights were still finite"
    elif record.loss is not None:
        source = "; the loss was not finite either"
    ranks = [] if record.ranks is None else record.ranks.not_finite()
    if ranks:
        every = len(ranks) == len(record.ranks.norm) if record.ranks is not None else False
        source += "; in every rank" if every else f"; it came from rank {', '.join(map(str, ranks))}"
    severity: Severity = "warning" if record.skipped else "critical"
    return Event(
        step=record.step,
        kind="nonfinite",
        severity=severity,
        parameter=parameter,
        observed=float(record.nonfinite),
        limit=0.0,
        message=f"{text}{source}" + ("; the update was skipped" if record.skipped else ""),
        optimizer=record.optimizer,
        attempt=record.attempt,
        origin=origin,
        rank=ranks[0] if ranks else None,
    )


def _bad_weights(record: StepRecord) -> str | None:
    """The first parameter whose weights were not finite before the step, where they were sampled."""
    if record.weights is None or record.layers is None:
        return None
    norm = record.weights.weight_norm
    there = record.layers.present[: len(norm)]
    bad = np.flatnonzero(~np.isfinite(norm[: len(there)]) & there)
    return record.layers.parameters[int(bad[0])].name if len(bad) else None


def _where(layers: LayerStats | None) -> tuple[str | None, str]:
    if layers is None or layers.nonfinite is None or not np.any(layers.nonfinite > 0):
        return None, "NaN or infinite gradient"
    bad = np.flatnonzero(layers.nonfinite > 0)
    first = int(bad[-1])
    what = "NaN" if math.isnan(layers.norm[first]) else "infinite"
    name, count = layers.parameters[first].name, int(layers.nonfinite[first])
    every = len(bad) == int(np.count_nonzero(layers.present))
    where = "every parameter" if every else f"{len(bad)} of {int(layers.present.sum())} parameters"
    entries = f"{count} {what} {'entry' if count == 1 else 'entries'}"
    return name, f"{entries} in the gradient of {name}; {where} affected"


def _lost_loss(record: StepRecord) -> Event:
    return Event(
        step=record.step,
        kind="nonfinite",
        severity="critical",
        observed=record.loss,
        origin="loss",
        message=f"the loss is {record.loss}, while every gradient is finite (total norm {record.total_norm:.3g})",
        optimizer=record.optimizer,
        attempt=record.attempt,
    )


def _overflow(record: StepRecord) -> Event:
    largest = None
    parameter = None
    if record.layers is not None and record.layers.abs_max is not None:
        index = int(np.nanargmax(record.layers.abs_max))
        largest, parameter = float(record.layers.abs_max[index]), record.layers.parameters[index].name
    entry = "" if largest is None else f" (the largest is {largest:.2g})"
    zeroed = ", and clipping by it set every gradient to 0" if record.clip_coef == 0 else ""
    return Event(
        step=record.step,
        kind="nonfinite",
        severity="critical",
        parameter=parameter,
        observed=record.total_norm,
        limit=None,
        message=f"norm overflow: every entry is finite{entry} but their norm was not{zeroed}",
        optimizer=record.optimizer,
        attempt=record.attempt,
    )
