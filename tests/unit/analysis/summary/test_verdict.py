"""The word for a run, its reason, and the next thing to do."""

import math

import pytest

from gradwatch import Run
from gradwatch.analysis.summary import summarize
from gradwatch.analysis.summary.verdict import judge, next_action, nonfinite_fault
from gradwatch.record import Event
from gradwatch.testing import steady, stream, write_run


def event(severity, step, kind="spike", **more):
    return Event(step=step, kind=kind, severity=severity, message="...", **more)


@pytest.mark.parametrize(
    ("events", "verdict", "reason"),
    [
        ([], "healthy", "no warning in 9 steps"),
        ([event("info", 3)], "healthy", "no warning in 9 steps; 1 noted"),
        ([event("warning", 3), event("info", 1)], "warning", "norm spiked at step 3"),
        (
            [event("warning", 3), event("critical", 7, "explosion", parameter="rnn.w"), event("critical", 8)],
            "critical",
            "exploded at step 7, first in rnn.w",
        ),
        ([event("critical", 2, "something new")], "critical", "something new at step 2"),
        (
            [event("critical", 5, "nonfinite", limit=0.0, parameter="a.w", origin="weights")],
            "critical",
            "gradients not finite at step 5: the weights of a.w were not before it",
        ),
        (
            [event("critical", 5, "nonfinite", limit=0.0, origin="loss")],
            "critical",
            "gradients not finite at step 5, with the loss",
        ),
        (
            [event("critical", 5, "nonfinite", limit=0.0, parameter="a.w", origin="backward")],
            "critical",
            "gradients not finite at step 5, first in a.w; the loss was",
        ),
        (
            [event("warning", 5, parameter="a.w", origin="backward")],
            "warning",
            "norm spiked at step 5, first in a.w; the loss did not rise",
        ),
    ],
)
def test_the_verdict_is_the_first_of_the_worst(events, verdict, reason):
    assert judge(events, 9) == (verdict, reason)


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("backward", "look at the backward of the parameter named"),
        ("weights", "look at the update before that step"),
        ("loss", "look at what enters the loss"),
        (None, "look at what enters the loss"),
    ],
)
def test_what_to_do_about_a_nan_depends_on_where_it_came_from(tmp_path, origin, advice):
    folder = write_run(tmp_path / "run", stream(steady(50)))
    run = Run(folder)
    found = Event(step=7, kind="nonfinite", severity="critical", message="...", parameter="w", origin=origin)
    assert next_action([found], summarize(run).clipping).startswith(advice)


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"limit": 0.0, "observed": 3.0}, "entries"),
        ({"observed": math.inf, "parameter": "w"}, "norm"),
        ({"observed": math.inf}, "norm"),
        ({"observed": math.nan, "origin": "loss"}, "loss"),
        ({"observed": math.inf, "origin": "loss"}, "loss"),
        ({"observed": math.nan}, "loss"),  # before schema 3 no event had an origin
    ],
)
def test_what_is_not_finite_is_told_by_the_facts_of_the_event(facts, fault):
    assert nonfinite_fault(event("critical", 3, "nonfinite", **facts)) == fault
