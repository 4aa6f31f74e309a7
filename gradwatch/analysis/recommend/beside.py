"""Warm-up, dropout and early stopping: named where they explain what is seen, and clipping does not help."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gradwatch.analysis.statistics.lone_spikes import lone_spikes
from gradwatch.analysis.statistics.optimizer_history import OptimizerHistory
from gradwatch.analysis.statistics.recovery import robust_deviation
from gradwatch.analysis.statistics.validation import turn, validation_losses
from gradwatch.text import number

FIRST_STEPS = 100  # a spike by then, at the full learning rate, may be for want of a warm-up
RAMP = 1.2  # times the first: a learning rate that rises further has a warm-up
SCATTER_OF_DROPOUT = 0.1  # in a small network dropout alone made 0.02 to 0.06 (docs/policies.md)


def beside_clipping(history: OptimizerHistory, meta: Mapping[str, str]) -> list[str]:
    """A sentence each for a missing warm-up, for dropout and for early stopping, where the record shows them."""
    found = (warm_up(history), dropout(history, meta.get("dropout", "")), early_stopping(history, meta))
    return [sentence for sentence in found if sentence is not None]


def warm_up(history: OptimizerHistory) -> str | None:
    """Name a missing warm-up where an adaptive optimizer has its largest spike among the first steps."""
    steps, norms = history.frame.index.to_numpy(np.int64), history.frame["total_norm"].to_numpy(float)
    rates = history.frame["learning_rate"].to_numpy(float)
    rates = rates[np.isfinite(rates)]
    if not history.is_adaptive or not len(rates) or steps[0] != 0 or rates.max() > RAMP * rates[0]:
        return None
    usable = np.isfinite(norms) & (norms > 0)
    told = {event.step for event in history.events if event.kind in ("spike", "explosion") and event.severity != "info"}
    spikes = lone_spikes(steps[usable], norms[usable], told)
    if not spikes:
        return None
    step, ratio = max(spikes, key=lambda spike: spike[1])
    if step > FIRST_STEPS:
        return None
    return (
        f"warm-up: the largest spike, {ratio:.3g} times its neighbours at step {step}, is one of the first steps, and"
        f" the learning rate is {number(float(rates[0]))} from the start, when the averages of"
        f" {history.optimizer_class} rest on few gradients; a warm-up may avoid it where clipping only limits it"
    )


def dropout(history: OptimizerHistory, largest: str) -> str | None:
    """How much of the scatter of the norms may be dropout's; ``largest``: the largest share that the model drops."""
    if not largest or len(history.norms) < 2:
        return None
    scatter = robust_deviation(np.diff(np.log(history.norms))) / math.sqrt(2)
    part = "it may be most of that" if scatter < SCATTER_OF_DROPOUT else "most of that comes from the batches"
    return (
        f"dropout: norms scatter by {scatter:.0%} from step to step. The model drops up to {largest} of its units,"
        f" others at each step, which alone makes some percent: {part}. No threshold removes such noise"
    )


def early_stopping(history: OptimizerHistory, meta: Mapping[str, str]) -> str | None:
    """Name the best step of a validation loss that rises while the loss of the training falls."""
    found = turn(validation_losses(meta), history)
    if found is None:
        return None
    return (
        f"early stopping: the validation loss has risen since step {found.step}, from {number(found.best)} to"
        f" {number(found.last)}, while the loss of the training fell from {number(found.training_then)} to"
        f" {number(found.training_last)}; keep the checkpoint of step {found.step}. More data, dropout or weight decay"
        " let a training learn for longer, and clipping does not"
    )
