"""Which of several optimizers a view shows unless it is told."""

from __future__ import annotations

from gradwatch.analysis.history import RunReader
from gradwatch.record import SEVERITIES


def by_severity(reader: RunReader) -> list[str]:
    """The optimizers that made a step, those with the most severe events first, of equals the earliest event.

    In a run without a step it is the first optimizer.
    """
    stepped = [name for name in reader.optimizers if len(reader.standing(name))]
    if len(stepped) < 2:
        return stepped or [reader.optimizer()]
    events = sorted(reader.events(), key=lambda event: -SEVERITIES.index(event.severity))
    named = dict.fromkeys(event.optimizer for event in events)
    return [*(name for name in named if name in stepped), *(name for name in stepped if name not in named)]


def worst_optimizer(reader: RunReader) -> str:
    """The optimizer of the event that gives the run its verdict: the first of the most severe events.

    >>> from gradwatch import Run
    >>> worst_optimizer(Run(example_run))
    '0'
    """
    return by_severity(reader)[0]
