"""Optimizers that take turns over the same weights: one that is made anew again and again loses its state."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.statistics.quantiles import Array

MIN_OPTIMIZERS = 3  # one after another: two are a change of the optimizer, which is usual
MIN_STEPS = 3  # of each
CONTINUED = 0.25  # of the distance from the first norm of the weights: how far from its end the next one may begin
MOST = 0.8  # of the pairs


def turns(facts: Facts) -> list[OptimizerFacts]:
    """The optimizers of one class that took over the same weights one after another, in order of time."""
    alike = defaultdict(list)
    for optimizer in facts.optimizers:
        if len(optimizer.frame) >= MIN_STEPS:
            alike[optimizer.class_name, tuple(optimizer.names)].append(optimizer)
    return next((found for group in alike.values() if (found := _in_turn(group))), [])


def _in_turn(group: Sequence[OptimizerFacts]) -> list[OptimizerFacts]:
    ordered = sorted(group, key=lambda optimizer: float(_clock(optimizer)[0]))
    pairs = list(itertools.pairwise(ordered))
    if len(ordered) < MIN_OPTIMIZERS or not all(_clock(a)[-1] <= _clock(b)[0] for a, b in pairs):
        return []
    start = _weight_norms(ordered[0])[0]
    went_on = sum(_goes_on(a, b, start) for a, b in pairs)
    return ordered if went_on >= MOST * len(pairs) else []


def _clock(optimizer: OptimizerFacts) -> Array:
    times: Array = optimizer.frame["wall_time"].to_numpy(float)
    return times


def _weight_norms(optimizer: OptimizerFacts) -> Array:
    norms: Array = optimizer.frame["weight_norm"].to_numpy(float)
    return norms


def _goes_on(before: OptimizerFacts, after: OptimizerFacts, start: float) -> bool:
    """Whether the weights of one optimizer begin where those of the other ended, rather than anew.

    A new model of the same shape, as of the next fold or the next trial, begins near the norm ``start`` of the first.
    """
    ended, begins = _weight_norms(before)[-1], _weight_norms(after)[0]
    return bool(abs(begins - ended) < CONTINUED * abs(begins - start))  # False where one is not known


def optimizer_recreated(facts: Facts) -> Finding | None:
    """One optimizer after another over the same weights: momentum and second moments are lost at each change."""
    found = turns(facts)
    if not found:
        return None
    steps = [len(optimizer.frame) for optimizer in found]
    first = found[0]
    has_state = bool(first.settings.get("momentum")) or bool(first.settings.get("betas"))
    kind = first.class_name or "an unknown class"
    return Finding(
        code="optimizer-recreated",
        severity="warning" if has_state else "info",
        certainty="likely",
        what=f"{len(found)} optimizers ({kind}) train the same weights one after another, for {int(np.median(steps))}"
        " steps each: " + ("each begins without the momentum of the one before" if has_state else "each is made anew"),
        optimizer=first.name,
        evidence={
            "optimizers": Quantity(len(found), "optimizers"),
            "steps_each": Quantity(int(np.median(steps)), "steps, median"),
            "steps": Quantity(sum(steps), "steps, of all of them"),
        },
        cause="the optimizer is created inside the loop over epochs, or a function that creates it is called again",
        remedy="create the optimizer once, before the loop; to lower its rate use a scheduler, or set"
        ' param_group["lr"]',
        confirm="print id(optimizer) at the start of each epoch",
    )


RULES = (optimizer_recreated,)
