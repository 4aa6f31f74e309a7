"""`gradwatch events`: all of them, or some kinds, or those that are severe enough."""

import json

import pytest

KEYS = ["step", "kind", "severity", "parameter", "observed", "limit", "message"]


def found(done):
    return json.loads(done.out)


def test_every_event_is_listed(runs, command):
    everything = found(command("events", runs / "bad", "--json"))
    assert {"explosion", "nonfinite"} <= {event["kind"] for event in everything}
    assert all(list(event)[:7] == KEYS for event in everything)
    assert "step 701" in command("events", runs / "bad").out


def test_kinds_can_be_selected(runs, command):
    only = found(command("events", runs / "bad", "--json", "--kind", "nonfinite"))
    assert {event["kind"] for event in only} == {"nonfinite"}
    two = found(command("events", runs / "bad", "--json", "--kind", "nonfinite", "--kind", "explosion"))
    assert {event["kind"] for event in two} == {"nonfinite", "explosion"}


@pytest.mark.parametrize(
    ("severity", "left"),
    [("info", {"info", "warning", "critical"}), ("warning", {"warning", "critical"}), ("critical", {"critical"})],
)
def test_severe_events_can_be_selected(runs, command, severity, left):
    kept = found(command("events", runs / "bad", "--json", "--severity", severity))
    everything = found(command("events", runs / "bad", "--json"))
    assert kept == [event for event in everything if event["severity"] in left]


def test_a_run_without_events_says_so(runs, command):
    assert command("events", runs / "good").out == "No events.\n"
    assert found(command("events", runs / "good", "--json")) == []


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--kind", "explosions", "'explosions' is not a kind of event; expected one of nonfinite, "),
        ("--severity", "high", "--severity is 'high'; expected one of info, warning, critical"),
    ],
)
def test_an_unknown_selection_names_the_known_ones(runs, command, option, value, says):
    done = command("events", runs / "bad", option, value)
    assert (done.code, done.out) == (1, "")
    assert says in done.err
