"""The next thing to do with a training, in words, from its findings."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.analysis.diagnosis.finding import Finding
from gradwatch.text import share

MOSTLY_CLIPPED = 0.5  # of the steps: the threshold then sets the size of the usual update


def next_action(findings: Sequence[Finding], *, clipped_fraction: float | None) -> str:
    """The next thing to do: the remedy of the gravest finding; where nothing is wrong, train on.

    A training that is well needs no other threshold. Only one that clips most of its steps depends on the value so
    much that a comparison pays.

    >>> next_action([], clipped_fraction=0.05)
    'nothing is wrong; keep the settings and train on'
    """
    alarming = [finding for finding in findings if finding.severity != "info"]
    if alarming:
        first = alarming[0]
        return f"{first.remedy} (`gradwatch explain {first.code}`)"
    short = next((finding for finding in findings if finding.code == "too-short"), None)
    if short is not None:
        return f"nothing is wrong so far; {short.remedy}"
    overfitting = next((finding for finding in findings if finding.code == "overfitting"), None)
    if overfitting is not None:
        return f"nothing is wrong with the gradients; {overfitting.remedy} (`gradwatch explain overfitting`)"
    if clipped_fraction is not None and clipped_fraction > MOSTLY_CLIPPED:
        return (
            f"nothing is wrong; clipping sets the size of {share(clipped_fraction)} of the steps, so compare the"
            " threshold with others (`gradwatch recommend`) when you tune the learning rate"
        )
    return "nothing is wrong; keep the settings and train on"
