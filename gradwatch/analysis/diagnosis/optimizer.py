"""Findings that depend on how the optimizer uses the size of a gradient: eps, learning rate, momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import WHICH_THRESHOLD, Finding, Quantity, listed
from gradwatch.analysis.diagnosis.schedule import end_of_warm_up
from gradwatch.analysis.statistics.progress import has_risen
from gradwatch.analysis.statistics.proportions import OutOfProportion, out_of_proportion
from gradwatch.detect import traits_of
from gradwatch.detect.drift import TELLING_RISE
from gradwatch.detect.steady_state import expected_rise, explained_rise
from gradwatch.record import Event
from gradwatch.text import count, number, share

LARGE_UPDATE_RATIO = 0.02  # of a parameter's norm, median
FEW_SAMPLES = 5  # of the weights: with fewer it is not known whether weight decay shrank them
MIN_LATER_SAMPLES = 2  # of the second half of a run: by default every 50th step is sampled
MOVES_TOO_FAR = (  # cause, remedy and how to confirm it
    "the learning rate of these parameters is too high for their size: a parameter group with its own rate, very small"
    " initial weights, or a rate tuned for other layers",
    "put them into a parameter group with a lower learning rate, or begin with larger weights",
    "train with a tenth of the learning rate for these parameters alone, and compare the loss",
)
HARDLY_MOVES = (
    "the initial weights of these parameters are far larger than those of the others, so that they hardly train",
    "begin with weights of the size of the others",
    "divide their initial weights by ten, and compare the loss",
)
INITIAL_STEPS, LARGE_INITIAL_RATIO = 10, 20.0  # steps, and times the norms that follow
SETTLED_STEPS = 40  # steps after the warm-up
FALLEN_RATE = 0.5  # of the highest learning rate
SHRUNKEN = 0.5  # of the largest norm of the weights
NEAR_STEPS = 20  # between an update and a second moment that explains it


def divides_each_entry(optimizer: OptimizerFacts) -> bool:
    """Whether the optimizer divides each entry by its own size plus eps."""
    return traits_of(optimizer.class_name, optimizer.settings).eps_rule == "per-entry"


def eps_starvation(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report gradients below the eps that the optimizer adds to each entry's denominator."""
    events = [e for e in optimizer.events if e.kind == "eps-starvation"]
    if not events or not divides_each_entry(optimizer):
        return None
    first, eps = events[0], optimizer.settings.get("eps")
    return Finding(
        code="eps-starvation",
        severity="info",
        certainty="shown",
        what=f"{share(first.observed or 0.0)} of the weights{facts.of(optimizer)} have gradients below eps = {eps}:"
        " their updates shrink",
        optimizer=optimizer.name,
        parameters=(first.parameter,) if first.parameter else (),
        steps=(first.step, int(optimizer.steps[-1])),
        evidence={"entries": Quantity(first.observed, "share of entries"), "eps": Quantity(_number(eps), "per entry")},
        cause="Adam divides by sqrt(v) + eps: when the gradient is as small as eps, the update has half its usual size,"
        " and it shrinks further with the gradient",
        remedy="use a smaller eps, or multiply the loss by a constant",
        confirm="train a few hundred steps with a hundredth of eps and compare the update ratios",
    )


def held_spike(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report spikes that stayed in the momentum after the gradient came back."""
    events = [e for e in optimizer.events if e.kind == "held-spike"]
    if not events:
        return None
    over = [e for e in events if e.until is not None]
    longest = max((e.until or e.step) - e.step + 1 for e in events)
    return Finding(
        code="held-spike",
        severity="info",
        certainty="shown",
        what=f"the momentum{facts.of(optimizer)} held {count(len(events), 'spike')} of the gradient after the gradient"
        f" had come back, the first at step {events[0].step}"
        + (f"; it took up to {count(longest, 'step')} to forget one" if over else ""),
        optimizer=optimizer.name,
        steps=(events[0].step, events[-1].until or events[-1].step),
        evidence={
            "steps_to_forget": Quantity(float(longest) if over else None, "steps"),
            "update_norm": Quantity(events[0].observed, "weight"),
            "limit": Quantity(events[0].limit, "weight"),
        },
        cause="part of the spike stays in the optimizer's momentum and keeps moving the weights at later steps",
        remedy=f"clip below the spike{WHICH_THRESHOLD}, so that it never enters the momentum",
        confirm="train from before the spike with that threshold, and compare the update norms after it",
    )


def update_spike(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report updates far above their level, relative to the learning rate; the loss often follows."""
    events = [e for e in optimizer.events if e.kind == "update-spike"]
    if not events:
        return None
    largest = max(events, key=lambda event: event.observed or 0.0)
    near = _stale_near(optimizer, events)
    return Finding(
        code="update-spike",
        severity="info",
        certainty="shown",
        what=f"{count(len(events), 'update')}{facts.of(optimizer)} far above the level of earlier ones, the first at"
        f" step {events[0].step}",
        optimizer=optimizer.name,
        parameters=(largest.parameter,) if largest.parameter else (),
        steps=(events[0].step, events[-1].until or events[-1].step),
        evidence={
            "update_norm": Quantity(largest.observed, "weight"),
            "limit": Quantity(largest.limit, "weight"),
            "stale_second_moments": Quantity(float(len(near)), "events"),
        },
        cause="the gradients have outgrown the optimizer's second moment, which follows slowly"
        if near
        else "the optimizer makes steps that are too large for the loss: a learning rate at its limit, or an odd batch",
        remedy="use a lower learning rate, a longer warm-up, or a smaller beta2, which makes the second moment follow"
        " faster",
        confirm='compare `Run.updates("rms_ratio")` and the loss around these steps',
    )


def _stale_near(optimizer: OptimizerFacts, events: Sequence[Event]) -> list[Event]:
    """The stale second moments close to any of these events."""
    stale = [e for e in optimizer.events if e.kind == "stale-second-moment"]
    return [e for e in stale if any(abs(e.step - event.step) <= NEAR_STEPS for event in events)]


def norm_rises_as_rate_falls(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a drift of the norm at the end of a schedule that weight decay explains."""
    decay = _number(optimizer.settings.get("weight_decay"))
    rates = optimizer.frame["learning_rate"].dropna()
    drifts = [e for e in optimizer.events if e.kind == "drift" and e.step in rates.index]
    if not decay or rates.empty or not drifts:
        return None
    last, highest = drifts[-1], float(rates.max())
    rate = float(rates.loc[[last.step]].iloc[0])
    at_highest = int(rates.index[int(np.argmax(rates.to_numpy()))])
    if last.step <= at_highest or not 0 < rate <= FALLEN_RATE * highest:
        return None
    decay = traits_of(optimizer.class_name, optimizer.settings).decay
    rise = explained_rise(rates.loc[: last.step], decay) if decay else math.sqrt(expected_rise(highest, rate))
    if rise < TELLING_RISE:
        return None
    return Finding(
        code="norm-rises-as-rate-falls",
        severity="info",
        certainty="likely",
        what=f"the norms{facts.of(optimizer)} have drifted up while the learning rate fell to {number(rate)}; weight"
        f" decay alone lets them rise {number(rise, 2)}x",
        optimizer=optimizer.name,
        parameters=(),
        steps=(drifts[0].step, last.until or last.step),
        evidence={
            "expected_rise": Quantity(rise, "times"),
            "learning_rate": Quantity(rate, "weight per update"),
            "learning_rate_max": Quantity(highest, "weight per update"),
        },
        cause="with weight decay, the ratio of gradient norm to weight norm tends to sqrt(2 decay / rate), which grows"
        " while the rate falls",
        remedy="none needed; if the decay falls with the rate, the norms stay level",
        confirm="compare the norms of gradients and weights: the one grows as the other shrinks",
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def shrunken_weights(optimizer: OptimizerFacts) -> tuple[float, float] | None:
    """The largest and the last norm of weights that weight decay has shrunk to less than half; None: it has not.

    The updates of such weights are large beside them at any rate.
    """
    weights = optimizer.history.weights.to_numpy(float)
    if not _number(optimizer.settings.get("weight_decay")) or len(weights) < FEW_SAMPLES:
        return None
    top, last = float(weights.max()), float(weights[-1])
    return (top, last) if last < SHRUNKEN * top else None


def learning_rate_too_high(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a learning rate at which the loss does not stay down and the median update is large."""
    if facts.is_imported or not has_risen(optimizer.history) or shrunken_weights(optimizer) is not None:
        return None
    ratios = optimizer.update_ratios.median()
    large = ratios[ratios > LARGE_UPDATE_RATIO]
    if large.empty:
        return None
    name, value = str(large.idxmax()), float(large.max())
    return Finding(
        code="learning-rate-too-high",
        # The loss of one may rise because another learns, as of a critic while its generator does.
        severity="info" if optimizer.has_rivals else "warning",
        certainty="likely",
        what=f"the median update{facts.of(optimizer)} changes {name} by {share(value)} of its norm (limit"
        f" {share(LARGE_UPDATE_RATIO)}) and the loss is unstable",
        optimizer=optimizer.name,
        parameters=(name,),
        steps=optimizer.span,
        evidence={"update_ratio_median": Quantity(value, "share of the parameter's norm")},
        cause="the learning rate is too high for these weights",
        remedy="lower the learning rate first; clipping would only mask it",
        confirm="train with a third of the learning rate and compare the loss",
    )


def updates_out_of_proportion(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report matrices that updates change far more or far less than others of their type."""
    common = optimizer.updates.index.intersection(optimizer.weights.index)
    later = common[len(common) // 2 :]  # weights that begin at 0 change a lot at first
    if len(later) < MIN_LATER_SAMPLES:
        return None
    weights, updates = optimizer.weights.loc[common], optimizer.updates.loc[later]
    found = out_of_proportion(
        optimizer.parameters, weights.iloc[0], weights.loc[later].median(), updates.median(), facts.embeddings
    )
    if not found:
        return None
    of_kind = [one for one in found if one.is_large is found[0].is_large]
    names, first = tuple(one.name for one in of_kind), of_kind[0]
    cause, remedy, confirm = MOVES_TOO_FAR if first.is_large else HARDLY_MOVES
    return Finding(
        code="updates-out-of-proportion",
        severity="info",
        certainty="shown",
        what=f"the median update{facts.of(optimizer)} changes {listed(names)} by {share(first.ratio)} of its norm"
        f" and {first.others} by {share(first.usual)} of theirs{_beside_its_first(first)}",
        optimizer=optimizer.name,
        parameters=names,
        steps=(int(later[0]), int(later[-1])),
        evidence={
            "update_ratio_median": Quantity(first.ratio, "share of the parameter's norm"),
            "update_ratio_others": Quantity(first.usual, f"share of the parameter's norm, median of {first.others}"),
            "times": Quantity(first.times, "times"),
        },
        cause=cause,
        remedy=remedy,
        confirm=confirm,
    )


def _beside_its_first(one: OutOfProportion) -> str:
    """How much larger its update is than those of the others, beside the weights that each began with."""
    return f"; beside its first weights, its update is {number(one.times)} times theirs" if one.is_large else ""


def large_initial_norms(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report first norms far above the later ones."""
    norms, usable = optimizer.total_norm, optimizer.history.norms
    first = norms[:INITIAL_STEPS]
    first = first[np.isfinite(first)]
    if len(first) < INITIAL_STEPS // 2 or not len(usable):
        return None
    settled = float(np.median(usable[:SETTLED_STEPS]))  # not later ones: norms may fall all the way to 0
    ratio = float(np.median(first)) / settled
    if ratio < LARGE_INITIAL_RATIO:
        return None
    remedy = "use smaller initial weights or normalisation"
    if end_of_warm_up(optimizer) is None:
        remedy = "use smaller initial weights, normalisation or a warm-up of the learning rate"
    return Finding(
        code="large-initial-norms",
        severity="info",
        certainty="shown",
        what=f"the first norms{facts.of(optimizer)} are {ratio:.0f} times the later ones"
        f" ({number(float(np.median(first)))} against {number(settled)})",
        optimizer=optimizer.name,
        steps=(int(optimizer.steps[0]), int(optimizer.steps[min(INITIAL_STEPS, len(norms)) - 1])),
        evidence={"ratio": Quantity(ratio, "times the median after the warm-up")},
        cause="the initial weights or outputs are too large for the loss",
        remedy=remedy,
        confirm="compare the loss of the untrained model with that of a constant guess",
    )


RULES = (
    learning_rate_too_high,
    updates_out_of_proportion,
    eps_starvation,
    large_initial_norms,
    update_spike,
    held_spike,
    norm_rises_as_rate_falls,
)
