"""The word for a run, its reason, and the next thing to do."""

import pytest

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.summary.verdict import judge, next_action, shown_optimizer, verdict_of


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
        ([finding("died")], "warning", "died happened; until then the gradients were healthy"),
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


def test_the_next_thing_is_the_remedy_of_the_first_finding():
    assert next_action([finding("diverged", "critical"), finding()], clipped_fraction=0.9) == (
        "mend diverged (`gradwatch explain diverged`)"
    )


@pytest.mark.parametrize("fraction", [None, 0.0, 0.5])
def test_where_nothing_is_wrong_nothing_is_to_be_changed(fraction):
    assert next_action([finding(severity="info")], clipped_fraction=fraction).endswith("keep the settings and train on")


def test_a_threshold_that_clips_most_steps_is_worth_a_comparison():
    assert "of 90% of the steps" in next_action([], clipped_fraction=0.9)


def test_of_a_short_run_more_steps_are_next():
    assert "so far; mend too-short" in next_action([finding("too-short", "info")], clipped_fraction=0.9)


def test_the_worst_optimizer_that_has_steps_is_shown():
    findings = [finding("no-steps", optimizer="c"), finding(optimizer="b"), finding(optimizer="a")]
    assert shown_optimizer(findings, ["a", "b"]) == "b"
    assert shown_optimizer([finding(severity="info", optimizer="b")], ["a", "b"]) == "a"
    assert shown_optimizer([], []) is None
