"""Findings -> one word for the run and the reason for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from gradwatch.analysis.diagnosis import Finding, worst_severity
from gradwatch.text import count

Verdict: TypeAlias = Literal["healthy", "warning", "critical"]

ENDINGS = ("died", "killed")  # codes that say nothing of the gradients


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """One word for a run: the gravest severity, and healthy where nothing is more than information.

    >>> verdict_of([])
    'healthy'
    """
    severity = worst_severity(findings)
    return "healthy" if severity == "info" else severity


def judge(
    findings: Sequence[Finding], steps: int, noted: int = 0, warned: int = 0, *, has_norms: bool = True
) -> tuple[Verdict, str]:
    """The verdict and its reason, which is the first finding; ``noted`` events are mentioned where all is well.

    Some of them, ``warned``, may be warnings of the moment that the diagnosis of the whole run does not share.

    >>> judge([], 10)
    ('healthy', 'no warning in 10 steps')
    >>> judge([], 10, has_norms=False)
    ('healthy', 'no warning in 10 steps, judged without gradients')
    >>> judge([], 10, noted=3, warned=1)
    ('healthy', 'no lasting fault in 10 steps; 3 noted, 1 warning among them')
    """
    verdict = verdict_of(findings)
    alarming = [finding for finding in findings if finding.severity != "info"]
    if alarming:
        return verdict, _reason(alarming)
    reason = f"no lasting fault in {steps} steps" if warned else f"no warning in {steps} steps"
    if any(finding.code == "too-short" for finding in findings):
        reason += ", too few to judge"
    elif not has_norms:
        reason += ", judged without gradients"
    if noted > warned > 0:
        return verdict, f"{reason}; {noted} noted, {count(warned, 'warning')} among them"
    if noted:
        return verdict, f"{reason}; {count(warned, 'warning') if warned else noted} noted"
    return verdict, reason


def _reason(alarming: Sequence[Finding]) -> str:
    first, *others = alarming
    if all(finding.code in ENDINGS for finding in alarming):
        return f"{first.what}; until then the gradients had no lasting fault"
    ending = next((finding for finding in others if finding.code in ENDINGS), None)
    return first.what if ending is None else f"{first.what}; {ending.what}"


def order_of_optimizers(findings: Sequence[Finding], with_steps: Sequence[str]) -> list[str]:
    """The optimizers that have steps: those with a warning or worse first, in the order of the findings.

    >>> order_of_optimizers([], ["actor", "critic"])
    ['actor', 'critic']
    """
    faulty = [one.optimizer for one in findings if one.severity != "info" and one.optimizer is not None]
    return list(dict.fromkeys([*(name for name in faulty if name in with_steps), *with_steps]))


def shown_optimizer(findings: Sequence[Finding], with_steps: Sequence[str]) -> str | None:
    """The optimizer that a report shows where none is named; None: none has steps."""
    return next(iter(order_of_optimizers(findings, with_steps)), None)
