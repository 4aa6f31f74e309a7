"""The optimizer that a view shows unless it is told: the one that the verdict is about."""

from dataclasses import replace

import pytest

from gradwatch import Run
from gradwatch.analysis.worst_optimizer import by_severity, worst_optimizer
from gradwatch.record import Event
from gradwatch.store import StoreWriter
from gradwatch.testing import stream


def written(folder, steps, events=()):
    """A run of optimizers with so many steps each; events are pairs of an optimizer and a severity."""
    writer = StoreWriter(folder)
    writer.begin_attempt({}, dict.fromkeys(steps, ("SGD", {})))
    for name, amount in steps.items():
        writer.append(
            [replace(record, optimizer=name, layers=None, weights=None) for record in stream([1.0] * amount)],
            [],
        )
    found = [
        Event(step=i, kind="spike", severity=severity, message="", optimizer=name)
        for i, (name, severity) in enumerate(events)
    ]
    writer.append([], found)
    writer.end_attempt("closed")
    return Run(folder)


@pytest.mark.parametrize(
    ("steps", "events", "worst"),
    [
        pytest.param({"a": 3}, [("a", "critical")], "a", id="one optimizer"),
        pytest.param({"a": 3, "b": 3}, [], "a", id="nothing happened: the first"),
        pytest.param({"a": 0, "b": 3}, [], "b", id="one that never steps is not shown"),
        pytest.param({"a": 3, "b": 3}, [("a", "warning"), ("b", "critical")], "b", id="the most severe event"),
        pytest.param({"a": 3, "b": 3}, [("b", "warning"), ("a", "warning")], "b", id="of equals the first event"),
        pytest.param({"a": 3, "b": 0}, [("b", "critical")], "a", id="not one without a step, whatever its events"),
        pytest.param({"a": 0, "b": 0}, [], "a", id="no step at all"),
        pytest.param({}, [], "0", id="no optimizer at all"),
    ],
)
def test_the_worst_optimizer(tmp_path, steps, events, worst):
    assert worst_optimizer(written(tmp_path, steps, events)) == worst


def test_a_notebook_shows_the_optimizer_that_the_verdict_is_about(tmp_path):
    run = written(tmp_path, {"generator": 3, "critic": 3}, [("critic", "critical")])
    assert "optimizer critic of generator, critic" in run._repr_html_()


def test_the_others_follow_by_their_events_and_those_without_a_step_are_left_out(tmp_path):
    events = [("a", "info"), ("d", "critical"), ("b", "warning"), ("c", "critical")]
    run = written(tmp_path, {"a": 1, "b": 1, "c": 1, "d": 1, "quiet": 1, "idle": 0}, events)
    assert by_severity(run) == ["d", "c", "b", "a", "quiet"]
