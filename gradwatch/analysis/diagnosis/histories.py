"""Findings about imported histories, which may have only every k-th step and lack some facts."""

from __future__ import annotations

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity


def after_clipping(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Report norms recorded after clipping, which do not show what was clipped."""
    if optimizer.history.moment != "after clipping":
        return None
    return Finding(
        code="norms-after-clipping",
        severity="info",
        certainty="shown",
        what=f"the norms{facts.of(optimizer)} were recorded after clipping: none can exceed the threshold, and spikes"
        " do not show",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={"rows": Quantity(len(optimizer.frame), "rows")},
        cause="the history logs the norm of the clipped gradient",
        remedy="log the value that clip_grad_norm_ returns, which is the norm before clipping",
        confirm="plot the norms: they all end at one ceiling",
    )


RULES = (after_clipping,)
