"""`gradwatch check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from gradwatch.analysis.diagnosis import PAGES, Finding
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.analysis.summary.verdict import ENDINGS
from gradwatch.cli.output import NOT_HEALTHY, open_run, print_json, screen
from gradwatch.errors import BadArgument
from gradwatch.record import KINDS
from gradwatch.text import share
from gradwatch.views.json import check as check_json

_FATAL = {"warning": ("warning", "critical"), "critical": ("critical",)}
"""The severities that each option value of ``--fail-on`` stands for."""


def check(
    path: Path | None,
    json: bool,
    fail_on: list[str],
    max_clipped_fraction: float | None,
    min_steps: int | None,
    allow_unfinished: bool,
) -> None:
    """Print each fault of a run and exit with code 3, or print that it is healthy."""
    check_names(fail_on)
    run = open_run(path)
    summary = run.summary()
    faults = find_faults(
        run,
        summary,
        fail_on,
        max_clipped_fraction=max_clipped_fraction,
        min_steps=min_steps,
        allow_unfinished=allow_unfinished,
    )
    if json:
        print_json(check_json(summary, faults))
    else:
        ink = screen().ink
        for line in faults or ["healthy"]:
            typer.echo(ink.safe(line))
    if faults:
        raise typer.Exit(NOT_HEALTHY)


def check_names(names: Sequence[str]) -> None:
    """Check the values of ``--fail-on``.

    Raises:
        BadArgument: a name is no kind of event, no code of a finding and no severity.
    """
    for name in names:
        if name not in {*KINDS, *PAGES, *_FATAL}:
            known = ", ".join([*_FATAL, *KINDS])
            raise BadArgument(
                f"{name!r} is not a kind of event; expected one of {known}, or a code that docs/findings.md lists."
            )


def find_faults(
    run: Run,
    summary: RunSummary,
    fail_on: Sequence[str] = (),
    *,
    max_clipped_fraction: float | None = None,
    min_steps: int | None = None,
    allow_unfinished: bool = False,
) -> list[str]:
    """One line for each reason why the run fails.

    Args:
        run: to check, all its optimizers.
        summary: of the run.
        fail_on: severities, codes of findings or kinds of event; any finding of warning or worse if it is empty.
        max_clipped_fraction: the largest share of steps that may be clipped.
        min_steps: the least number of steps; None: as many as a diagnosis needs.
        allow_unfinished: pass a run that an exception, a signal or a kill ended.
    """
    passed = {*(ENDINGS if allow_unfinished else ()), *(() if min_steps is None else ("too-short",))}
    found = [finding for finding in summary.findings if finding.code not in passed]
    faults = [f"{f.severity} {f.code}{_at(f)}: {f.what}" for f in found if _is_fatal(f, fail_on)]
    faults += _named_events(summary, fail_on)
    if min_steps is not None and summary.steps < min_steps:
        faults.append(f"{summary.steps} steps are recorded, fewer than {min_steps}")
    return faults if max_clipped_fraction is None else faults + _clipped_too_often(run, summary, max_clipped_fraction)


def _named_events(summary: RunSummary, kinds: Sequence[str]) -> list[str]:
    return [
        f"{event.severity} {event.kind} at step {event.step}{_of(summary, event.optimizer)}: {event.message}"
        for event in summary.events
        if event.severity != "info" and event.kind in kinds
    ]


def _clipped_too_often(run: Run, summary: RunSummary, limit: float) -> list[str]:
    clipped = run.steps().groupby("optimizer")["clipped"].mean()
    return [
        f"{share(fraction)} of the steps{_of(summary, str(name))} were clipped, more than {share(limit)}"
        for name, fraction in clipped.items()
        if fraction > limit
    ]


def _of(summary: RunSummary, optimizer: str) -> str:
    return f" of optimizer {optimizer}" if len(summary.optimizers) > 1 else ""


def _at(finding: Finding) -> str:
    return "" if finding.steps is None else f" at step {finding.steps[0]}"


def _is_fatal(finding: Finding, fail_on: Sequence[str]) -> bool:
    if finding.code in fail_on and finding.code not in KINDS:
        return True
    severities = {severity for name in fail_on for severity in _FATAL.get(name, ())}
    return finding.severity in severities if fail_on else finding.severity != "info"
