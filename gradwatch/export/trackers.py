"""A recorded run, sent to an experiment tracker as if it had been recorded with it."""

from __future__ import annotations

import heapq

from gradwatch.analysis.history import is_imported
from gradwatch.analysis.run import Run
from gradwatch.errors import CannotExport, EmptyRun
from gradwatch.record import small
from gradwatch.sinks.tracker import Closing, RunFacts, Tracker, hint


def send_run(run: Run, tracker: Tracker) -> int:
    """Send the records of all optimizers in order, the events and the verdict; return the number of records.

    Raises:
        CannotExport: the tracker failed.
    """
    names = list(run.optimizers)
    facts = RunFacts(
        path=run.path, config=run.config(), several=len(names) > 1, knows_clipping=not is_imported(run.meta())
    )
    count = 0
    try:
        tracker.open(facts)
        for record in heapq.merge(*(run.records(name) for name in names), key=lambda record: record.wall_time):
            tracker.show(record if tracker.wants_layers else small(record))
            count += 1
        for event in run.events():
            tracker.tell(event)
        tracker.close(closing_of_run(run))
    except Exception as error:  # trackers raise many types, and their messages may hold a key
        raise CannotExport(
            f"{tracker.label} failed with {type(error).__name__} after {count} steps.{hint(tracker.label)}"
        ) from error
    return count


def closing_of_run(run: Run) -> Closing:
    """The facts of a run that a tracker gets at its end.

    >>> closing_of_run(Run(example_run))["verdict"]
    'healthy'
    """
    try:
        summary = run.summary()
    except EmptyRun:
        return {"steps": 0}
    fault = next((finding for finding in summary.findings if finding.severity != "info"), None)
    return {
        "verdict": summary.verdict,
        "reason": summary.reason,
        "next": summary.next,
        "fault": None if fault is None else fault.code,
        "fault_step": None if fault is None or fault.steps is None else fault.steps[0],
        "ended": summary.ended,
        "steps": summary.steps,
        "norm_median": summary.total_norm.median,
        "norm_max": summary.total_norm.max,
        "share_clipped": summary.clipping.clipped_fraction,
        "nonfinite_steps": summary.nonfinite_steps,
    }
