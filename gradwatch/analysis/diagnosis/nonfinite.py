"""NaN and infinity, by where they came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.diagnosis.growth import grew_before
from gradwatch.record import Event
from gradwatch.text import number

NonfiniteFault: TypeAlias = Literal["entries", "norm", "loss"]

MIN_REPLACED = 2  # steps at the end whose loss is 0 and whose norms are one number
HIDDEN_STEPS = 3  # steps in a row with a NaN gradient and a finite loss: the loss cannot be the one trained on
LOSS_SCALE_SKIPS = 0.2  # share of the steps that a loss scale may leave out
MIN_ROWS_AFTER = 1  # finite rows at the end of an imported history, after which a NaN did not reach the weights
MIN_FALLING = 4  # losses, the last of which is below all of the first half
MIN_SCALED_STEPS = 20  # steps after which the loss scale should have found its level

UNFILTERED = (
    "log the unfiltered loss (logging_nan_inf_filter=False) and look for the operation that makes the NaN; no threshold"
    " and no learning rate would have prevented it"
)
FIND_IT = (
    "rerun the step with torch.autograd.set_detect_anomaly(True), which names the operation, or record with `--capture`"
    " and replay the step; print the smallest argument of each root, logarithm and division"
)


def nonfinite_fault(event: Event) -> NonfiniteFault:
    """Whether an event of kind nonfinite is about entries of the gradient, its norm alone, or the loss alone.

    Only an event about entries has a limit. Events of schema 1 and 2 have no origin: there a NaN of no parameter
    is taken for the loss.
    """
    if event.limit is not None:
        return "entries"
    is_nan = event.observed is not None and math.isnan(event.observed)
    return "loss" if event.origin == "loss" or (event.parameter is None and is_nan) else "norm"


def first_nonfinite(optimizer: OptimizerFacts) -> Event | None:
    """The first event of kind nonfinite, the worst ones first."""
    events = [event for event in optimizer.events if event.kind == "nonfinite" and event.severity != "info"]
    critical = [event for event in events if event.severity == "critical"]
    return next(iter(critical or events), None)


def nonfinite(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report the first NaN or infinity, unless growth led to it: then the growth is the fault."""
    event = first_nonfinite(optimizer)
    if event is None:
        return _replaced(facts, optimizer)
    if grew_before(optimizer, event.step):
        return None
    if not facts.is_imported and (update := _update_by_nonfinite_rate(optimizer, event.step)) is not None:
        return _by_nonfinite_rate(facts, optimizer, event, *update)
    came_back = facts.is_imported and _came_back(optimizer)
    if came_back:
        event = replace(event, severity="info" if _is_harmless(optimizer) else "warning")
    return _finder(optimizer, event, came_back=came_back)(facts, optimizer, event)


def _finder(
    optimizer: OptimizerFacts, event: Event, *, came_back: bool
) -> Callable[[Facts, OptimizerFacts, Event], Finding]:
    """Choose the finding by where the NaN or infinity came from."""
    fault = nonfinite_fault(event)
    if fault == "norm":
        return _norm_overflow
    from_loss = fault == "loss" or event.origin == "loss"
    if not from_loss and not came_back and _is_hidden(optimizer, event.step):
        return _hidden
    if event.origin == "weights":  # a loss that is not finite follows from them
        return _in_the_weights
    return _in_the_loss if from_loss or _loss_is_nonfinite(optimizer, event.step) else _in_backward


def _update_by_nonfinite_rate(optimizer: OptimizerFacts, step: int) -> tuple[int, float] | None:
    """The last step before ``step`` and its learning rate, if that was NaN or infinite.

    NaN also stands for a rate that the optimizer does not have, so it counts only where other steps have a rate.
    """
    rates, before = optimizer.frame["learning_rate"].to_numpy(float), np.flatnonzero(optimizer.steps < step)
    if not len(before):
        return None
    last = before[-1]
    if np.isinf(rates[last]) or (np.isnan(rates[last]) and np.isfinite(rates).any()):
        return int(optimizer.steps[last]), float(rates[last])
    return None


def _came_back(optimizer: OptimizerFacts) -> bool:
    """Whether the updates of the rows that are not finite were left out, as a loss scale does.

    An imported history does not say so. But a NaN that enters the weights stays there, so finite rows after it show
    that the update was left out. A loss that is not finite counts as well, unless it is of the first rows, in which a
    loss scale leaves out all.
    """
    finite, lost = ~optimizer.nonfinite, optimizer.loss_nonfinite
    found = int(np.argmax(finite & ~lost))
    return bool(len(finite) > MIN_ROWS_AFTER and finite[-MIN_ROWS_AFTER:].all() and not lost[found:].any())


def _is_harmless(optimizer: OptimizerFacts) -> bool:
    """Whether a loss scale may leave out as many rows, once it found its level, or the loss fell all the same."""
    finite = ~optimizer.nonfinite
    found = int(np.argmax(finite))  # the first finite row: as it starts, a loss scale leaves out all
    losses = optimizer.history.losses
    fell = len(losses) >= MIN_FALLING and bool(losses[-1] < losses[: len(losses) // 2].min())
    return fell or bool((~finite[found:]).mean() <= LOSS_SCALE_SKIPS)


def _evidence(optimizer: OptimizerFacts, event: Event) -> dict[str, Quantity]:
    before = optimizer.total_norm[optimizer.steps < event.step]
    before = before[np.isfinite(before)]
    at = np.flatnonzero(optimizer.steps == event.step)
    loss = float(optimizer.loss[at[0]]) if len(at) and optimizer.loss_logged[at[0]] else None
    return {
        "nonfinite_steps": Quantity(int(optimizer.nonfinite.sum()), "steps"),
        "total_norm_before": Quantity(float(before[-1]) if len(before) else None, "norm, of the last finite step"),
        "loss_at_step": Quantity(loss, "loss"),
    }


def _before(optimizer: OptimizerFacts, event: Event, what: str) -> str:
    values, what = (optimizer.total_norm, what) if optimizer.has_norms else (optimizer.loss, "the losses")
    before = np.isfinite(values[optimizer.steps < event.step])
    return f", while {what} before it were normal" if before.any() else ", and no step before it was finite"


def _steps(optimizer: OptimizerFacts, event: Event) -> tuple[int, int]:
    bad = optimizer.steps[optimizer.nonfinite if optimizer.has_norms else optimizer.loss_nonfinite]
    return event.step, max(event.step, int(bad[-1]) if len(bad) else event.step)


def _when(optimizer: OptimizerFacts, event: Event) -> str:
    """At one step, at several, or from a step to the end."""
    lost = optimizer.nonfinite | optimizer.loss_nonfinite
    after = lost[optimizer.steps >= event.step]
    if after.sum() <= 1 < len(after):
        return f"at step {event.step}"
    if after.all():
        return f"from step {event.step} on"
    return f"at {int(after.sum())} steps from step {event.step} on"


def _in_the_loss(facts: Facts, optimizer: OptimizerFacts, event: Event) -> Finding:
    return Finding(
        code="nonfinite-loss",
        severity=event.severity,
        certainty="shown" if event.origin == "loss" or nonfinite_fault(event) == "loss" else "likely",
        what=f"the loss{facts.of(optimizer)} is NaN or infinite {_when(optimizer, event)}"
        f"{_before(optimizer, event, 'the norms')}",
        optimizer=optimizer.name,
        rank=event.rank,
        steps=_steps(optimizer, event),
        evidence=_evidence(optimizer, event),
        cause="an input or target that is not finite, or an operation of the forward pass: a logarithm or a division"
        " at 0, a softmax over a fully masked row, an overflow in low precision",
        remedy="find the operation or the sample and guard it (clamp the argument, drop the sample, skip empty rows);"
        " no threshold and no learning rate would have prevented it",
        confirm="check torch.isfinite of the inputs and of the loss at that step; " + FIND_IT,
    )


def _in_backward(facts: Facts, optimizer: OptimizerFacts, event: Event) -> Finding:
    first = f", first in {event.parameter}" if event.parameter else ""
    return Finding(
        code="nonfinite-gradient",
        severity=event.severity,
        certainty="shown" if event.origin == "backward" else "possible",
        what=f"the gradient{facts.of(optimizer)} is NaN or infinite at step {event.step}{first}"
        f"{_before(optimizer, event, 'the loss and the norms')}",
        optimizer=optimizer.name,
        parameters=(event.parameter,) if event.parameter else (),
        rank=event.rank,
        steps=_steps(optimizer, event),
        evidence=_evidence(optimizer, event),
        cause="the backward of an operation whose slope is infinite or undefined at its argument: a root, norm,"
        " logarithm, power or division at 0, or a fully masked softmax or attention row. Masking the result"
        " afterwards (torch.where, times 0) does not help: NaN times 0 is NaN",
        remedy="keep the argument of that operation away from where its slope is infinite (clamp it, or add an epsilon"
        " inside the root), or mask the input instead of the output; no threshold and no learning rate would have"
        " prevented it",
        confirm=FIND_IT,
    )


def _in_the_weights(facts: Facts, optimizer: OptimizerFacts, event: Event) -> Finding:
    return Finding(
        code="nonfinite-weights",
        severity=event.severity,
        certainty="shown",
        what=f"the weights of {event.parameter}{facts.of(optimizer)} were NaN or infinite before step {event.step}",
        optimizer=optimizer.name,
        parameters=(event.parameter,) if event.parameter else (),
        rank=event.rank,
        steps=_steps(optimizer, event),
        evidence=_evidence(optimizer, event),
        cause="the previous update, or other code that writes weights (loading, averaging, initialisation), left NaN or"
        " infinite values",
        remedy="check the weights after loading and after each step until you find the code that writes them; if it is"
        " the update, look at the learning rate and the optimizer's eps",
        confirm="check torch.isfinite of each parameter before and after optimizer.step()",
    )


def _by_nonfinite_rate(facts: Facts, optimizer: OptimizerFacts, event: Event, step: int, rate: float) -> Finding:
    return Finding(
        code="nonfinite-weights",
        severity=event.severity,
        certainty="shown",
        what=f"the learning rate{facts.of(optimizer)} was {rate} at step {step}, and the step after it is not finite",
        optimizer=optimizer.name,
        rank=event.rank,
        steps=_steps(optimizer, event),
        evidence=_evidence(optimizer, event) | {"learning_rate_before": Quantity(rate, "learning rate")},
        cause="an update by a learning rate that is no finite number leaves no finite weight",
        remedy="look for a division by zero in the schedule: no warm-up steps, no steps in all, a norm or a loss of 0",
        confirm="print the scheduler's rates without training: each has to be finite",
    )


def _norm_overflow(facts: Facts, optimizer: OptimizerFacts, event: Event) -> Finding:
    return Finding(
        code="norm-overflow",
        severity=event.severity,
        certainty="shown",
        what=f"the norm{facts.of(optimizer)} overflowed at step {event.step} though every entry of the gradient is"
        " finite, and clipping set the gradient to 0",
        optimizer=optimizer.name,
        parameters=(event.parameter,) if event.parameter else (),
        steps=(event.step, event.step if event.until is None else event.until),
        evidence=_evidence(optimizer, event),
        cause="the clip call adds the squares of the entries in the gradient's own precision",
        remedy="clip with gradwatch.clip.clip_grad_norm_, which adds them in float64, or keep gradients in float32",
        confirm="compare the largest entry with the square root of the largest number of the dtype",
    )


def _loss_is_nonfinite(optimizer: OptimizerFacts, step: int) -> bool:
    at = optimizer.steps == step
    return bool(optimizer.loss_nonfinite[at].any())


def _is_hidden(optimizer: OptimizerFacts, step: int) -> bool:
    """Whether the loss stays finite over several steps after a NaN gradient was applied to all weights."""
    after = (optimizer.steps >= step) & ~optimizer.skipped
    bad, finite = optimizer.nonfinite, optimizer.loss_logged & np.isfinite(optimizer.loss)
    return int((after & bad).sum()) >= HIDDEN_STEPS and bool(finite[after & bad].all())


def _hidden(facts: Facts, optimizer: OptimizerFacts, event: Event) -> Finding:
    return Finding(
        code="loss-hides-nan",
        severity="critical",
        certainty="likely",
        what=f"the gradient{facts.of(optimizer)} is NaN or infinite from step {event.step} on, while the logged loss"
        " stays finite: the loss that is logged hides a NaN",
        optimizer=optimizer.name,
        parameters=(event.parameter,) if event.parameter else (),
        steps=_steps(optimizer, event),
        evidence=_evidence(optimizer, event),
        cause="the logging drops or replaces NaN: Trainer's logging_nan_inf_filter, nanmean, nan_to_num, or a running"
        " average",
        remedy=UNFILTERED,
        confirm="print the loss that backward is called on at that step",
    )


def _replaced(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a loss that is exactly 0 to the end beside norms that are all one number: both stand for a NaN."""
    norms, losses = optimizer.total_norm, optimizer.loss
    if len(norms) <= MIN_REPLACED or not norms[-1] > 0:
        return None
    constant = optimizer.loss_logged & (losses == 0) & np.isclose(norms, norms[-1], rtol=1e-6, atol=0)
    others = np.flatnonzero(~constant)
    first = int(others[-1]) + 1 if len(others) else 0
    if len(norms) - first < MIN_REPLACED or not (losses[:first] > 0).any():
        return None
    return Finding(
        code="loss-hides-nan",
        severity="critical",
        certainty="likely",
        what=f"the loss{facts.of(optimizer)} is exactly 0 from step {optimizer.steps[first]} on and the norm"
        f" {number(norms[-1], 4)} at each of these steps: the numbers that are logged hide a NaN",
        optimizer=optimizer.name,
        steps=(int(optimizer.steps[first]), int(optimizer.steps[-1])),
        evidence={
            "loss_before": Quantity(float(losses[:first][losses[:first] > 0][-1]), "loss"),
            "total_norm": Quantity(float(norms[-1]), "norm, at each step from there on"),
        },
        cause="the forward pass gives NaN after an update, and the logging replaces it: Trainer's"
        " logging_nan_inf_filter logs 0, and DeepSpeed a norm that is no gradient's",
        remedy=UNFILTERED,
        confirm="print the loss that backward is called on at that step",
    )


def loss_scale(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a GradScaler that keeps skipping steps, because of overflow or because the loss itself is not finite."""
    scaled = optimizer.frame["loss_scale"].notna().to_numpy()
    skipped = scaled & optimizer.skipped
    late = skipped & (np.arange(len(skipped)) >= MIN_SCALED_STEPS)
    if scaled.sum() < 2 * MIN_SCALED_STEPS or late.sum() < LOSS_SCALE_SKIPS * (scaled.sum() - MIN_SCALED_STEPS):
        return None
    steps = optimizer.steps[skipped]
    bad_loss = skipped & optimizer.loss_nonfinite
    if bad_loss.sum() >= 0.5 * skipped.sum():
        event = Event(
            step=int(optimizer.steps[bad_loss][0]), kind="nonfinite", severity="warning", message="", origin="loss"
        )
        return _in_the_loss(facts, optimizer, event)
    return Finding(
        code="loss-scale",
        severity="warning",
        certainty="shown",
        what=f"the loss scale{facts.of(optimizer)} finds no level: {int(skipped.sum())} of {int(scaled.sum())} steps"
        " were skipped",
        optimizer=optimizer.name,
        steps=(int(steps[0]), int(steps[-1])),
        evidence={
            "skipped_steps": Quantity(int(skipped.sum()), "steps"),
            "loss_scale_last": Quantity(float(optimizer.frame["loss_scale"].dropna().iloc[-1]), "factor"),
        },
        cause="gradients in float16 keep overflowing although the scale falls",
        remedy="use bfloat16, or find the operation with the large values and compute it in float32; neither clipping"
        " nor the learning rate changes the range of float16",
        confirm="`gradwatch events --kind loss-scale`; look at which parameter is not finite at the skipped steps",
    )


RULES = (nonfinite, loss_scale)
