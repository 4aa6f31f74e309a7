"""`gradwatch check`."""

from __future__ import annotations

from pathlib import Path

import typer

from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import summarize
from gradwatch.cli.commands.events import check_kinds
from gradwatch.cli.output import NOT_HEALTHY, open_run, print_json, screen
from gradwatch.record import Event
from gradwatch.text import share

_FATAL = {"warning": ("warning", "critical"), "critical": ("critical",)}
"""The severities that each option value of ``--fail-on`` stands for."""


def check(path: Path | None, json: bool, fail_on: list[str], max_clipped_fraction: float | None) -> None:
    """Print each fault of a run and exit with code 3, or print that it is healthy."""
    check_kinds([kind for kind in fail_on if kind not in _FATAL])
    run = open_run(path)
    faults = find_faults(run, fail_on, max_clipped_fraction)
    if json:
        print_json({"run": run.name, "healthy": not faults, "faults": faults})
    else:
        ink = screen().ink
        for line in faults or ["healthy"]:
            typer.echo(ink.safe(line))
    if faults:
        raise typer.Exit(NOT_HEALTHY)


def find_faults(run: Run, fail_on: list[str], max_clipped_fraction: float | None) -> list[str]:
    """One line for each reason why a run fails.

    Args:
        run: to check, all its optimizers.
        fail_on: kinds of event or severities; any warning or worse if it is empty.
        max_clipped_fraction: the largest share of an optimizer's steps that may be clipped.

    Raises:
        EmptyRun: no step has been recorded.
    """
    several = len(run.optimizers) > 1
    summaries = [summarize(run, name, layers=False) for name in _stepped(run)]
    faults = []
    for event in summaries[0].events:
        if _is_fatal(event, fail_on):
            where = f" of optimizer {event.optimizer}" if several else ""
            faults.append(f"{event.severity} {event.kind} at step {event.step}{where}: {event.message}")
    for summary in summaries:
        fraction = summary.clipping.clipped_fraction or 0.0
        if max_clipped_fraction is not None and fraction > max_clipped_fraction:
            where = f" of optimizer {summary.optimizer}" if several else ""
            faults.append(
                f"{share(fraction)} of the steps{where} were clipped, more than {share(max_clipped_fraction)}"
            )
    return faults


def _stepped(run: Run) -> list[str]:
    """The optimizers that made a step, or else the first."""
    return [name for name in run.optimizers if len(run.standing(name))] or [run.optimizer()]


def _is_fatal(event: Event, fail_on: list[str]) -> bool:
    if event.severity == "info":
        return False
    severities = {severity for name in fail_on for severity in _FATAL.get(name, ())}
    return not fail_on or event.kind in fail_on or event.severity in severities
