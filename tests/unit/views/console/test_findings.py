"""The findings of a report: cause and confirmation of the headline's, the others by severity, nothing made up."""

from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.analysis.diagnosis import Finding
from gradwatch.testing import steady, stream, write_run
from gradwatch.views.console.findings import cause_lines, finding_lines, headline_finding, next_lines
from gradwatch.views.console.report import report
from gradwatch.views.console.screen import Ink, Screen


def finding(code, severity="warning", **more):
    usual = {"certainty": "likely", "remedy": f"do {code}"}
    usual |= {part: f"{part} {code}" for part in ("what", "cause", "confirm")}
    return Finding(code=code, severity=severity, **usual | more)


FOUND = (finding("diverged", "critical"), finding("clip-starves"), finding("spike", "info"))


@pytest.fixture
def summary(tmp_path):
    return Run(write_run(tmp_path / "run", stream(steady(50)))).summary()


def plain(lines):
    return [line.plain for line in lines]


def test_the_headline_is_about_the_first_warning_or_worse():
    assert headline_finding(FOUND) is FOUND[0]
    assert headline_finding([FOUND[2], FOUND[1]]) is FOUND[1]
    assert headline_finding([FOUND[2]]) is None
    assert headline_finding([]) is None


def test_cause_and_confirmation_are_those_of_the_headline(summary):
    shown = replace(summary, findings=FOUND, next="the next thing")
    assert plain(cause_lines(shown, Screen())) == ["  cause (likely): cause diverged"]
    assert plain(next_lines(shown, Screen())) == ["next: the next thing", "confirm: confirm diverged"]


def test_the_other_findings_follow(summary):
    assert plain(finding_lines(replace(summary, findings=FOUND), Screen(), 6)) == [
        "findings",
        "  warning  clip-starves what clip-starves",
        "  info     spike        what spike",
        "  `gradwatch explain CODE` explains each and its fix",
    ]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_findings_that_are_not_shown_are_counted(summary, most):
    many = (FOUND[0], *(finding(f"code-{i}", "info") for i in range(4)))
    lines = plain(finding_lines(replace(summary, findings=many), Screen(), most))
    assert len(lines) == most + 2
    assert lines[-1] == f"  {4 - most} more findings; `gradwatch report --json` has every one"


def test_a_healthy_run_has_neither_cause_nor_findings_nor_confirmation(summary):
    healthy = replace(summary, findings=())
    assert cause_lines(healthy, Screen()) == []
    assert finding_lines(healthy, Screen(), 6) == []
    assert plain(next_lines(replace(healthy, next="nothing"), Screen())) == ["next: nothing"]


def test_a_report_has_every_part_and_no_control_character(summary, drawn):
    hostile = finding("diverged", "critical", cause="\x1b[31mred", what="é", confirm="a\nb")
    lines = drawn(report(replace(summary, findings=(hostile, FOUND[1])), Screen(ink=Ink(ascii=True, colour=False))), 80)
    text = "\n".join(lines)
    assert text.isascii()
    assert "\x1b" not in text
    assert "cause (likely): \\x1b[31mred" in text
    assert "confirm: a\\nb" in text
    assert max(map(len, lines)) <= 80
