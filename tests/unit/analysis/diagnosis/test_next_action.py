"""The next thing to do, from the findings."""

import pytest

from gradwatch.analysis.diagnosis import Finding
from gradwatch.analysis.diagnosis.next_action import next_action


def finding(code="spike", severity="warning"):
    texts = {"what": f"{code} happened", "cause": "a cause", "remedy": f"mend {code}", "confirm": "look"}
    return Finding(code=code, severity=severity, certainty="shown", optimizer="0", **texts)


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
