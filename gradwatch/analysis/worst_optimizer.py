"""Which of several optimizers a view shows unless it is told."""

from __future__ import annotations

from gradwatch.analysis.history import RunReader
from gradwatch.record import SEVERITIES


def worst_optimizer(reader: RunReader) -> str:
    """The optimizer of the event that gives the run its verdict: the first of the most severe events.

    Only optimizers that made a step count. Without such an event it is the first of them, and in a run
    without a step the first of all.

    >>> from gradwatch import Run
    >>> worst_optimizer(Run(example_run))
    '0'
    """
    if len(reader.optimizers) < 2:
        return reader.optimizer()
    stepped = [name for name in reader.optimizers if len(reader.standing(name))]
    events = [event for event in reader.events() if event.optimizer in stepped]
    if events:
        return max(events, key=lambda event: SEVERITIES.index(event.severity)).optimizer
    return reader.optimizer(stepped[0] if stepped else None)
