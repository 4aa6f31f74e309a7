"""Facts of a run -> findings: what is wrong with the training, why, and what to do about it.

Each rule is a pure function of the facts and finds one kind of fault. The verdict, the advice, `gradwatch check` and
every view read the findings. Causes and remedies are worded here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradwatch.analysis.diagnosis import (
    clipping,
    dropout,
    ending,
    growth,
    histories,
    no_progress,
    nonfinite,
    optimizer,
    recreated,
    repeated_spikes,
    rewards,
    setbacks,
    training,
)
from gradwatch.analysis.diagnosis.captured import with_captures
from gradwatch.analysis.diagnosis.facts import Facts, read_facts
from gradwatch.analysis.diagnosis.finding import WHICH_THRESHOLD, CapturedStep, Certainty, Finding, Quantity
from gradwatch.analysis.diagnosis.pages import PAGES, Page
from gradwatch.analysis.history import RunReader
from gradwatch.record import SEVERITIES, Severity

__all__ = [
    "PAGES",
    "WHICH_THRESHOLD",
    "CapturedStep",
    "Certainty",
    "Facts",
    "Finding",
    "Page",
    "Quantity",
    "diagnose",
    "find",
    "worst_severity",
]

RUN_RULES = (*ending.RULES, *recreated.RULES)
OPTIMIZER_RULES = (
    *training.RULES,
    *nonfinite.RULES,
    *growth.RULES,
    *repeated_spikes.RULES,
    *setbacks.RULES,
    *no_progress.RULES,
    *rewards.RULES,
    *clipping.RULES,
    *optimizer.RULES,
    *histories.RULES,
    *dropout.RULES,
)

# A fault, and the findings of the same optimizer that only repeat it.
_REPEATED_BY = {
    "stale-optimizer": {
        "no-gradient",
        "zero-gradients",
        "constant-loss",
        "no-progress",
        "parameters-without-optimizer",
    },
    "clipped-to-nothing": {
        "threshold-too-low",
        "zero-gradients",
        "clip-starves",
        "eps-starvation",
        "learning-rate-too-high",
        "no-progress",
    },
    "learning-rate-zero": {"updates-below-precision", "learning-rate-too-high", "no-progress"},
    "updates-below-precision": {"no-progress"},
    "zero-gradients": {
        "dead-parameters",
        "vanishing",
        "learning-rate-too-high",
        "constant-loss",
        "no-progress",
        "threshold-idle",
    },
    "constant-loss": {"learning-rate-too-high", "vanishing"},
    "all-steps-skipped": {
        "loss-scale",
        "learning-rate-too-high",
        "no-progress",
        "no-gradient",
        "dead-parameters",
        "constant-loss",
        "clipped-by-script",
    },
    "learning-rate-too-high": {"no-progress"},
    "huge-loss": {"no-progress"},
    "clip-starves": {"threshold-too-low", "one-parameter-dominates", "eps-starvation"},
    "diverged": {"learning-rate-too-high", "large-initial-norms", "one-parameter-dominates"},
    "nonfinite-loss": {"learning-rate-too-high"},
    "nonfinite-gradient": {"learning-rate-too-high"},
    "nonfinite-weights": {"learning-rate-too-high"},
    "loss-hides-nan": {"learning-rate-too-high"},
    "gradients-accumulate": {"learning-rate-too-high", "no-progress"},
    "repeated-spikes": {"spike"},
    "reward-lost": {"no-progress"},
}
# A fault, and the consequences it explains: it is as severe as the worst of them and comes before them.
_EXPLAINS = {
    "gradients-accumulate": {"diverged", "nonfinite-loss", "nonfinite-gradient"},
    "desync": {"diverged"},
}
# The same, where it explains the consequences of its own optimizer alone.
_EXPLAINS_OWN = {"updates-out-of-proportion": {"learning-rate-too-high"}, "dead-parameters": {"vanishing"}}
MOST_DEAD = 0.5  # share of the weights: the layers around so many dead units get next to no gradient because of them


def diagnose(reader: RunReader) -> tuple[Finding, ...]:
    """The findings of a run, the most serious first, and causes before their consequences."""
    return find(read_facts(reader))


def find(facts: Facts) -> tuple[Finding, ...]:
    """The findings that the facts support, ordered by consequence."""
    found = [finding for rule in RUN_RULES if (finding := rule(facts)) is not None]
    for one in facts.optimizers:
        own = [finding for rule in OPTIMIZER_RULES if (finding := rule(facts, one)) is not None]
        told = {finding.code for finding in own}
        own += [finding for rule in training.LAST_RULES if (finding := rule(facts, one, told)) is not None]
        found += _without_repetitions(own)
    ordered = sorted(_with_causes_raised(found), key=lambda finding: _consequence(facts, finding))
    return with_captures(ordered, facts.captures, facts.replays, facts.run)


def worst_severity(findings: Sequence[Finding]) -> Severity:
    """The worst severity; info if there are no findings.

    >>> worst_severity([])
    'info'
    """
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="info")


def _without_repetitions(found: Sequence[Finding]) -> list[Finding]:
    """Leave out the findings of an optimizer that repeat another."""
    codes = {finding.code for finding in found}
    repeated = set().union(*(_REPEATED_BY.get(code, set()) for code in codes))
    kept = [finding for finding in found if finding.code not in repeated]
    return list({(finding.code, finding.steps): finding for finding in kept}.values())


def _with_causes_raised(found: Sequence[Finding]) -> list[Finding]:
    """Make causes as severe as what they explain, also in an optimizer that trains against this one."""
    raised = []
    for finding in found:
        explained = [other for other in found if other.code in _explained_by(finding, other)]
        raised.append(replace(finding, severity=worst_severity([finding, *explained])))
    return raised


def _explained_by(finding: Finding, other: Finding) -> set[str]:
    own = _EXPLAINS_OWN.get(finding.code, set()) if other.optimizer == finding.optimizer else set()
    if finding.code == "dead-parameters" and not _is_most(finding.evidence["entries"].value):
        own = set()
    return _EXPLAINS.get(finding.code, set()) | own


def _is_most(share: float | str | None) -> bool:
    return isinstance(share, float) and share >= MOST_DEAD


def _consequence(facts: Facts, finding: Finding) -> tuple[int, int, float]:
    """Sort by severity, then by kind, then by time, so that a fault comes before its repetition in another optimizer.

    Each optimizer counts its own steps, so the clock decides which was earlier.
    """
    kind = list(PAGES).index(finding.code)
    began = facts.time_of(finding.optimizer, None if finding.steps is None else finding.steps[0])
    if PAGES[finding.code].cure == "operation":
        kind = list(PAGES).index("nonfinite-loss")
    return -SEVERITIES.index(finding.severity), kind, began
