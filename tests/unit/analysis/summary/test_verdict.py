"""The word for a run, and its reason."""

import pytest

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.summary.verdict import judge, shown_optimizer, verdict_of


def finding(code="spike", severity="warning", optimizer="0", **more):
    texts = {"what": f"{code} happened", "cause": "a cause", "remedy": f"mend {code}", "confirm": "look"}
    return Finding(code=code, severity=severity, certainty="shown", optimizer=optimizer, **texts | more)


@pytest.mark.parametrize(
    ("findings", "verdict", "reason"),
    [
        ([], "healthy", "no warning in 90 steps"),
        ([finding(severity="info")], "healthy", "no warning in 90 steps"),
        ([finding("too-short", "info")], "healthy", "no warning in 90 steps, too few to judge"),
        ([finding("vanishing"), finding("spike", "info")], "warning", "vanishing happened"),
        ([finding("diverged", "critical"), finding("vanishing")], "critical", "diverged happened"),
        ([finding("died")], "warning", "died happened; until then the gradients had no lasting fault"),
        ([finding("diverged", "critical"), finding("died")], "critical", "diverged happened; died happened"),
    ],
)
def test_the_verdict_is_the_first_of_the_worst(findings, verdict, reason):
    assert judge(findings, 90) == (verdict, reason)
    assert verdict_of(findings) == verdict


def test_events_are_mentioned_where_all_is_well():
    assert judge([], 9, noted=3)[1] == "no warning in 9 steps; 3 noted"
    assert judge([], 9, noted=1, warned=1)[1] == "no lasting fault in 9 steps; 1 warning noted"
    assert judge([finding()], 9, noted=3)[1] == "spike happened"


def test_the_worst_optimizer_that_has_steps_is_shown():
    findings = [finding("no-steps", optimizer="c"), finding(optimizer="b"), finding(optimizer="a")]
    assert shown_optimizer(findings, ["a", "b"]) == "b"
    assert shown_optimizer([finding(severity="info", optimizer="b")], ["a", "b"]) == "a"
    assert shown_optimizer([], []) is None
