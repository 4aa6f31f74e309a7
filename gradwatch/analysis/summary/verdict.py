"""Events -> one word for the run, the reason for it, and the next thing to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from gradwatch.analysis.statistics.clipping import ClippingSummary
from gradwatch.record import SEVERITIES, Event

Verdict: TypeAlias = str  # healthy, warning or critical
NonfiniteFault: TypeAlias = Literal["entries", "norm", "loss"]

_VERDICTS: dict[str, Verdict] = {"info": "healthy", "warning": "warning", "critical": "critical"}

_SENTENCES = {
    "explosion": "exploded at step {step}",
    "nonfinite": "gradients not finite at step {step}",
    "spike": "norm spiked at step {step}",
    "vanishing": "gradients vanished by step {step}",
    "dead": "no gradient reached a parameter by step {step}",
    "overclipping": "clipped at most steps by step {step}",
    "desync": "ranks parted at step {step}",
    "ineffective-clipping": "clipping did not act as it was meant to at step {step}",
}

_LOOK_AT = {
    "backward": "look at the backward of the parameter named: a root, a logarithm or a division at 0",
    "weights": "look at the update before that step: it left weights that are not finite",
    "loss": "look at what enters the loss at that step",
    None: "look at what enters the loss at that step",
}


def judge(events: Sequence[Event], steps: int) -> tuple[Verdict, str]:
    """The verdict and its reason, which is the first of the worst events.

    >>> judge([], 10)
    ('healthy', 'no warning in 10 steps')
    """
    worst = max((SEVERITIES.index(event.severity) for event in events), default=0)
    verdict = _VERDICTS[SEVERITIES[worst]]
    if verdict == "healthy":
        noted = f"; {len(events)} noted" if events else ""
        return verdict, f"no warning in {steps} steps{noted}"
    first = next(event for event in events if event.severity == SEVERITIES[worst])
    return verdict, _sentence(first)


def nonfinite_fault(event: Event) -> NonfiniteFault:
    """Whether an event of kind nonfinite is about entries of the gradient, its norm alone, or the loss alone.

    Only an event about entries has a limit. Events of schema 1 and 2 have no origin: there a NaN of no parameter
    is taken for the loss.
    """
    if event.limit is not None:
        return "entries"
    is_nan = event.observed is not None and math.isnan(event.observed)
    return "loss" if event.origin == "loss" or (event.parameter is None and is_nan) else "norm"


def _sentence(event: Event) -> str:
    if event.kind == "nonfinite":
        return _nonfinite_sentence(event)
    text = _SENTENCES.get(event.kind, event.kind + " at step {step}").format(step=event.step)
    if event.origin == "loss":
        return f"{text}, with the loss"
    where = f", first in {event.parameter}" if event.parameter else ""
    return text + where + ("; the loss did not rise" if event.origin == "backward" else "")


def _nonfinite_sentence(event: Event) -> str:
    fault = nonfinite_fault(event)
    if fault == "norm":
        return f"the norm overflowed at step {event.step}, and every gradient with it"
    if fault == "loss":
        return f"the loss was no longer finite at step {event.step}"
    text = _SENTENCES["nonfinite"].format(step=event.step)
    if event.origin == "weights":
        return f"{text}: the weights of {event.parameter} were not before it"
    if event.origin == "loss":
        return f"{text}, with the loss"
    where = f", first in {event.parameter}" if event.parameter else ""
    return text + where + ("; the loss was" if event.origin == "backward" else "")


def next_action(events: Sequence[Event], clipping: ClippingSummary) -> str:
    """The next thing to do, from the worst event that suggests one."""
    worst = sorted(
        (event for event in events if event.severity != "info"),
        key=lambda event: (-SEVERITIES.index(event.severity), event.step),
    )
    for event in worst:
        advice = _advice(event, clipping)
        if advice is not None:
            return advice
    if clipping.kind is None:
        return "nothing is wrong; `gradwatch recommend` says whether a clipping threshold would be a cheap guard"
    return "nothing is wrong; `gradwatch recommend` compares the threshold in force with others"


def _advice(event: Event, clipping: ClippingSummary) -> str | None:
    """What to do about an event; None where it alone suggests nothing."""
    rise = "compare the threshold with `gradwatch recommend`; if it is right, lower the learning rate"
    if clipping.kind is None:
        rise = "clip: `gradwatch recommend` says at which threshold"
    inner = "clipping can't help here: look at the initialisation and activations of the parameter named"
    return {
        "desync": f"look at what rank {event.rank} alone does or is given; `gradwatch events --kind desync` says more",
        "explosion": rise,
        "spike": rise,
        "nonfinite": f"{_LOOK_AT.get(event.origin)}; `gradwatch events --kind nonfinite` has the rest",
        "vanishing": inner,
        "dead": inner,
        "ineffective-clipping": "correct the clip call: `gradwatch events --kind ineffective-clipping` says how",
        "overclipping": "`gradwatch recommend` says which threshold would act as a guard; or lower the learning rate",
    }.get(event.kind)
