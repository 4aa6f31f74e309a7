"""The findings of a report: the cause behind the headline, the other findings, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.summary import RunSummary
from gradwatch.text import count
from gradwatch.views.console.screen import SEVERITY_STYLES, Screen


def cause_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The cause of the finding that the headline tells, and how certain it is."""
    told = headline_finding(summary.findings)
    return [] if told is None else screen.wrap(f"  cause ({told.certainty}): ", told.cause)


def finding_lines(summary: RunSummary, screen: Screen, most: int) -> list[Text]:
    """The findings that the headline does not tell, the most severe first."""
    told = headline_finding(summary.findings)
    others = [finding for finding in summary.findings if finding is not told]
    if not others:
        return []
    lines = [Text("findings", "bold")]
    width = max((len(finding.code) for finding in others[:most]), default=0)
    for finding in others[:most]:
        lead = f"  {finding.severity:<9}{finding.code:<{width}} "
        lines += screen.wrap(lead, finding.what, SEVERITY_STYLES[finding.severity])
    hidden = len(others) - most
    if hidden > 0:
        lines.append(Text(f"  {count(hidden, 'more finding')}; `gradwatch report --json` has every one", "dim"))
    else:
        lines.append(Text("  `gradwatch explain CODE` explains each and its fix", "dim"))
    return lines


def step_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The next thing to do."""
    return screen.wrap("next: ", summary.next, "bold")


def next_lines(summary: RunSummary, screen: Screen) -> list[Text]:
    """The next thing to do, and how to confirm the finding that it is for."""
    lines = step_lines(summary, screen)
    told = headline_finding(summary.findings)
    return lines if told is None else [*lines, *screen.wrap("confirm: ", told.confirm, "bold")]


def headline_finding(findings: Sequence[Finding]) -> Finding | None:
    """The finding that the verdict is about: the first warning or worse; None for a healthy run."""
    return next((finding for finding in findings if finding.severity != "info"), None)
