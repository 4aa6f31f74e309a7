"""Optimizers that take turns over the same weights: one that is made anew again and again loses its state."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.statistics.quantiles import Array
from gradwatch.text import count

MIN_OPTIMIZERS = 3  # one after another: two are a change of the optimizer, which is usual
MIN_STEPS = 3  # of each
MIN_BRIEF = 10  # optimizers of fewer steps each, or of an unknown rule: where one of them ended is not known
CONTINUED = 0.25  # of the distance from the first norm of the weights: how far from its end the next one may begin
MOST = 0.8  # of the pairs


def turns(facts: Facts) -> list[OptimizerFacts]:
    """The optimizers of one class that took over the same weights one after another, in order of time."""
    alike = defaultdict(list)
    for optimizer in facts.optimizers:
        is_brief = len(optimizer.frame) < MIN_STEPS
        shapes = tuple((info.name, info.shape) for info in optimizer.parameters)
        if len(optimizer.frame):
            alike[optimizer.class_name, shapes, is_brief].append(optimizer)
    return next((found for group in alike.values() if (found := _in_turn(group))), [])


def _in_turn(group: Sequence[OptimizerFacts]) -> list[OptimizerFacts]:
    ordered = sorted(group, key=lambda optimizer: float(_clock(optimizer)[0]))
    pairs = list(itertools.pairwise(ordered))
    if len(ordered) < MIN_OPTIMIZERS or not all(_clock(a)[-1] <= _clock(b)[0] for a, b in pairs):
        return []
    if len(ordered[0].frame) < MIN_STEPS or not all(_are_ends_known(optimizer) for optimizer in ordered):
        return ordered if _walk(ordered) else []
    start = _weight_norms(ordered[0])[0]
    went_on = sum(_goes_on(a, b, start) for a, b in pairs)
    return ordered if went_on >= MOST * len(pairs) else []


def _walk(ordered: Sequence[OptimizerFacts]) -> bool:
    """Whether the weights of many optimizers begin near those of the one before, and far from the first.

    New models begin as far from one another as from the first, and copies of one model begin alike.
    """
    if len(ordered) < MIN_BRIEF or any(optimizer.weights.empty for optimizer in ordered):
        return False
    norms = np.stack([optimizer.weights.iloc[0].to_numpy(float) for optimizer in ordered])  # (optimizers, parameters)
    moved, away = (np.linalg.norm(d, axis=1) for d in (np.diff(norms, axis=0), norms[1:] - norms[0]))
    return bool(0 < np.median(moved) < CONTINUED * np.median(away))  # False where a norm is not finite


def _clock(optimizer: OptimizerFacts) -> Array:
    times: Array = optimizer.frame["wall_time"].to_numpy(float)
    return times


def _weight_norms(optimizer: OptimizerFacts) -> Array:
    norms: Array = optimizer.frame["weight_norm"].to_numpy(float)
    return norms


def _are_ends_known(optimizer: OptimizerFacts) -> bool:
    """Whether the norm of the weights is known at the first and the last step; it is of optimizers of known rules."""
    return bool(np.isfinite(_weight_norms(optimizer)[[0, -1]]).all())


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
    each, first = int(np.median(steps)), found[0]
    loop = "batches" if each < MIN_STEPS else "epochs"
    has_state = bool(first.settings.get("momentum")) or bool(first.settings.get("betas"))
    lost = "each begins without the momentum of the one before" if has_state else "each is made anew"
    kind = first.class_name or "an unknown class"
    return Finding(
        code="optimizer-recreated",
        severity="warning" if has_state else "info",
        certainty="likely",
        what=f"{len(found)} optimizers ({kind}) train the same weights one after another, for {count(each, 'step')}"
        f" each: {lost}",
        optimizer=first.name,
        evidence={
            "optimizers": Quantity(len(found), "optimizers"),
            "steps_each": Quantity(each, "steps, median"),
            "steps": Quantity(sum(steps), "steps, of all of them"),
        },
        cause=f"the optimizer is created inside the loop over {loop}, or a function that creates it is called again",
        remedy="create the optimizer once, before the loop; to lower its rate use a scheduler, or set"
        ' param_group["lr"]',
        confirm="print id(optimizer) at each pass of the loop; is it the inner loop of meta-learning (Reptile, MAML),"
        " where a new optimizer is intended?",
    )


RULES = (optimizer_recreated,)
