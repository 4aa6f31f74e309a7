"""`gradwatch check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import typer

from gradwatch.analysis.diagnosis import PAGES, Finding
from gradwatch.analysis.history import is_imported
from gradwatch.analysis.places import runs_below
from gradwatch.analysis.run import Run
from gradwatch.analysis.summary import RunSummary
from gradwatch.analysis.summary.verdict import ENDINGS
from gradwatch.cli.output import NOT_HEALTHY, open_run, print_json, screen
from gradwatch.cli.printing import print_lines
from gradwatch.errors import BadArgument, CannotExport, GradwatchError
from gradwatch.record import KINDS
from gradwatch.text import printable, share
from gradwatch.views.json import check as check_json

_FATAL = {"warning": ("warning", "critical"), "critical": ("critical",)}
"""The severities that each option value of ``--fail-on`` stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run has to keep to; see `find_faults`."""

    fail_on: tuple[str, ...] = ()
    max_clipped_fraction: float | None = None
    min_steps: int | None = None
    allow_unfinished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A run with its faults. A run that can't be read has no summary, and the reason is its fault."""

    run: Path
    faults: tuple[str, ...]
    summary: RunSummary | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as in the JSON of one run, with its path."""
        if self.summary is None:
            found = {
                "run": self.run.name,
                "healthy": False,
                "verdict": None,
                "faults": list(self.faults),
                "findings": [],
            }
        else:
            found = check_json(self.summary, self.faults)
        return found | {"path": str(self.run)}


def check(paths: Sequence[Path], json: bool, limits: Limits, junit: Path | None, github: bool) -> None:
    """Print each fault of one run or of many and exit with code 3, or print that all are healthy."""
    check_names(limits.fail_on)
    if json and github:
        raise BadArgument("--json and --github were both given; expected one of them.")
    checked = _check_all(paths, limits)
    if junit is not None:
        _write(junit, junit_xml(checked))
    if json:
        print_json(as_json(checked))
    else:
        _print(checked, github)
    if _count_faulty(checked):
        raise typer.Exit(NOT_HEALTHY)


def as_json(checked: Sequence[Checked]) -> dict[str, Any]:
    """``healthy`` of all and an entry for each in ``runs``; the keys of the only run also stand beside them."""
    runs = [one.as_dict() for one in checked]
    return (runs[0] if len(runs) == 1 else {"healthy": not _count_faulty(checked)}) | {"runs": runs}


def _check_all(paths: Sequence[Path], limits: Limits) -> list[Checked]:
    """Check every run below the paths, or the only run if no path is given."""
    runs = [run for path in paths for run in runs_below(path) or [path]]
    if len(runs) > 1:
        return [_checked_or_unreadable(run, limits) for run in runs]
    return [_checked(open_run(runs[0] if runs else None), limits)]


def _checked(run: Run, limits: Limits) -> Checked:
    summary = run.summary()
    faults = find_faults(
        run,
        summary,
        limits.fail_on,
        max_clipped_fraction=limits.max_clipped_fraction,
        min_steps=limits.min_steps,
        allow_unfinished=limits.allow_unfinished,
    )
    return Checked(run=run.path, faults=tuple(faults), summary=summary)


def _checked_or_unreadable(path: Path, limits: Limits) -> Checked:
    """One of many: what is wrong with it must not hide the others."""
    try:
        return _checked(Run(path), limits)
    except GradwatchError as error:
        return Checked(run=path, faults=(str(error),), summary=None)


def _count_faulty(checked: Sequence[Checked]) -> int:
    return sum(bool(one.faults) for one in checked)


def _print(checked: Sequence[Checked], github: bool) -> None:
    ink = screen().ink
    for one in checked:
        for fault in one.faults:
            if github:
                typer.echo(github_annotation(str(one.run), fault))
            else:
                print_lines(ink.safe(fault if len(checked) == 1 else f"{one.run}: {fault}"))
    if not _count_faulty(checked):
        print_lines("healthy" if len(checked) == 1 else f"healthy: {len(checked)} runs")
    elif len(checked) > 1:
        print_lines(f"{_count_faulty(checked)} of {len(checked)} runs are not healthy")


def github_annotation(run: str, fault: str) -> str:
    r"""A fault as a workflow command of GitHub Actions, escaped as @actions/core does.

    >>> github_annotation("runs/a,b", "100% lost\nhere")
    '::error title=gradwatch runs/a%2Cb::100%25 lost%0Ahere'
    """
    message = fault.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    title = run.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::error title=gradwatch {title}::{message}"


def junit_xml(checked: Sequence[Checked]) -> str:
    """The result as JUnit XML: a suite with a test case for each run, which fails with its faults."""
    suite = ElementTree.Element(
        "testsuite", name="gradwatch", tests=str(len(checked)), failures=str(_count_faulty(checked)), errors="0"
    )
    for one in checked:
        case = ElementTree.SubElement(suite, "testcase", classname="gradwatch", name=printable(str(one.run)))
        if one.faults:
            text = printable(one.faults[0])
            failure = ElementTree.SubElement(case, "failure", message=text, type="gradwatch")
            failure.text = "\n".join(map(printable, one.faults))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotExport(f"{str(file)!r} can't be written: {error}.") from error


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
        min_steps: the least number of steps, of an imported history those up to its last row; None: as many as a
            diagnosis needs.
        allow_unfinished: pass a run that an exception, a signal or a kill ended.
    """
    passed = {*(ENDINGS if allow_unfinished else ()), *(() if min_steps is None else ("too-short",))}
    found = [finding for finding in summary.findings if finding.code not in passed]
    faults = [f"{f.severity} {f.code}{_at(f)}: {f.what}" for f in found if _is_fatal(f, fail_on)]
    faults += _named_events(summary, fail_on)
    reached = _reached(run, summary)
    if min_steps is not None and reached < min_steps:
        faults.append(f"{reached} steps are recorded, fewer than {min_steps}")
    return faults if max_clipped_fraction is None else faults + _clipped_too_often(run, summary, max_clipped_fraction)


def _reached(run: Run, summary: RunSummary) -> int:
    """The recorded steps; of an imported history, whose rows may each stand for several, those up to the last row."""
    return max(summary.steps, summary.last_step if is_imported(run.meta()) else 0)


def _named_events(summary: RunSummary, kinds: Sequence[str]) -> list[str]:
    return [
        f"{event.severity} {event.kind} at step {event.step}{_of(summary, event.optimizer)}: {event.message}"
        for event in summary.events
        if event.severity != "info" and event.kind in kinds
    ]


def _clipped_too_often(run: Run, summary: RunSummary, limit: float) -> list[str]:
    clipped = run.steps_to_read().groupby("optimizer")["clipped"].mean()
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
