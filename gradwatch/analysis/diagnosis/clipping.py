"""Findings about clipping that harms, has no effect, or bypasses gradwatch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity, listed
from gradwatch.analysis.diagnosis.optimizer import divides_each_entry
from gradwatch.analysis.statistics.quantiles import Array, chosen_of, column_medians
from gradwatch.detect import traits_of
from gradwatch.record import Event
from gradwatch.text import number
from gradwatch.text import share as percentage

MIN_STEPS = 20  # steps
MOST_STEPS = 0.9  # share of the steps
NOTHING_COEF = 1e-6  # clip coefficient: what is left is nothing for an optimizer that follows the gradient
LOW_COEF = 0.1  # mean clip coefficient: the learning rate is in effect a tenth of what it says
DOMINANT_SHARE = 0.99  # of the squared norm
FAR_BELOW_EPS = 0.1  # of Adam's eps: the update is less than a tenth of what the learning rate says
LEARNT = 0.5  # of the first loss
STARVED_ENTRIES = 0.5  # share of the entries
STARVED_COEF = 0.02  # clip coefficient: for an optimizer that follows the gradient the rest hardly moves
IDLE_RATIO = 2.0  # times the largest norm: a threshold that never acts
CHANGED_STEPS, MIN_CHANGED_STEPS = 0.1, 5  # share of the steps, and steps: a script may change a few as a check


def _coefs(optimizer: OptimizerFacts) -> Array:
    """What clipping left of each norm, by value at most: entries of the threshold's size make the largest norm."""
    frame = optimizer.frame
    coefs: Array = frame["clip_coef"].to_numpy(float)
    if frame["clip_value"].notna().any():
        largest = frame["clip_value"].to_numpy(float) * math.sqrt(float(optimizer.entries.sum()))
        with np.errstate(invalid="ignore", divide="ignore"):
            coefs = np.fmin(coefs, largest / optimizer.total_norm)
    finite: Array = chosen_of(coefs, np.isfinite(coefs))
    return finite


def clipped_to_nothing(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """The threshold is 0, or so small that nothing is left of the gradient."""
    frame = optimizer.frame
    if len(frame) < 5:
        return None
    norm_zero, value_zero = (float((frame[column] == 0).mean()) for column in ("max_norm", "clip_value"))
    coefs = _coefs(optimizer)
    usable = coefs[coefs < 1]
    tiny = len(usable) > MOST_STEPS * len(frame) and float(np.median(usable)) < NOTHING_COEF
    is_zero = max(norm_zero, value_zero) > MOST_STEPS
    if not (is_zero or (tiny and optimizer.history.follows_gradient) or _is_below_eps(optimizer)):
        return None
    by_value = value_zero > norm_zero or not frame["max_norm"].notna().any()
    thresholds = frame["clip_value" if by_value else "max_norm"].dropna()
    threshold = float(thresholds.iloc[-1]) if len(thresholds) else 0.0
    return Finding(
        code="clipped-to-nothing",
        severity="critical",
        certainty="shown",
        what=f"clipping at {number(threshold, 6)} leaves nothing of the gradient{facts.of(optimizer)}: nothing is"
        " trained",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "threshold": Quantity(threshold, "norm or entry"),
            "total_norm_median": Quantity(_median(optimizer.total_norm), "norm"),
            "clip_coef_median": Quantity(_median(coefs), "factor"),
        },
        cause="the threshold is 0 or far too small; other tools often take 0 for 'no clipping', torch does not",
        remedy="remove the clip call, or use the threshold that `gradwatch recommend` gives",
        confirm="print the norm of the gradient after the clip call, and compare the weights before and after a step",
    )


def _is_below_eps(optimizer: OptimizerFacts) -> bool:
    """Whether clipping leaves most entries far below the eps that they are divided by, and one parameter is not why."""
    eps = traits_of(optimizer.class_name, optimizer.settings).eps
    if eps is None or not divides_each_entry(optimizer) or _learns(optimizer):
        return False
    if float((optimizer.frame["clip_value"] < FAR_BELOW_EPS * eps).mean()) > MOST_STEPS:  # no entry is larger
        return _share_of_entries(optimizer, _rms(optimizer, optimizer.norms.to_numpy(float)) > eps) > MOST_STEPS
    rows = _clipped_rows(optimizer)
    if rows is None or _owners(optimizer, _shares_of_norm(rows[0])).any():
        return False
    with np.errstate(invalid="ignore"):  # an infinite norm that is clipped by 0
        before, after = _rms(optimizer, rows[0]), _rms(optimizer, rows[0] * rows[1][:, None])
    return _share_of_entries(optimizer, (after < FAR_BELOW_EPS * eps) & (before > eps)) > MOST_STEPS


def _learns(optimizer: OptimizerFacts) -> bool:
    """Whether the loss fell to half: below eps Adam follows the gradient, and a high rate may make up for that."""
    if len(optimizer.history.losses) < MIN_STEPS:
        return False
    levels = optimizer.history.loss_levels
    return 0 < levels[-1] < LEARNT * levels[0]


def _rms(optimizer: OptimizerFacts, norms: Array) -> Array:
    """The root mean square of each parameter's entries, median over the samples, (parameters,)."""
    return column_medians(norms / np.sqrt(np.maximum(optimizer.entries, 1.0)))


def _share_of_entries(optimizer: OptimizerFacts, chosen: NDArray[np.bool_]) -> float:
    """Of the optimizer, those of these parameters."""
    return float(optimizer.entries[chosen].sum() / max(optimizer.entries.sum(), 1.0))


def _shares_of_norm(norms: Array) -> Array:
    """Of each parameter in the squared norm, median over the samples, (parameters,)."""
    known = np.nan_to_num(norms)
    squares = np.square(known / known.max(axis=1, initial=1e-300, keepdims=True))  # the largest is 1: none overflows
    shares: Array = np.median(squares / np.maximum(squares.sum(axis=1, keepdims=True), 1e-300), axis=0)
    return shares


def _owners(optimizer: OptimizerFacts, shares: Array) -> NDArray[np.bool_]:
    """The parameter that has nearly all of the norm, or those of one module, (parameters,); none: it is shared."""
    largest = int(np.argmax(shares))
    owners: NDArray[np.bool_] = np.arange(len(shares)) == largest
    if shares[largest] >= DOMINANT_SHARE:
        return owners
    module = optimizer.names[largest].rpartition(".")[0]
    of_module: NDArray[np.bool_] = np.array(
        [bool(module) and name.rpartition(".")[0] == module for name in optimizer.names], bool
    )
    if float(shares[of_module].sum()) >= DOMINANT_SHARE and not of_module.all():
        return of_module
    return np.zeros(len(shares), bool)


def _median(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def clip_starves(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report clipping by a norm that one parameter or module dominates, which leaves the others next to nothing.

    For Adam, "nothing" means a root mean square below eps: the update then shrinks with the gradient. For an
    optimizer whose update follows the gradient, it means a very small clip coefficient.
    """
    rows = _clipped_rows(optimizer)
    if rows is None:
        return None
    norms, coefs = rows
    shares = _shares_of_norm(norms)
    owners = _owners(optimizer, shares)
    others = ~owners
    if not owners.any() or not others.any():
        return None
    starved, limit = _starved(optimizer, norms, coefs)
    share = float(optimizer.entries[starved & others].sum() / max(optimizer.entries[others].sum(), 1.0))
    if share < STARVED_ENTRIES:
        return None
    held = [optimizer.names[i] for i in np.flatnonzero(owners)[np.argsort(-shares[owners], kind="stable")]]
    name, owned = held[0] if len(held) == 1 else held[0].rpartition(".")[0], min(1.0, float(shares[owners].sum()))
    names = tuple(n for n, hit, other in zip(optimizer.names, starved, others, strict=True) if hit and other)
    return Finding(
        code="clip-starves",
        severity="warning",
        certainty="shown" if divides_each_entry(optimizer) else "likely",
        what=f"{name} has {percentage(owned)} of the squared norm{facts.of(optimizer)}, and clipping by it leaves"
        f" {listed(names)} next to nothing (median clip_coef {number(np.median(coefs), 2)})",
        optimizer=optimizer.name,
        parameters=(*held, *names),
        steps=optimizer.span,
        evidence={
            "owner_share": Quantity(owned, "share of the squared norm"),
            "clip_coef_median": Quantity(float(np.median(coefs)), "factor"),
            "starved_entries": Quantity(share, "share of the other entries"),
            "limit": limit,
        },
        cause="the norm is taken over all parameters, so the largest gradient sets the factor for all others",
        remedy=f"clip each parameter on its own (gradwatch.clip.LayerNormClip), give {name} an optimizer of its own,"
        " or scale its gradient down at the source",
        confirm="train once without clipping or with a threshold per parameter, and compare the loss",
    )


def _clipped_rows(optimizer: OptimizerFacts) -> tuple[Array, Array] | None:
    """Norms (samples, parameters) and clip coefficients (samples,) at sampled steps that were clipped by norm."""
    if (
        optimizer.norms.shape[1] == 0
        or len(optimizer.norms) < MIN_STEPS
        or not optimizer.frame["max_norm"].notna().any()
    ):
        return None
    common = optimizer.norms.index.intersection(optimizer.frame.index)
    coefs = optimizer.frame.loc[common, "clip_coef"].to_numpy(float)
    norms = optimizer.norms.loc[common].to_numpy(float)
    usable = np.isfinite(coefs) & np.isfinite(np.nan_to_num(norms, nan=0.0)).all(axis=1)
    clipped = usable & (coefs < 1)
    if clipped.sum() < MOST_STEPS * usable.sum() or clipped.sum() < MIN_STEPS:
        return None
    return norms[clipped], coefs[clipped]


def _starved(optimizer: OptimizerFacts, norms: Array, coefs: Array) -> tuple[NDArray[np.bool_], Quantity]:
    """Which parameters clipping starves, (parameters,), and the limit it was judged by."""
    eps = traits_of(optimizer.class_name, optimizer.settings).eps
    if divides_each_entry(optimizer) and eps is not None:
        before, after = _rms(optimizer, norms), _rms(optimizer, norms * coefs[:, None])
        return (after < eps) & (before >= eps), Quantity(eps, "eps of the optimizer, per entry")
    low = float(np.median(coefs)) < STARVED_COEF and optimizer.history.follows_gradient
    there: NDArray[np.bool_] = (np.nan_to_num(norms).max(axis=0) > 0) & low
    return there, Quantity(STARVED_COEF, "factor")


def threshold_too_low(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Nearly every step is clipped to a small part of its norm, where the update follows the gradient."""
    coefs = _coefs(optimizer)
    frame = optimizer.frame
    thresholds = frame["max_norm"].dropna() if frame["max_norm"].notna().any() else frame["clip_value"].dropna()
    if len(coefs) < MIN_STEPS or thresholds.empty:
        return None
    clipped = float(frame["clipped"].mean())
    if clipped < MOST_STEPS or float(coefs.mean()) > LOW_COEF or not optimizer.history.follows_gradient:
        return None
    threshold = float(thresholds.iloc[-1])
    return Finding(
        code="threshold-too-low",
        severity="warning",
        certainty="shown",
        what=f"{percentage(clipped)} of the steps{facts.of(optimizer)} were clipped at {number(threshold, 6)}, on"
        f" average to {number(coefs.mean(), 2)} of their norm: the learning rate is in effect multiplied by that",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "clipped_fraction": Quantity(clipped, "share of steps"),
            "clip_coef_mean": Quantity(float(coefs.mean()), "factor"),
            "threshold": Quantity(threshold, "norm or entry"),
            "total_norm_median": Quantity(_median(optimizer.total_norm), "norm"),
        },
        cause="the threshold is far below the usual norm, so it cuts every step instead of only the largest ones",
        remedy="raise the threshold to the one that `gradwatch recommend` gives; if the training then diverges, the"
        " learning rate is too high and clipping hid it",
        confirm="train with ten times the threshold and compare the first steps of the loss",
    )


_CLIP_FAULTS = {
    "before-backward": ("a backward pass after it added to the gradients", "clip after the last backward of the step"),
    "after-step": ("it is called after the optimizer's step", "call it between backward and the optimizer's step"),
    "before-unscale": (
        "the gradients were still multiplied by the loss scale",
        "call scaler.unscale_(optimizer) before clipping",
    ),
    "other-parameters": (
        "it clips tensors that the optimizer does not hold: other parameters, or the gradients themselves",
        "pass it the parameters that the optimizer holds, not their gradients",
    ),
    "no-gradients": (
        "the parameters had no gradient when it was called",
        "call it between backward and the optimizer's step; an optimizer that steps within backward leaves no gradient",
    ),
    "no-parameters": (
        "it was given no parameters, often because a generator was used up",
        "pass it a list, or call model.parameters() again",
    ),
}


def ineffective_clipping(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a clip call that does not act on the gradient that the optimizer gets."""
    events = [e for e in optimizer.events if e.kind == "ineffective-clipping"]
    if not events:
        return _clipped_and_dropped(facts, optimizer)
    faults = optimizer.frame["clip_fault"].dropna()
    fault = str(faults.mode().iloc[0]) if len(faults) else ""
    if fault == "micro-batch":
        return _clipped_while_accumulating(facts, optimizer, events, len(faults))
    if fault == "part":
        return _clipped_in_part(facts, optimizer, events, faults)
    events = [e for e in events if e.severity != "info"]
    if not events:
        return None
    why, remedy = _CLIP_FAULTS.get(
        fault, ("it runs in the wrong place or on the wrong parameters", "correct the clip call")
    )
    first = events[0]
    return Finding(
        code="ineffective-clipping",
        severity=max((e.severity for e in events), key=["info", "warning", "critical"].index),
        certainty="shown",
        what=f"the clip call does not act on the gradient that the optimizer{facts.of(optimizer)} gets: {why}",
        optimizer=optimizer.name,
        steps=(first.step, int(optimizer.steps[-1])),
        evidence={"steps_with_fault": Quantity(len(faults), "steps"), "fault": Quantity(fault or None, "cause")},
        cause=why,
        remedy=remedy,
        confirm="`gradwatch doctor SCRIPT` lists the clip calls and whether each takes effect",
    )


def _clipped_and_dropped(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Gradients are clipped again and again that no step uses, while no gradient that a step uses is clipped."""
    clipped = optimizer.frame["max_norm"].notna().to_numpy()
    made = ~optimizer.skipped
    dropped = clipped & ~made & (optimizer.frame["nonfinite"] == 0).to_numpy()
    if facts.is_imported or min(dropped.sum(), made.sum()) < MIN_STEPS or (clipped & made).any():
        return None
    why = "zero_grad drops what it clipped before the next step"
    return Finding(
        code="ineffective-clipping",
        severity="warning",
        certainty="shown",
        what=f"none of the {int(made.sum())} steps{facts.of(optimizer)} is clipped, and the clip call acts"
        f" {int(dropped.sum())} times on gradients that no step uses: {why}",
        optimizer=optimizer.name,
        steps=(int(optimizer.steps[dropped][0]), int(optimizer.steps[-1])),
        evidence={
            "steps_with_fault": Quantity(int(dropped.sum()), "steps"),
            "fault": Quantity("dropped", "cause"),
        },
        cause=f"{why}: it is given these parameters when it is another optimizer's turn",
        remedy="before each step, pass the clip call the parameters of the optimizer that steps next",
        confirm="print the norm of the gradients just before optimizer.step()",
    )


def _clipped_while_accumulating(
    facts: Facts, optimizer: OptimizerFacts, events: Sequence[Event], steps: int
) -> Finding:
    """Each call does clip, but not the gradient of the whole batch."""
    return Finding(
        code="ineffective-clipping",
        severity="info",
        certainty="shown",
        what=f"the gradients{facts.of(optimizer)} are clipped several times while they accumulate, at {steps} of"
        f" {len(optimizer.frame)} steps: each call also shrinks the micro-batches before it, so the last ones weigh the"
        " most, and the recorded norm is that of the last call",
        optimizer=optimizer.name,
        steps=(events[0].step, int(optimizer.steps[-1])),
        evidence={"steps_with_fault": Quantity(steps, "steps"), "fault": Quantity("micro-batch", "cause")},
        cause="the clip call stands in the loop over the micro-batches",
        remedy="clip once, after the last micro-batch and before the optimizer's step",
        confirm="`gradwatch doctor SCRIPT` lists the clip calls and whether each takes effect",
    )


def _clipped_in_part(
    facts: Facts, optimizer: OptimizerFacts, events: Sequence[Event], faults: pd.Series[str]
) -> Finding | None:
    """The call clips some of the parameters, again and again, while the norm of all is above the threshold."""
    found = optimizer.frame.loc[faults.index[faults == "part"]]
    if len(found) < MIN_STEPS:
        return None
    threshold = float(found["max_norm"].iloc[-1])
    return Finding(
        code="ineffective-clipping",
        severity="info",
        certainty="shown",
        what=f"the clip call gets only a part of the parameters{facts.of(optimizer)}: at {len(found)} of"
        f" {len(optimizer.frame)} steps it leaves the total norm above the threshold of {number(threshold, 6)}",
        optimizer=optimizer.name,
        steps=(events[0].step, int(optimizer.steps[-1])),
        evidence={"steps_with_fault": Quantity(len(found), "steps"), "fault": Quantity("part", "cause")},
        cause="the call is given one parameter group (optimizer.param_groups[0]) or one module of several",
        remedy="pass the parameters of all groups to one call; where only this part is meant to be clipped, nothing is"
        " wrong",
        confirm="print the norm of all gradients after the clip call",
    )


def clipped_by_script(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report gradients that something other than a clip call changes between backward and the step."""
    changed, made = optimizer.changed_steps, len(optimizer.frame)
    if changed is None or changed < max(MIN_CHANGED_STEPS, CHANGED_STEPS * made):
        return None
    return Finding(
        code="clipped-by-script",
        severity="info",
        certainty="shown",
        what=f"something other than a clip call that gradwatch hears changed the gradients{facts.of(optimizer)} between"
        f" backward and the step, at {changed} of {made} steps: the recorded norms are those after that change",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={"changed_steps": Quantity(changed, "steps"), "steps": Quantity(made, "steps")},
        cause="the script, or a library that it uses (AGC, DeepSpeed, Opacus), scales or clips gradients itself, or"
        " clips within a compiled function",
        remedy="nothing, where the change is meant (as the noise of differential privacy); else clip with"
        " torch.nn.utils.clip_grad_norm_ or a policy of gradwatch.clip, outside torch.compile and as the last change:"
        " gradwatch then records the norm before clipping, which it needs to recommend a threshold",
        confirm="compare p.grad._version before and after the code between backward and step",
    )


def threshold_idle(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a threshold that never clips a step."""
    frame = optimizer.frame
    thresholds = frame["max_norm"].dropna()
    thresholds = thresholds[np.isfinite(thresholds)]
    norms = optimizer.total_norm[np.isfinite(optimizer.total_norm)]
    top = float(np.max(norms, initial=0.0))
    if len(frame) < MIN_STEPS or len(thresholds) < len(frame) or bool(frame["clipped"].any()):
        return None
    if not thresholds.min() >= IDLE_RATIO * top:
        return None
    return Finding(
        code="threshold-idle",
        severity="info",
        certainty="shown",
        what=f"the clipping threshold{facts.of(optimizer)}, {number(float(thresholds.iloc[-1]), 6)}, never acted: the"
        f" largest norm was {number(top)}",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "threshold": Quantity(float(thresholds.iloc[-1]), "norm"),
            "total_norm_max": Quantity(top, "norm"),
        },
        cause="the threshold is above every norm of this training",
        remedy="keep it as a guard, or use the threshold that `gradwatch recommend` gives",
        confirm="`gradwatch recommend` shows what other thresholds would have done",
    )


def one_parameter_dominates(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report a parameter that has most of the norm, so a threshold on the total shrinks all others with it."""
    norms = optimizer.norms.to_numpy(float)
    if norms.shape[1] < 4 or len(norms) < 5:
        return None
    squares = np.square(norms)
    totals = np.nansum(squares, axis=1)
    usable = np.isfinite(totals) & (totals > 0)
    if not usable.any():
        return None
    shares = np.median(np.nan_to_num(squares[usable]) / totals[usable, None], axis=0)
    largest = int(np.argmax(shares))
    if shares[largest] < 0.9 or math.isnan(shares[largest]):
        return None
    name = optimizer.names[largest]
    return Finding(
        code="one-parameter-dominates",
        severity="info",
        certainty="shown",
        what=f"{name} alone has {percentage(shares[largest])} of the squared norm{facts.of(optimizer)}",
        optimizer=optimizer.name,
        parameters=(name,),
        steps=optimizer.span,
        evidence={"owner_share": Quantity(float(shares[largest]), "share of the squared norm")},
        cause="its gradient is far larger than all others, because of its place in the model or its scale",
        remedy="a threshold on the total norm shrinks the gradients of all other parameters too; use"
        " gradwatch.clip.LayerNormClip, which clips each parameter on its own",
        confirm="`gradwatch report` lists the norms of each layer",
    )


RULES = (
    clipped_to_nothing,
    clip_starves,
    ineffective_clipping,
    threshold_too_low,
    clipped_by_script,
    threshold_idle,
    one_parameter_dominates,
)
