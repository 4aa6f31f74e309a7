"""`gradwatch check`."""

from __future__ import annotations

from pathlib import Path

import typer

from gradwatch.analysis.summary import RunSummary
from gradwatch.cli.commands.events import check_kinds
from gradwatch.cli.output import NOT_HEALTHY, open_run, screen
from gradwatch.record import Event
from gradwatch.text import share

_FATAL = {"warning": ("warning", "critical"), "critical": ("critical",)}
"""The severities that each option value of ``--fail-on`` stands for."""


def check(path: Path | None, fail_on: list[str], max_clipped_fraction: float | None) -> None:
    """Print each fault of a run and exit with code 3, or print that it is healthy."""
    check_kinds([kind for kind in fail_on if kind not in _FATAL])
    faults = find_faults(open_run(path).summary(), fail_on, max_clipped_fraction)
    ink = screen().ink
    for fault in faults:
        typer.echo(ink.safe(fault))
    if faults:
        raise typer.Exit(NOT_HEALTHY)
    typer.echo("healthy")


def find_faults(summary: RunSummary, fail_on: list[str], max_clipped_fraction: float | None) -> list[str]:
    """One line for each reason why the run fails.

    Args:
        summary: of the run.
        fail_on: kinds of event or severities; any warning or worse if it is empty.
        max_clipped_fraction: the largest share of steps that may be clipped.
    """
    fatal = [event for event in summary.events if _is_fatal(event, fail_on)]
    faults = [f"{event.severity} {event.kind} at step {event.step}: {event.message}" for event in fatal]
    fraction = summary.clipping.clipped_fraction or 0.0
    if max_clipped_fraction is not None and fraction > max_clipped_fraction:
        faults.append(f"{share(fraction)} of the steps were clipped, more than {share(max_clipped_fraction)}")
    return faults


def _is_fatal(event: Event, fail_on: list[str]) -> bool:
    if event.severity == "info":
        return False
    severities = {severity for name in fail_on for severity in _FATAL.get(name, ())}
    return not fail_on or event.kind in fail_on or event.severity in severities
