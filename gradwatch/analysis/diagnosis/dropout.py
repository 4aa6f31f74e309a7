"""How much of the scatter of the norms may be dropout's: told where it explains most of it, which is seldom."""

from __future__ import annotations

import numpy as np

from gradwatch.analysis.diagnosis.facts import Facts, OptimizerFacts
from gradwatch.analysis.diagnosis.finding import Finding, Quantity
from gradwatch.analysis.statistics.recovery import noise_of
from gradwatch.text import number
from gradwatch.text import share as percentage

LARGE_SHARE = 0.5  # of the units: less made norms scatter by 2% in a small network (docs/policies.md)
SCATTER = 0.1  # from step to step: with all data in a batch, 0.5 made 3.5% and 0.9 made 5.6%; batches make more


def dropout_noise(facts: Facts, optimizer: OptimizerFacts) -> Finding | None:
    """Norms that scatter no more than the dropout of the model explains."""
    norms = optimizer.history.norms
    if facts.dropout < LARGE_SHARE or len(norms) < 2:
        return None
    scatter = noise_of(np.log(norms))
    if not 0 < scatter < SCATTER:
        return None
    return Finding(
        code="dropout-noise",
        severity="info",
        certainty="possible",
        what=f"the norms{facts.of(optimizer)} scatter by {percentage(scatter)} from step to step, no more than dropout"
        f" explains: the model drops up to {number(facts.dropout, 6)} of its units",
        optimizer=optimizer.name,
        steps=optimizer.span,
        evidence={
            "scatter": Quantity(scatter, "robust deviation of the norm's logarithm"),
            "dropout": Quantity(facts.dropout, "share of the units, the largest of the model"),
        },
        cause="dropout switches off other units at each step, which makes some percent even where each batch holds all"
        " data",
        remedy="nothing is to be mended, and no threshold removes this scatter; a lower dropout does",
        confirm="train some steps with all data in a batch, with dropout and without: the scatter should differ",
    )


RULES = (dropout_noise,)
